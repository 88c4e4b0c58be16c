//! The policy as rules, the longest prefix first: the first that matches decides.

use super::layout::own;
use crate::datapath::Uplink;
use crate::masquerade::{Action, Protocol, Verdicts};

/// What becomes of a packet; where its address may stay, it returns.
pub struct Ways<'a> {
    /// What is masqueraded goes here.
    pub masquerade: &'a str,
    /// What is closed goes here.
    pub drop: &'a str,
}

/// `chain`, with the policy behind `head`, and a chain for each verdict that goes by protocol and port.
pub fn chains(
    uplink: &Uplink,
    chain: &str,
    head: Vec<String>,
    ways: &Ways<'_>,
) -> Vec<(String, Vec<String>)> {
    let bridge = &uplink.bridge;
    let policy = uplink.policy.compile();
    // One letter leaves room for a number of any length.
    let numbered = |number: usize| own(bridge, &format!("{}{number}", &chain[..1]));
    let mut prefixes = policy.prefixes().to_vec();
    prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    let mut rules = head;
    for (prefix, number) in prefixes {
        let verdicts = &policy.verdicts()[number];
        let target = if verdicts.protocols().is_empty() {
            ways.of(verdicts.otherwise()).to_owned()
        } else {
            format!("-g {}", numbered(number))
        };
        rules.push(format!("-d {prefix} {target}"));
    }
    rules.push(ways.masquerade.to_owned());
    let by_port = (policy.verdicts().iter().enumerate())
        .filter(|(_, verdicts)| !verdicts.protocols().is_empty())
        .map(|(number, verdicts)| (numbered(number), ways.by_port(verdicts)));
    [(own(bridge, chain), rules)]
        .into_iter()
        .chain(by_port)
        .collect()
}

impl Ways<'_> {
    fn of(&self, action: Action) -> &str {
        match action {
            Action::Masquerade => self.masquerade,
            Action::InRange | Action::Exempt => "-j RETURN",
            Action::Drop => self.drop,
        }
    }

    fn by_port(&self, verdicts: &Verdicts) -> Vec<String> {
        let protocols = verdicts.protocols();
        let mut rules: Vec<String> = protocols
            .iter()
            .flat_map(|protocol| self.of_protocol(protocol))
            .collect();
        rules.push(self.of(verdicts.otherwise()).to_owned());
        rules
    }

    fn of_protocol(&self, protocol: &Protocol) -> Vec<String> {
        // Only these two have ports.
        let named = if protocol.number == 6 { "tcp" } else { "udp" };
        // iptables takes 0 for any; no packet of a pod has it, for it is a header of IPv6.
        if protocol.number == 0 {
            return Vec::new();
        }
        let number = protocol.number;
        let ports = protocol.ports.iter().map(|(first, last, action)| {
            format!(
                "-p {number} -m {named} --dport {first}:{last} {}",
                self.of(*action)
            )
        });
        let rest = format!("-p {number} {}", self.of(protocol.otherwise));
        ports.chain([rest]).collect()
    }
}
