#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::rule::{TCP, UDP};
use super::*;

const ICMP: u8 = 1;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn rule(to: &str, which: Which, action: Action) -> Rule {
    let to = net(to);
    Rule { to, which, action }
}

fn packet(destination: &str, protocol: u8, port: u16) -> Packet {
    Packet {
        destination: destination.parse().unwrap(),
        protocol,
        port: matches!(protocol, TCP | UDP).then_some(port),
    }
}

fn policy(link_local: bool, rules: &[Rule]) -> Policy {
    Policy::new(Parts {
        ranges: &DEFAULT_RANGES,
        subnet: net("10.0.0.0/20"),
        masquerade_link_local: link_local,
        rules,
    })
}

#[track_caller]
fn assert_actions(policy: &Policy, table: &[(&str, u8, u16, Action)]) {
    for &(destination, protocol, port, action) in table {
        let packet = packet(destination, protocol, port);
        assert_eq!(policy.action(&packet), action, "{packet:?}");
        assert_eq!(
            by_prefixes(&policy.compile(), &packet),
            action,
            "{packet:?}"
        );
        assert_eq!(
            by_intervals(&policy.compile(), &packet),
            action,
            "{packet:?}"
        );
    }
}

/// What the eBPF tier's tries find.
fn by_prefixes(compiled: &Compiled, packet: &Packet) -> Action {
    let matching = compiled
        .prefixes()
        .iter()
        .filter(|(prefix, _)| prefix.contains(&packet.destination));
    let longest = matching.max_by_key(|(prefix, _)| prefix.prefix_len());
    longest.map_or(Action::Masquerade, |&(_, number)| {
        let verdicts = &compiled.verdicts()[number];
        let protocols = verdicts.protocols();
        let protocol = protocols
            .iter()
            .find(|known| known.number == packet.protocol);
        let prefixes = protocol.map(Protocol::prefixes).unwrap_or_default();
        let port = packet.port.unwrap_or(0);
        let matching = prefixes
            .iter()
            .filter(|(of, bits, _)| u32::from(port ^ of) >> (16 - bits) == 0);
        let longest = matching.max_by_key(|(_, bits, _)| *bits);
        longest.map_or(verdicts.otherwise(), |(_, _, action)| *action)
    })
}

/// What the netfilter tier's map and chains find.
fn by_intervals(compiled: &Compiled, packet: &Packet) -> Action {
    let intervals = compiled.intervals();
    let mut matching = intervals
        .iter()
        .filter(|(first, last, _)| (first..=last).contains(&&packet.destination));
    let found = matching.next();
    assert_eq!(matching.next(), None, "intervals are disjoint");
    found.map_or(Action::Masquerade, |&(_, _, number)| {
        let verdicts = &compiled.verdicts()[number];
        let protocols = verdicts.protocols();
        let Some(protocol) = protocols
            .iter()
            .find(|known| known.number == packet.protocol)
        else {
            return verdicts.otherwise();
        };
        let ports = protocol.ports.iter();
        let range = ports.clone().find(|(first, last, _)| {
            packet
                .port
                .is_some_and(|port| (first..=&last).contains(&&port))
        });
        range.map_or(protocol.otherwise, |(_, _, action)| *action)
    })
}

#[test]
fn shipped_policy_is_the_documented_rule() {
    assert_actions(
        &policy(true, &Preset::Classic.rules()),
        &[
            ("10.0.0.7", TCP, 80, Action::InRange),
            ("10.255.255.255", UDP, 53, Action::InRange),
            ("11.0.0.0", TCP, 80, Action::Masquerade),
            ("168.63.129.16", UDP, 53, Action::Exempt),
            ("168.63.129.17", UDP, 53, Action::Masquerade),
            ("169.254.169.254", TCP, 80, Action::Masquerade),
            ("192.168.1.1", ICMP, 0, Action::Masquerade),
            ("224.0.0.251", UDP, 5353, Action::Drop),
            ("255.255.255.255", UDP, 67, Action::Drop),
        ],
    );
}

#[test]
fn swift_masquerades_dns_and_metadata_by_port() {
    assert_actions(
        &policy(false, &Preset::Swift.rules()),
        &[
            ("168.63.129.16", UDP, 53, Action::Masquerade),
            ("168.63.129.16", TCP, 53, Action::Masquerade),
            ("168.63.129.16", TCP, 80, Action::Exempt),
            ("168.63.129.16", ICMP, 0, Action::Exempt),
            ("169.254.169.254", TCP, 80, Action::Masquerade),
            ("169.254.169.254", TCP, 443, Action::InRange),
            ("169.254.169.253", TCP, 80, Action::InRange),
        ],
    );
}

#[test]
fn locked_closes_the_wireserver() {
    assert_actions(
        &policy(true, &Preset::Locked.rules()),
        &[
            ("168.63.129.16", TCP, 80, Action::Drop),
            ("168.63.129.16", TCP, 32526, Action::Drop),
            ("168.63.129.16", TCP, 32527, Action::Exempt),
            ("168.63.129.16", UDP, 80, Action::Exempt),
            ("168.63.129.16", UDP, 53, Action::Exempt),
        ],
    );
}

#[test]
fn pool_outside_the_ranges_is_in_range() {
    let policy = Policy::new(Parts {
        ranges: &DEFAULT_RANGES,
        subnet: net("172.16.4.0/22"),
        masquerade_link_local: true,
        rules: &[],
    });
    assert_actions(
        &policy,
        &[
            ("172.16.7.9", TCP, 80, Action::InRange),
            ("172.16.8.0", TCP, 80, Action::Masquerade),
        ],
    );
}

#[test]
fn the_longest_prefix_decides_then_the_narrower_rule_then_the_first() {
    let rules = [
        rule("10.0.0.0/8", Which::All, Action::Masquerade),
        rule("10.0.0.0/8", Which::All, Action::Drop),
        rule("10.9.0.0/16", Which::All, Action::Drop),
        rule("10.9.0.0/16", Which::Protocol(TCP), Action::Exempt),
        rule("10.9.0.0/16", Which::Ports(TCP, 25, 25), Action::Drop),
        rule("10.9.0.0/16", Which::Ports(TCP, 20, 30), Action::Masquerade),
        rule("10.9.1.0/24", Which::Ports(UDP, 53, 53), Action::Exempt),
    ];
    assert_actions(
        &policy(true, &rules),
        &[
            ("10.1.0.0", TCP, 80, Action::Masquerade),
            ("10.0.0.9", TCP, 80, Action::InRange),
            ("10.9.0.9", UDP, 80, Action::Drop),
            ("10.9.0.9", TCP, 80, Action::Exempt),
            ("10.9.0.9", TCP, 25, Action::Drop),
            ("10.9.0.9", TCP, 26, Action::Masquerade),
            ("10.9.1.9", UDP, 53, Action::Exempt),
            // What the /24 leaves open the /16 says.
            ("10.9.1.9", UDP, 54, Action::Drop),
            ("10.9.1.9", TCP, 25, Action::Drop),
            ("10.9.1.9", TCP, 80, Action::Exempt),
        ],
    );
}

#[test]
fn off_exempts_everything() {
    assert_actions(&Policy::off(), &[("8.8.8.8", TCP, 80, Action::Exempt)]);
    assert_eq!(
        Policy::off().compile().intervals(),
        [(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 0)]
    );
}

#[test]
fn the_digest_follows_what_is_in_force() {
    let digest = |rules: &[Rule]| policy(true, rules).compile().digest();
    let (classic, locked) = (Preset::Classic.rules(), Preset::Locked.rules());
    assert_eq!(digest(&classic), digest(&classic));
    assert_ne!(digest(&classic), digest(&locked));
    assert_ne!(digest(&classic), policy(false, &classic).compile().digest());
}

/// The compilations of one policy agree with its meaning at every boundary and at random places.
#[test]
fn both_compilations_mean_what_the_policy_says() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let rules: Vec<Rule> = (0..25).map(|_| random_rule(&mut random)).collect();
        let policy = policy(random.bool(), &rules);
        let compiled = policy.compile();
        let around = |prefix: &Ipv4Net| {
            let (first, last) = (u32::from(prefix.network()), u32::from(prefix.broadcast()));
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
        };
        let edges: Vec<u32> = compiled
            .prefixes()
            .iter()
            .flat_map(|(prefix, _)| around(prefix))
            .collect();
        let anywhere: Vec<u32> = (0..50).map(|_| random.u32(..)).collect();
        for destination in edges.into_iter().chain(anywhere) {
            let protocol = [TCP, UDP, ICMP, 47][random.usize(..4)];
            let packet = Packet {
                destination: destination.into(),
                protocol,
                port: matches!(protocol, TCP | UDP).then(|| random_port(&mut random)),
            };
            let action = policy.action(&packet);
            assert_eq!(by_prefixes(&compiled, &packet), action, "{packet:?}");
            assert_eq!(by_intervals(&compiled, &packet), action, "{packet:?}");
        }
    }
}

fn random_rule(random: &mut fastrand::Rng) -> Rule {
    let actions = [Action::Masquerade, Action::Exempt, Action::Drop];
    // Few networks, so that rules meet.
    let to = Ipv4Net::new(
        (random.u32(..4) << 30 | random.u32(..4) << 16).into(),
        random.u8(0..=32),
    );
    let (a, b) = (random_port(random), random_port(random));
    let protocol = [TCP, UDP][random.usize(..2)];
    let which = match random.u8(..4) {
        0 => Which::All,
        1 => Which::Protocol([TCP, UDP, ICMP, 47][random.usize(..4)]),
        _ => Which::Ports(protocol, a.min(b), a.max(b)),
    };
    Rule {
        to: to.unwrap(),
        which,
        action: actions[random.usize(..3)],
    }
}

fn random_port(random: &mut fastrand::Rng) -> u16 {
    [0, 1, 22, 23, 80, 81, 1024, 32767, 32768, 65534, 65535][random.usize(..11)]
}
