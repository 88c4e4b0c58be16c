//! A policy as both tiers take it: prefixes, each with one of few verdicts.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sha2::{Digest as _, Sha256};

use super::rule::{TCP, UDP};
use super::{Action, Packet, Which};

/// Tells one compiled policy from another.
pub type Digest = [u64; 2];

/// A compiled policy. What is in none of its prefixes is masqueraded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    verdicts: Vec<Verdicts>,
    prefixes: Vec<(Ipv4Net, usize)>,
}

/// What happens to packets for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdicts {
    /// The first that matches decides.
    pub(super) rules: Vec<(Which, Action)>,
    /// If none does.
    pub(super) otherwise: Action,
}

/// What happens to packets of one protocol that has verdicts of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// IP protocol number.
    pub number: u8,
    /// Disjoint ranges of ports, both ends included, in ascending order, whose action is another than
    /// `otherwise`.
    pub ports: Vec<(u16, u16, Action)>,
    /// What happens to packets for other ports, or to all.
    pub otherwise: Action,
}

impl Protocol {
    /// The same for a longest-prefix match: ports, how many of their bits count, and the action.
    pub fn prefixes(&self) -> Vec<(u16, u8, Action)> {
        let mut prefixes = vec![(0, 0, self.otherwise)];
        for &(first, last, action) in &self.ports {
            let (mut next, end) = (u32::from(first), u32::from(last) + 1);
            while next < end {
                // The largest block that begins here, is aligned, and does not go too far.
                let aligned = next.trailing_zeros().min(16);
                let bits = (0..=aligned).rev().find(|&bits| next + (1 << bits) <= end);
                let bits = bits.unwrap_or(0);
                let (port, length) = (next.try_into().unwrap_or(0), 16 - bits);
                prefixes.push((port, length.try_into().unwrap_or(16), action));
                next += 1 << bits;
            }
        }
        prefixes
    }
}

/// Addresses from the first to the last, with the number of their verdicts.
pub type Interval = (Ipv4Addr, Ipv4Addr, usize);

impl Compiled {
    pub(super) fn push(&mut self, prefix: Ipv4Net, verdicts: &Verdicts) {
        let known = self.verdicts.iter().position(|other| other == verdicts);
        let number = known.unwrap_or_else(|| {
            self.verdicts.push(verdicts.clone());
            self.verdicts.len() - 1
        });
        self.prefixes.push((prefix, number));
    }

    /// Prefixes, of which the longest decides, with the number of their verdicts.
    pub fn prefixes(&self) -> &[(Ipv4Net, usize)] {
        &self.prefixes
    }

    /// The verdicts, all different.
    pub fn verdicts(&self) -> &[Verdicts] {
        &self.verdicts
    }

    /// The same as disjoint intervals in ascending order, neighbours with the same verdicts joined;
    /// what is in none is masqueraded.
    pub fn intervals(&self) -> Vec<Interval> {
        let mut intervals = Vec::new();
        let mut around: Vec<(u32, usize)> = Vec::new();
        let mut next = 0;
        for &(prefix, verdicts) in &self.prefixes {
            let first = prefix.network().into();
            close(&mut around, Some(first), &mut next, &mut intervals);
            if let (Some(&(_, outer)), true) = (around.last(), next < first) {
                join(&mut intervals, next, first - 1, outer);
            }
            next = first;
            around.push((prefix.broadcast().into(), verdicts));
        }
        close(&mut around, None, &mut next, &mut intervals);
        intervals.retain(|&(_, _, number)| self.verdicts[number] != Verdicts::MASQUERADE);
        intervals
    }

    /// How many entries the verdicts by port may take in the `rules` map, whatever ranges come to it.
    pub fn rule_entries(&self) -> usize {
        let of_verdicts: Vec<usize> = (self.verdicts.iter())
            .map(|verdicts| {
                let protocols = verdicts.protocols();
                protocols.iter().map(|of| of.prefixes().len()).sum()
            })
            .collect();
        let numbers = self.prefixes.iter().map(|&(_, number)| number);
        numbers.map(|number| of_verdicts[number]).sum()
    }

    /// A digest of what is in force where this is.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for (prefix, verdicts) in &self.prefixes {
            hash.update(prefix.network().octets());
            hash.update([prefix.prefix_len()]);
            hash.update(verdicts.to_be_bytes());
        }
        for verdicts in &self.verdicts {
            hash.update(format!(
                "{:?}{:?}",
                verdicts.protocols(),
                verdicts.otherwise
            ));
        }
        let digest = hash.finalize();
        [0, 8].map(|start| {
            let bytes = digest[start..].iter().take(8);
            bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
        })
    }
}

/// Ends the prefixes that end before `first`: their rest, from `next` on, is theirs.
fn close(
    around: &mut Vec<(u32, usize)>,
    first: Option<u32>,
    next: &mut u32,
    intervals: &mut Vec<Interval>,
) {
    while let Some((last, verdicts)) =
        around.pop_if(|(last, _)| first.is_none_or(|first| *last < first))
    {
        if *next <= last {
            join(intervals, *next, last, verdicts);
            // Behind the last address there is nothing left to close.
            let Some(after) = last.checked_add(1) else {
                return;
            };
            *next = after;
        }
    }
}

fn join(intervals: &mut Vec<Interval>, first: u32, last: u32, verdicts: usize) {
    match intervals.last_mut() {
        Some((_, end, previous))
            if *previous == verdicts && u32::from(*end).checked_add(1) == Some(first) =>
        {
            *end = last.into();
        }
        _ => intervals.push((first.into(), last.into(), verdicts)),
    }
}

impl Verdicts {
    /// What happens where nothing is said.
    pub(super) const MASQUERADE: Self = Self {
        rules: Vec::new(),
        otherwise: Action::Masquerade,
    };

    pub(super) fn new(rules: Vec<(Which, Action)>, otherwise: Action) -> Self {
        Self { rules, otherwise }
    }

    /// What happens to packets of protocols that are not in [`Verdicts::protocols`].
    pub fn otherwise(&self) -> Action {
        self.otherwise
    }

    /// The protocols that have verdicts of their own.
    pub fn protocols(&self) -> Vec<Protocol> {
        let numbers: BTreeSet<u8> = (self.rules.iter())
            .filter_map(|(which, _)| match which {
                Which::All => None,
                Which::Protocol(number) | Which::Ports(number, ..) => Some(*number),
            })
            .collect();
        numbers
            .into_iter()
            .map(|number| self.protocol(number))
            .filter(|protocol| !protocol.ports.is_empty() || protocol.otherwise != self.otherwise)
            .collect()
    }

    fn protocol(&self, number: u8) -> Protocol {
        let otherwise = self.decide(number, None);
        let mut ports: Vec<(u16, u16, Action)> = Vec::new();
        for (first, last) in self.pieces(number) {
            let action = self.decide(number, Some(first));
            match ports.last_mut() {
                Some((_, end, previous)) if *previous == action => *end = last,
                _ => ports.push((first, last, action)),
            }
        }
        ports.retain(|&(_, _, action)| action != otherwise);
        Protocol {
            number,
            ports,
            otherwise,
        }
    }

    fn decide(&self, protocol: u8, port: Option<u16>) -> Action {
        let packet = Packet {
            destination: Ipv4Addr::UNSPECIFIED,
            protocol,
            port,
        };
        let rule = self.rules.iter().find(|(which, _)| which.matches(&packet));
        rule.map_or(self.otherwise, |(_, action)| *action)
    }

    /// The ports of a protocol cut wherever a rule begins or ends.
    fn pieces(&self, protocol: u8) -> Vec<(u16, u16)> {
        if !matches!(protocol, TCP | UDP) {
            return Vec::new();
        }
        let mut starts = BTreeSet::from([0]);
        for (which, _) in &self.rules {
            if let Which::Ports(of, first, last) = *which
                && of == protocol
            {
                starts.insert(first);
                starts.extend(last.checked_add(1));
            }
        }
        let starts: Vec<u16> = starts.into_iter().collect();
        let ends = starts[1..].iter().map(|next| next - 1).chain([u16::MAX]);
        starts.iter().copied().zip(ends).collect()
    }
}
