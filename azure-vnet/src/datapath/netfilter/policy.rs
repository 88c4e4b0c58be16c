//! The policy as nftables: a map from destinations to verdicts, and a chain for each verdict that goes
//! by protocol and port.
//!
//! Both hooks look the destination up in the same map. `accept` ends the lookup (the pod's address stays), a
//! chain that returns leaves the packet to what follows (masquerade).

use std::fmt;
use std::net::Ipv4Addr;

use crate::masquerade::{Action, Compiled, Protocol, UNCARRIED};

/// The elements of the map; what is in none is masqueraded. What the fabric does not carry is closed where
/// it would leave the node, see [`closed`]: pods of one node may speak multicast.
pub fn destinations(policy: &Compiled) -> impl Iterator<Item = String> {
    pieces(policy).filter_map(|(first, last, number)| {
        let verdicts = &policy.verdicts()[number];
        let verdict = match verdicts.otherwise() {
            _ if !verdicts.protocols().is_empty() => format!("jump {}", chain(number)),
            // A rule that says what would be so without it.
            Action::Masquerade => return None,
            Action::Drop if !is_uncarried(first) => "drop".to_owned(),
            Action::Drop | Action::InRange | Action::Exempt => "accept".to_owned(),
        };
        Some(format!("{first}-{last} : {verdict}"))
    })
}

/// Destinations of frames that do not leave by the NIC.
pub fn closed(policy: &Compiled) -> impl Iterator<Item = String> {
    let closed = |&(first, _, number): &(Ipv4Addr, Ipv4Addr, usize)| {
        let verdicts = &policy.verdicts()[number];
        let all = verdicts.protocols().is_empty() && verdicts.otherwise() == Action::Drop;
        all && is_uncarried(first)
    };
    pieces(policy)
        .filter(closed)
        .map(|(first, last, _)| format!("{first}-{last}"))
}

/// The policy's intervals, cut at the borders of what the fabric does not carry.
fn pieces(policy: &Compiled) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr, usize)> {
    let cut = |(first, last, number): (Ipv4Addr, Ipv4Addr, usize)| {
        let mut starts: Vec<u32> = vec![first.into()];
        for prefix in UNCARRIED {
            let after = u32::from(prefix.broadcast()).checked_add(1);
            starts.extend([Some(prefix.network().into()), after].into_iter().flatten());
        }
        starts.retain(|start| (u32::from(first)..=last.into()).contains(start));
        starts.sort_unstable();
        starts.dedup();
        let ends: Vec<u32> = (starts[1..].iter().map(|next| next - 1))
            .chain([last.into()])
            .collect();
        let pieces = starts.into_iter().zip(ends);
        pieces.map(move |(first, last)| (first.into(), last.into(), number))
    };
    policy.intervals().into_iter().flat_map(cut)
}

fn is_uncarried(address: Ipv4Addr) -> bool {
    UNCARRIED.iter().any(|prefix| prefix.contains(&address))
}

fn chain(number: usize) -> String {
    format!("rules-{number}")
}

/// The chains that the map's elements lead to.
pub struct Chains<'a>(pub &'a Compiled);

impl fmt::Display for Chains<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, verdicts) in self.0.verdicts().iter().enumerate() {
            let protocols = verdicts.protocols();
            if protocols.is_empty() {
                continue;
            }
            writeln!(formatter, "    chain {} {{", chain(number))?;
            for protocol in &protocols {
                rules(formatter, protocol)?;
            }
            writeln!(formatter, "        {}", verdict(verdicts.otherwise()))?;
            writeln!(formatter, "    }}")?;
        }
        Ok(())
    }
}

fn rules(formatter: &mut fmt::Formatter<'_>, protocol: &Protocol) -> fmt::Result {
    let number = protocol.number;
    for (first, last, action) in &protocol.ports {
        // nft takes no range of one.
        let ports = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        let verdict = verdict(*action);
        writeln!(
            formatter,
            "        meta l4proto {number} th dport {ports} {verdict}"
        )?;
    }
    let verdict = verdict(protocol.otherwise);
    writeln!(formatter, "        meta l4proto {number} {verdict}")
}

fn verdict(action: Action) -> &'static str {
    match action {
        Action::Masquerade => "return",
        Action::InRange | Action::Exempt => "accept",
        Action::Drop => "drop",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::masquerade::{Preset, Rule, Source, Which};

    fn compiled(preset: Preset) -> Compiled {
        let source = Source::On {
            ranges: None,
            link_local: None,
            rules: preset.rules(),
        };
        source
            .policy("10.0.0.0/20".parse().unwrap(), None)
            .compile()
    }

    #[test]
    fn the_shipped_policy_is_four_intervals() {
        let policy = compiled(Preset::Classic);
        let text: Vec<String> = destinations(&policy).collect();
        assert_eq!(
            text,
            [
                "10.0.0.0-10.255.255.255 : accept",
                "168.63.129.16-168.63.129.16 : accept",
                "224.0.0.0-239.255.255.255 : accept",
                "255.255.255.255-255.255.255.255 : accept",
            ]
        );
        let text: Vec<String> = closed(&policy).collect();
        assert_eq!(
            text,
            [
                "224.0.0.0-239.255.255.255",
                "255.255.255.255-255.255.255.255"
            ]
        );
        assert_eq!(Chains(&policy).to_string(), "");
    }

    /// Found by the property test: such rules closed the masquerade for their destination.
    #[test]
    fn a_rule_that_changes_nothing_leaves_nothing() {
        let source = Source::On {
            ranges: Some(Vec::new()),
            link_local: Some(true),
            rules: vec![Rule {
                to: "203.0.113.0/24".parse().unwrap(),
                which: Which::Protocol(6),
                action: Action::Masquerade,
            }],
        };
        let policy = source
            .policy("10.0.0.0/20".parse().unwrap(), None)
            .compile();
        let text: Vec<String> = destinations(&policy).collect();
        assert!(
            !text.iter().any(|element| element.contains("203.")),
            "{text:?}"
        );
    }

    #[test]
    fn ports_have_chains() {
        let text = Chains(&compiled(Preset::Locked)).to_string();
        assert_eq!(
            text,
            "    chain rules-1 {
        meta l4proto 6 th dport 80 drop
        meta l4proto 6 th dport 32526 drop
        meta l4proto 6 accept
        accept
    }
"
        );
    }
}
