//! Thousands of random packets under random policies, sent for real: both tiers, the fallback in both of its ways, do what the policy means.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use azure_vnet::config::Config;
use azure_vnet::masquerade::{Action, Packet, Policy};
use azure_vnet_cni::NetConf;
use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::SUBNET;
use azure_vnet_testbed::pod::PodSpec;
use fastrand::Rng;
use serde_json::{Value, json};

use super::sink::{Sent, Sink, Source};
use super::{TIERS, list};

const ROUNDS: usize = 3;
const PACKETS: u32 = 1200;
/// Sent before their arrival is waited for: the receive buffer holds as many.
const BATCH: usize = 50;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
/// GRE, ESP, SCTP, and one that is nobody's.
const OTHERS: [u8; 4] = [47, 50, 132, 253];

/// Who the fabric saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Pod,
    Node,
    Nothing,
}

#[test]
fn every_way_does_what_the_policy_means() {
    let seed = std::env::var("AZURE_VNET_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("AZURE_VNET_SEED={seed}");
    let [ebpf, nft] = TIERS.map(|tier| outcomes(tier, seed, &[]));
    assert_eq!(ebpf, nft);
    // A node without nft.
    assert_eq!(ebpf, outcomes("netfilter", seed, &[("nft", None)]));
}

/// Who was seen for each packet that both tiers treat alike.
fn outcomes(tier: &str, seed: u64, programs: &[(&str, Option<&str>)]) -> Vec<Seen> {
    let mut random = Rng::with_seed(seed);
    let mut azure = Azure::builder().build().unwrap();
    if !programs.is_empty() {
        azure.vms[0].replace_programs(programs).unwrap();
    }
    let vm = &azure.vms[0];
    let mut alike = Vec::new();
    let mut first = None;
    for round in 0..ROUNDS {
        let masquerade = random_masquerade(&mut random);
        // With every pod the policy of the node is replaced.
        let pod = vm
            .add_pod(
                &list(tier, &masquerade),
                &PodSpec::named(&format!("pod{round}")),
            )
            .unwrap();
        let pod = first.get_or_insert(pod);
        let policy = meant(&masquerade);
        let packets = random_packets(&mut random, &policy);
        let source = Source::new(pod);
        let mut sink = Sink::new(azure.fabric.namespace());
        let rules = super::status(vm)["bridges"][0]["rules"].clone();
        if tier == "netfilter" {
            let expected = if programs.is_empty() {
                "nft"
            } else {
                "iptables"
            };
            assert_eq!(rules, expected);
        }
        let numbered: Vec<(u32, &Sent)> = (1..).zip(&packets).collect();
        let gets_out =
            |sent: &Sent| matches!(expected(tier, &policy, sent), Some(Seen::Pod | Seen::Node));
        let last = packets.iter().find(|sent| gets_out(sent)).unwrap();
        for (fence, batch) in (u32::MAX / 2..).zip(numbered.chunks(BATCH)) {
            let arriving = batch.iter().filter(|(_, sent)| gets_out(sent));
            let arriving: Vec<u32> = arriving.map(|(number, _)| *number).collect();
            for (number, sent) in batch {
                source.send(*number, sent);
            }
            sink.wait_for(&source, (fence, last), &arriving);
        }
        let arrived = sink.finish();
        for (number, sent) in numbered {
            let found = match arrived.get(&number) {
                None => Seen::Nothing,
                Some(address) if *address == vm.nic.primary => Seen::Node,
                Some(address) if *address == pod.address => Seen::Pod,
                Some(other) => panic!("{sent:?} came from {other}"),
            };
            // Without ports it may be of a flow that conntrack knows from the policy before.
            let may_be_older = tier == "netfilter" && round > 0 && !has_ports(sent);
            let expected = expected(tier, &policy, sent).filter(|_| !may_be_older);
            if let Some(expected) = expected {
                assert_eq!(
                    found, expected,
                    "{tier}: {sent:?} under {masquerade} (seed {seed})"
                );
            }
            if has_ports(sent) {
                alike.push(found);
            }
        }
    }
    assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
    assert!(alike.len() > 2000);
    alike
}

/// What the policy says in terms of what is seen; `None` where a tier may drop what it cannot translate.
fn expected(tier: &str, policy: &Policy, sent: &Sent) -> Option<Seen> {
    let packet = Packet {
        destination: sent.destination,
        protocol: sent.protocol,
        port: matches!(sent.protocol, TCP | UDP).then_some(sent.port),
    };
    match policy.action(&packet) {
        Action::InRange | Action::Exempt => Some(Seen::Pod),
        Action::Drop => Some(Seen::Nothing),
        Action::Masquerade if has_ports(sent) => Some(Seen::Node),
        Action::Masquerade if tier == "ebpf" => Some(Seen::Nothing),
        Action::Masquerade => None,
    }
}

fn has_ports(sent: &Sent) -> bool {
    matches!(sent.protocol, TCP | UDP | ICMP)
}

/// The policy as the product itself reads it.
fn meant(masquerade: &Value) -> Policy {
    let conf = json!({
        "cniVersion": "0.3.0", "name": "azure", "type": "azure-vnet", "ipam": {"type": "azure-vnet-ipam"}, "masquerade": masquerade
    });
    let conf: NetConf = conf.to_string().parse().unwrap();
    let config = Config::read(&conf).unwrap();
    config.masquerade.policy.policy(SUBNET, None)
}

/// Networks that meet: few first bytes, and any length.
fn random_prefix(random: &mut Rng) -> String {
    let first = [10, 20, 100, 168, 169, 198, 203][random.usize(..7)];
    let address = Ipv4Addr::from([
        first,
        random.u8(..4) << 6,
        random.u8(..4) << 6,
        random.u8(..),
    ]);
    let net = ipnet::Ipv4Net::new(address, random.u8(8..=32)).unwrap();
    net.trunc().to_string()
}

fn random_masquerade(random: &mut Rng) -> Value {
    let ranges: Vec<String> = (0..random.usize(..60))
        .map(|_| random_prefix(random))
        .collect();
    let rules: Vec<Value> = (0..random.usize(..40))
        .map(|_| random_rule(random))
        .collect();
    let preset = ["classic", "swift", "locked", "none"][random.usize(..4)];
    json!({
        "nonMasqueradeCIDRs": ranges,
        "rules": rules,
        "masqLinkLocal": random.bool(),
        "preset": preset,
    })
}

fn random_rule(random: &mut Rng) -> Value {
    let action = ["exempt", "masquerade", "drop"][random.usize(..3)];
    let mut rule = json!({"to": random_prefix(random), "action": action});
    match random.u8(..4) {
        0 => {}
        1 => {
            rule["proto"] =
                [json!("tcp"), json!("udp"), json!("icmp"), json!(47)][random.usize(..4)].clone();
        }
        proto => {
            if proto == 2 {
                rule["proto"] = json!(["tcp", "udp"][random.usize(..2)]);
            }
            let (a, b) = (random_port(random), random_port(random));
            rule["port"] = json!(format!("{}-{}", a.min(b).max(1), a.max(b).max(1)));
        }
    }
    rule
}

fn random_port(random: &mut Rng) -> u16 {
    [1, 22, 53, 80, 443, 1023, 1024, 8080, 32526, 65535][random.usize(..10)]
}

/// To, before and behind every border of the policy, and to anywhere.
fn random_packets(random: &mut Rng, policy: &Policy) -> Vec<Sent> {
    let compiled = policy.compile();
    let borders: BTreeSet<u32> = (compiled.intervals().into_iter())
        .flat_map(|(first, last, _)| {
            let (first, last) = (u32::from(first), u32::from(last));
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
        })
        .collect();
    let borders: Vec<u32> = borders.into_iter().collect();
    let mut packets = Vec::new();
    while packets.len() < PACKETS as usize {
        let destination = if random.u8(..4) > 0 {
            borders[random.usize(..borders.len())]
        } else {
            random.u32(..)
        };
        let protocol = match random.u8(..10) {
            0..=3 => TCP,
            4..=7 => UDP,
            8 => ICMP,
            _ => OTHERS[random.usize(..OTHERS.len())],
        };
        let sent = Sent {
            destination: destination.into(),
            protocol,
            source_port: random.u16(1024..),
            port: random_port(random)
                .wrapping_add(random.u16(..3))
                .wrapping_sub(1),
        };
        if !stays_on_the_node(sent.destination) {
            packets.push(sent);
        }
    }
    packets
}

/// What is not routed to the NIC whatever the policy is.
fn stays_on_the_node(destination: Ipv4Addr) -> bool {
    // VM 0 and its pool; what is nobody's address, or the node's own.
    destination.octets()[..3] == [10, 0, 0]
        || destination == SUBNET.broadcast()
        || matches!(destination.octets()[0], 0 | 127)
}
