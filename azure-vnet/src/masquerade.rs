//! The masquerade policy: what happens to a pod's packets by where they go.
//!
//! One value for both tiers: the eBPF tier takes its prefixes, the netfilter tier its intervals.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Azure's platform address: DNS, the wireserver, and where health probes come from.
pub const PLATFORM: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32);

/// The ranges that are not masqueraded where the configuration names none.
pub const DEFAULT_RANGES: [Ipv4Net; 1] = [Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)];

/// RFC 3927. The instance metadata service in it answers only the node's primary address.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

/// What the fabric does not carry, so that it would only be a leak.
const UNCARRIED: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32),
];

/// What happens to a packet from a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leaves with the node's address.
    Masquerade,
    /// Inside the ranges: leaves with the pod's address.
    InRange,
    /// Leaves with the pod's address by rule.
    Exempt,
    /// Does not leave.
    Drop,
}

/// Destinations and what happens to packets for them; the longest prefix decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    prefixes: BTreeMap<Ipv4Net, Action>,
}

impl Policy {
    /// `ranges` and the pool's own `subnet` keep the pod's address, 169.254.0.0/16 as well unless
    /// `masquerade_link_local`, and `rules` come on top: for the same prefix a rule wins.
    pub fn new(
        ranges: &[Ipv4Net],
        subnet: Ipv4Net,
        masquerade_link_local: bool,
        rules: &[(Ipv4Net, Action)],
    ) -> Self {
        let link_local = if masquerade_link_local {
            Action::Masquerade
        } else {
            Action::InRange
        };
        let prefixes = [(LINK_LOCAL, link_local)]
            .into_iter()
            .chain(UNCARRIED.map(|prefix| (prefix, Action::Drop)))
            .chain(ranges.iter().map(|&range| (range, Action::InRange)))
            .chain([(subnet, Action::InRange)])
            .chain(rules.iter().copied())
            .map(|(prefix, action)| (prefix.trunc(), action))
            .collect();
        Self { prefixes }
    }

    /// No destination is masqueraded and none is closed.
    pub fn off() -> Self {
        Self {
            prefixes: BTreeMap::from([(Ipv4Net::default(), Action::Exempt)]),
        }
    }

    /// Every prefix with its action.
    pub fn prefixes(&self) -> impl Iterator<Item = (Ipv4Net, Action)> {
        self.prefixes
            .iter()
            .map(|(&prefix, &action)| (prefix, action))
    }

    /// What happens to packets for `destination`.
    pub fn action(&self, destination: Ipv4Addr) -> Action {
        self.prefixes()
            .filter(|(prefix, _)| prefix.contains(&destination))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map_or(Action::Masquerade, |(_, action)| action)
    }

    /// The same as disjoint intervals in ascending order, both ends included, neighbours with the
    /// same action joined; what is in none is masqueraded.
    pub fn intervals(&self) -> Vec<(Ipv4Addr, Ipv4Addr, Action)> {
        let mut joined: Vec<(Ipv4Addr, Ipv4Addr, Action)> = Vec::new();
        for (first, last) in self.pieces() {
            let action = self.action(first);
            match joined.last_mut() {
                Some((_, end, previous))
                    if *previous == action
                        && u32::from(*end).checked_add(1) == Some(first.into()) =>
                {
                    *end = last;
                }
                _ => joined.push((first, last, action)),
            }
        }
        joined.retain(|&(_, _, action)| action != Action::Masquerade);
        joined
    }

    /// The address space cut wherever a prefix begins or ends.
    fn pieces(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let mut starts: Vec<u32> = vec![0];
        for prefix in self.prefixes.keys() {
            starts.push(prefix.network().into());
            starts.extend(u32::from(prefix.broadcast()).checked_add(1));
        }
        starts.sort_unstable();
        starts.dedup();
        let ends = starts[1..].iter().map(|next| next - 1).chain([u32::MAX]);
        starts
            .iter()
            .zip(ends)
            .map(|(&first, last)| (first.into(), last.into()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn shipped() -> Policy {
        Policy::new(
            &DEFAULT_RANGES,
            net("10.0.0.0/20"),
            true,
            &[(PLATFORM, Action::Exempt)],
        )
    }

    #[test]
    fn shipped_policy_is_the_documented_rule() {
        let policy = shipped();
        for (destination, action) in [
            ("10.0.0.7", Action::InRange),
            ("10.255.255.255", Action::InRange),
            ("11.0.0.0", Action::Masquerade),
            ("168.63.129.16", Action::Exempt),
            ("168.63.129.17", Action::Masquerade),
            ("169.254.169.254", Action::Masquerade),
            ("192.168.1.1", Action::Masquerade),
            ("224.0.0.251", Action::Drop),
            ("255.255.255.255", Action::Drop),
        ] {
            assert_eq!(policy.action(address(destination)), action, "{destination}");
        }
    }

    #[test]
    fn pool_outside_the_ranges_is_in_range() {
        let policy = Policy::new(&DEFAULT_RANGES, net("172.16.4.0/22"), true, &[]);
        assert_eq!(policy.action(address("172.16.7.9")), Action::InRange);
        assert_eq!(policy.action(address("172.16.8.0")), Action::Masquerade);
    }

    #[test]
    fn rule_wins_over_the_same_range_and_longer_prefix_over_shorter() {
        let policy = Policy::new(
            &[net("10.0.0.0/8")],
            net("10.0.0.0/24"),
            false,
            &[
                (net("10.0.0.0/8"), Action::Masquerade),
                (net("10.9.0.0/16"), Action::Drop),
                (net("10.9.1.0/24"), Action::Exempt),
            ],
        );
        assert_eq!(policy.action(address("10.1.0.0")), Action::Masquerade);
        assert_eq!(policy.action(address("10.0.0.9")), Action::InRange);
        assert_eq!(policy.action(address("10.9.0.9")), Action::Drop);
        assert_eq!(policy.action(address("10.9.1.9")), Action::Exempt);
        assert_eq!(policy.action(address("169.254.169.254")), Action::InRange);
    }

    #[test]
    fn off_exempts_everything() {
        assert_eq!(Policy::off().action(address("8.8.8.8")), Action::Exempt);
        assert_eq!(
            Policy::off().intervals(),
            [(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Action::Exempt)]
        );
    }

    /// The two compilations of one policy agree at every boundary and at random places.
    #[test]
    fn intervals_say_the_same_as_prefixes() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let actions = [
            Action::Masquerade,
            Action::InRange,
            Action::Exempt,
            Action::Drop,
        ];
        for _ in 0..50 {
            let rules: Vec<(Ipv4Net, Action)> = (0..20)
                .map(|_| {
                    let bits = u32::try_from(next() >> 32).unwrap();
                    let length = u8::try_from(next() % 33).unwrap();
                    let action = actions[usize::try_from(next() % 4).unwrap()];
                    (Ipv4Net::new(bits.into(), length).unwrap(), action)
                })
                .collect();
            let policy = Policy::new(&DEFAULT_RANGES, net("10.0.0.0/20"), true, &rules);
            let intervals = policy.intervals();
            let by_interval = |destination: Ipv4Addr| {
                intervals
                    .iter()
                    .find(|(first, last, _)| (*first..=*last).contains(&destination))
                    .map_or(Action::Masquerade, |&(_, _, action)| action)
            };
            let edges = intervals.iter().flat_map(|&(first, last, _)| {
                [
                    u32::from(first).wrapping_sub(1),
                    first.into(),
                    last.into(),
                    u32::from(last).wrapping_add(1),
                ]
            });
            for destination in edges.chain((0..100).map(|_| u32::try_from(next() >> 32).unwrap())) {
                let destination = Ipv4Addr::from(destination);
                assert_eq!(
                    by_interval(destination),
                    policy.action(destination),
                    "{destination}"
                );
            }
        }
    }
}
