//! The policy as nftables: a map from destinations to verdicts, and a chain for each verdict that goes
//! by protocol and port.
//!
//! Both hooks look the destination up in the same map. `accept` ends the lookup (the pod's address stays), a
//! chain that returns leaves the packet to what follows (masquerade).

use std::fmt;

use crate::masquerade::{Action, Compiled, Protocol};

/// The chain of what does not leave, where it is counted.
pub const CLOSED: &str = "closed";

/// The elements of the map; what is in none is masqueraded.
pub fn destinations(policy: &Compiled) -> impl Iterator<Item = String> {
    let intervals = policy.intervals().into_iter();
    intervals.filter_map(|(first, last, number)| {
        let verdicts = &policy.verdicts()[number];
        let verdict = match verdicts.otherwise() {
            _ if !verdicts.protocols().is_empty() => format!("jump {}", chain(number)),
            // A rule that says what would be so without it.
            Action::Masquerade => return None,
            Action::Drop => format!("goto {CLOSED}"),
            Action::InRange | Action::Exempt => "accept".to_owned(),
        };
        Some(format!("{first}-{last} : {verdict}"))
    })
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
        Action::Drop => "counter drop",
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
                "224.0.0.0-239.255.255.255 : goto closed",
                "255.255.255.255-255.255.255.255 : goto closed",
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
        meta l4proto 6 th dport 80 counter drop
        meta l4proto 6 th dport 32526 counter drop
        meta l4proto 6 accept
        accept
    }
"
        );
    }
}
