//! Each kind of frame that is dropped is counted for what it is.

use std::net::Ipv4Addr;

use azure_vnet_testbed::address_plan::{FABRIC_MAC, GATEWAY, Mac, PEERED};
use azure_vnet_testbed::field::{Field, Seen, Tier, key, run};
use azure_vnet_testbed::frame::{BROADCAST, ETH_P_ARP, ETH_P_IPV6, Frame, NOBODY, arp, udp};
use azure_vnet_testbed::icmp::internet_checksum;

const REPLY: u8 = 2;
/// To all nodes, of IPv6 and of its multicast MACs.
const ALL_NODES: Ipv6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const TO_ALL_NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const LINK_LOCAL: Ipv6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

type Ipv6 = [u8; 16];

#[test]
fn what_is_dropped_is_counted_for_what_it_is() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        // The pod's own stack sends such frames as well.
        let quiet = "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1";
        run(field.pods[0].namespace(), quiet);
        for (name, reason, frame) in kinds(&field) {
            let before = field.dropped(reason);
            for _ in 0..3 {
                let key = key();
                let frame = frame(&key);
                let seen = field.seen(&field.pod, &key, &frame, Seen::NOWHERE);
                assert_eq!(seen, Seen::NOWHERE, "{tier:?}: {name}");
            }
            let counted = field.dropped(reason) - before;
            // A stack that is told to be quiet has some last words.
            let is_counted = counted == 3 || reason == "ipv6" && counted > 3;
            assert!(is_counted, "{tier:?}: {name}: {counted} of 3");
        }
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{tier:?}");
        assert!(
            !field.run("ip -6 route show default").contains("default"),
            "{tier:?}"
        );
    }
}

type Kind<'a> = (&'static str, &'static str, Box<dyn Fn(&[u8]) -> Frame + 'a>);

fn kinds<'a>(field: &'a Field<'_>) -> Vec<Kind<'a>> {
    let (own, mac) = (field.pod.address, field.pod.mac);
    let other = field.neighbour.address;
    let from = move |source, to| move |key: &[u8]| Frame::ipv4(mac, udp(source, to, key));
    let own_frame = move |key: &[u8]| from(own, PEERED)(key);
    let of_type = move |kind| move |key: &[u8]| own_frame(key).kind(kind);
    let llc = move |to, header: &'static [u8]| {
        move |key: &[u8]| {
            let payload = [header, key].concat();
            let length = u16::try_from(payload.len()).unwrap();
            Frame::ipv4(mac, payload).to(to).kind(length)
        }
    };
    let six = move |kind| {
        move |key: &[u8]| {
            let packet = icmpv6(kind, key);
            Frame::ipv4(mac, packet).to(TO_ALL_NODES).kind(ETH_P_IPV6)
        }
    };
    let bpdu = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
    let cisco = Mac([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc]);
    vec![
        (
            "another's address",
            "spoofed_address",
            Box::new(from(other, PEERED)),
        ),
        (
            "the router's MAC",
            "spoofed_mac",
            Box::new(move |key| own_frame(key).from(FABRIC_MAC)),
        ),
        ("a router advertisement", "ipv6", Box::new(six(134))),
        ("a neighbour advertisement", "ipv6", Box::new(six(136))),
        (
            "a tag",
            "tagged",
            Box::new(move |key| own_frame(key).tagged(0x8100, 0)),
        ),
        (
            "a tag of a provider",
            "tagged",
            Box::new(move |key| own_frame(key).tagged(0x88a8, 7)),
        ),
        (
            "two tags",
            "tagged",
            Box::new(move |key| own_frame(key).tagged(0x8100, 0).tagged(0x8100, 0)),
        ),
        ("LLDP", "ether_type", Box::new(of_type(0x88cc))),
        ("PPPoE", "ether_type", Box::new(of_type(0x8864))),
        ("MPLS", "ether_type", Box::new(of_type(0x8847))),
        (
            "a BPDU",
            "ether_type",
            Box::new(llc(bpdu, &[0x42, 0x42, 3])),
        ),
        (
            "SNAP",
            "ether_type",
            Box::new(llc(cisco, &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0])),
        ),
        (
            "a broadcast",
            "to_group",
            Box::new(move |key| own_frame(key).to(BROADCAST)),
        ),
        (
            "the node's loopback",
            "loopback",
            Box::new(from(own, Ipv4Addr::LOCALHOST)),
        ),
        (
            "a reply that nobody asked for",
            "arp_ignored",
            Box::new(move |key| {
                let packet = arp(REPLY, (mac, own), (NOBODY, GATEWAY));
                let packet = [&packet, key].concat();
                Frame::ipv4(mac, packet).to(BROADCAST).kind(ETH_P_ARP)
            }),
        ),
    ]
}

/// A message to all nodes with these bytes in it: of a router, which is the default one from now on, or of a neighbour.
fn icmpv6(kind: u8, key: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    if kind != 134 {
        message.extend(LINK_LOCAL);
    }
    // An option that nobody knows, in units of eight bytes.
    let units = (key.len() + 2).div_ceil(8);
    message.extend([253, u8::try_from(units).unwrap()]);
    message.extend(key);
    message.resize(message.len() + units * 8 - key.len() - 2, 0);
    let length = u16::try_from(message.len()).unwrap();
    let pseudo = [
        &LINK_LOCAL[..],
        &ALL_NODES,
        &[0, 0],
        &length.to_be_bytes(),
        &[0, 0, 0, 58],
    ];
    let sum = internet_checksum(&[&pseudo.concat()[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[58, 255]].concat();
    packet.extend([LINK_LOCAL, ALL_NODES].concat());
    packet.extend(message);
    packet
}
