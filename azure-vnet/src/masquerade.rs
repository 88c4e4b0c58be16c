//! The masquerade policy: what happens to a pod's packets by where they go.
//!
//! [`Policy::action`] is the meaning, written down as simply as it can be. Both tiers take the same
//! compilation of it ([`Compiled`]), the eBPF tier its prefixes and the netfilter tier its intervals.

pub mod agent;
mod compiled;
mod rule;
mod source;
mod timeouts;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use compiled::{Compiled, Digest, Protocol, Verdicts};
pub use rule::{Preset, Rule, Which};
pub use source::Source;
pub use timeouts::Timeouts;

/// Azure's platform address: DNS, the wireserver, and where health probes come from.
pub const PLATFORM: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32);

/// The ranges that are not masqueraded where neither the configuration nor a file names any.
pub const DEFAULT_RANGES: [Ipv4Net; 1] = [Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)];

/// How many prefixes a policy may have: half of what the map holds, since two policies are in it while
/// one takes the other's place.
pub const MOST_PREFIXES: usize = azure_vnet_abi::MAX_PREFIXES as usize / 2;

/// How many rules a policy may have.
pub const MOST_RULES: usize = 256;

/// How many entries of the kernel's map they may take: a range of ports takes up to 30, once for each
/// prefix that it counts for.
pub const MOST_RULE_ENTRIES: usize = azure_vnet_abi::MAX_RULES as usize / 2;

/// RFC 3927. The instance metadata service in it answers only the node's primary address.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

/// What the fabric does not carry, so that it would only be a leak.
pub const UNCARRIED: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32),
];

/// What happens to a packet from a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Leaves with the node's address.
    Masquerade,
    /// Inside the ranges: leaves with the pod's address.
    InRange,
    /// Leaves with the pod's address by rule.
    Exempt,
    /// Does not leave, unless as the reply in a flow that came in.
    Drop,
}

/// What a policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it goes, after netfilter has translated Service addresses.
    pub destination: Ipv4Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, of TCP and UDP.
    pub port: Option<u16>,
}

/// Ranges and rules by destination prefix.
///
/// Of all that match a packet the longest prefix decides; for the same prefix a rule with a port comes
/// before one with a protocol only, that before one with neither, and that before a range; of equals
/// the first in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    prefixes: BTreeMap<Ipv4Net, Entry>,
}

/// What is said of one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// About some packets; the first that matches decides.
    rules: Vec<(Which, Action)>,
    /// About the others.
    otherwise: Option<Action>,
}

/// What a policy is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Where pods' addresses are known.
    pub ranges: &'a [Ipv4Net],
    /// The pool's own subnet, which always is such a range.
    pub subnet: Ipv4Net,
    /// Whether 169.254.0.0/16 is masqueraded; otherwise it is such a range.
    pub masquerade_link_local: bool,
    /// What comes on top.
    pub rules: &'a [Rule],
}

impl Policy {
    /// The policy of these parts.
    pub fn new(parts: Parts<'_>) -> Self {
        let link_local = if parts.masquerade_link_local {
            Action::Masquerade
        } else {
            Action::InRange
        };
        let mut prefixes: BTreeMap<Ipv4Net, Entry> = BTreeMap::new();
        for rule in parts.rules {
            let entry = prefixes.entry(rule.to.trunc()).or_default();
            match rule.which {
                Which::All => drop(entry.otherwise.get_or_insert(rule.action)),
                which => entry.rules.push((which, rule.action)),
            }
        }
        let ranges = parts.ranges.iter().chain([&parts.subnet]);
        let plain = ranges
            .map(|&range| (range, Action::InRange))
            .chain(UNCARRIED.map(|prefix| (prefix, Action::Drop)))
            .chain([(LINK_LOCAL, link_local)]);
        for (prefix, action) in plain {
            let entry = prefixes.entry(prefix.trunc()).or_default();
            entry.otherwise.get_or_insert(action);
        }
        for entry in prefixes.values_mut() {
            // Stable: the order of the list stays among equals.
            entry.rules.sort_by_key(|(which, _)| which.rank());
        }
        Self { prefixes }
    }

    /// No destination is masqueraded and none is closed.
    pub fn off() -> Self {
        let everything = Entry {
            otherwise: Some(Action::Exempt),
            ..Entry::default()
        };
        Self {
            prefixes: BTreeMap::from([(Ipv4Net::default(), everything)]),
        }
    }

    /// What happens to a packet.
    pub fn action(&self, packet: &Packet) -> Action {
        (0..=32_u8)
            .rev()
            .filter_map(|length| Ipv4Net::new(packet.destination, length).ok())
            .filter_map(|prefix| self.prefixes.get(&prefix.trunc()))
            .find_map(|entry| entry.action(packet))
            .unwrap_or(Action::Masquerade)
    }

    /// The form that both tiers take.
    pub fn compile(&self) -> Compiled {
        let mut compiled = Compiled::default();
        // In the order of the map a prefix comes before those inside it.
        let mut around: Vec<(Ipv4Net, Verdicts)> = Vec::new();
        for (&prefix, entry) in &self.prefixes {
            while around
                .pop_if(|(outer, _)| !outer.contains(&prefix))
                .is_some()
            {}
            let outer = around.last().map(|(_, verdicts)| verdicts);
            let verdicts = entry.inside(outer.unwrap_or(&Verdicts::MASQUERADE));
            compiled.push(prefix, &verdicts);
            around.push((prefix, verdicts));
        }
        compiled
    }
}

impl Entry {
    fn action(&self, packet: &Packet) -> Option<Action> {
        let rule = self.rules.iter().find(|(which, _)| which.matches(packet));
        rule.map(|(_, action)| *action).or(self.otherwise)
    }

    /// This entry and, where it leaves something open, what is said around it.
    fn inside(&self, outer: &Verdicts) -> Verdicts {
        if let Some(otherwise) = self.otherwise {
            Verdicts::new(self.rules.clone(), otherwise)
        } else {
            let rules = self.rules.iter().chain(&outer.rules).copied();
            Verdicts::new(rules.collect(), outer.otherwise)
        }
    }
}

#[cfg(test)]
mod tests;
