//! What of others may make it otherwise than the programs, or our rules, say. Whether a rule matches is its program's to tell: it is
//! quoted, and what cannot be listed is said.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::datapath::Tier;
use crate::datapath::foreign::{self, Line};

/// A sentence for each rule.
pub fn about(tier: Tier, pod: Ipv4Addr, to: Ipv4Addr) -> Vec<String> {
    let mut doubts = Vec::new();
    match foreign::iptables() {
        Ok(lines) => {
            let lines = lines.iter();
            doubts.extend(lines.filter_map(|line| of_line(line, tier, pod, to)));
        }
        Err(error) => doubts.push(format!(
            "whether rules of iptables are in the way is not known: {error}"
        )),
    }
    match foreign::nftables() {
        Ok(rules) => doubts.extend(rules.into_iter().map(|(table, rule)| {
            format!(
                "a rule of nftables that is not ours may meet the packet (table {table}): {rule}"
            )
        })),
        Err(error) => doubts.push(format!(
            "whether rules of nftables are in the way is not known: {error}"
        )),
    }
    doubts
}

fn of_line(line: &Line, tier: Tier, pod: Ipv4Addr, to: Ipv4Addr) -> Option<String> {
    let Line { table, text, .. } = line;
    let words: Vec<&str> = text.split_whitespace().collect();
    let target = after(&words, "-j");
    let is_notrack =
        target == Some("NOTRACK") || target == Some("CT") && words.contains(&"--notrack");
    let what = match (table.as_str(), tier) {
        ("raw", Tier::Netfilter) if is_notrack => {
            "what it matches is not tracked, and is dropped out of the ranges"
        }
        ("nat", _) if masquerades(&words, pod) => "it masquerades pods before the policy is asked",
        ("nat", _) if target == Some("DNAT") && is_for(&words, to) => {
            "it changes the destination before the policy is asked"
        }
        _ => return None,
    };
    Some(format!(
        "a rule of iptables may match the packet, and {what}: {text}"
    ))
}

/// A rule of POSTROUTING for sources among which the pod is. Those of kube-proxy, portmap and docker go by a mark, a chain of
/// their own, or a source of their own.
fn masquerades(words: &[&str], pod: Ipv4Addr) -> bool {
    let source = words
        .iter()
        .position(|word| *word == "-s")
        .is_none_or(|at| {
            let negated = at > 0 && words[at - 1] == "!";
            let prefix = words.get(at + 1).and_then(|it| it.parse::<Ipv4Net>().ok());
            prefix.is_some_and(|prefix| prefix.contains(&pod) != negated)
        });
    after(words, "-A") == Some("POSTROUTING")
        && matches!(after(words, "-j"), Some("MASQUERADE" | "SNAT"))
        && !words.contains(&"--mark")
        && source
}

/// Whether a rule names a destination, and this is in it.
fn is_for(words: &[&str], to: Ipv4Addr) -> bool {
    let named = after(words, "-d").and_then(|prefix| prefix.parse::<Ipv4Net>().ok());
    named.is_some_and(|prefix| prefix.contains(&to))
}

fn after<'a>(words: &[&'a str], flag: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == flag)?;
    words.get(at + 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
    const TO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

    fn doubt(tier: Tier, table: &str, text: &str) -> Option<String> {
        let line = Line {
            program: "iptables-nft-save",
            table: table.to_owned(),
            text: text.to_owned(),
            number: 1,
        };
        of_line(&line, tier, POD, TO)
    }

    #[test]
    fn rules_in_the_way_are_quoted() {
        for (table, rule) in [
            (
                "raw",
                "-A PREROUTING -p udp -m udp --dport 53 -j CT --notrack",
            ),
            ("raw", "-A PREROUTING -p udp -m udp --dport 53 -j NOTRACK"),
            ("nat", "-A POSTROUTING ! -d 10.0.0.0/8 -j MASQUERADE"),
            (
                "nat",
                "-A PREROUTING -d 203.0.113.0/24 -p udp -j DNAT --to-destination 10.0.0.9:53",
            ),
        ] {
            let doubt = doubt(Tier::Netfilter, table, rule);
            assert!(doubt.is_some_and(|text| text.ends_with(rule)), "{rule}");
        }
    }

    #[test]
    fn others_are_not() {
        for (table, rule) in [
            ("raw", "-A PREROUTING -j CT --zone 1"),
            ("filter", "-A FORWARD -j ACCEPT"),
            ("nat", "-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE"),
            (
                "nat",
                "-A PREROUTING -d 10.96.0.1/32 -p udp -j DNAT --to-destination 10.0.0.9:53",
            ),
            (
                "nat",
                "-A KUBE-SEP-X -p tcp -j DNAT --to-destination 10.0.0.9:53",
            ),
        ] {
            assert_eq!(doubt(Tier::Netfilter, table, rule), None, "{rule}");
        }
    }
}
