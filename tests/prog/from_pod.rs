//! TC ingress of a pod's host veth: only IPv4 of the pod's own goes on, to the router. ARP has a file of its own.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Mac, Reason};
use bytes::{Bytes, BytesMut};

use crate::harness::Node;
use crate::packet::{
    ACK, ETHERTYPE_QINQ, ETHERTYPE_VLAN, LATER, Packet, SHORTEST, SYN, echo, ethernet, ipv6, other,
    tagged, tcp, timestamp, udp,
};
use crate::plan::{
    BROADCAST, DATABASE, FABRIC, HZ, KEPT, NIC, NODE, PEER, PORTS, REMOTE, WEB, WEB_SECOND,
    WIRESERVER,
};

const LOOPBACK: u32 = 1;
const NEW_MAC: Mac = Mac([0x0a, 0, 0, 0, 0, 0x99]);

fn syn() -> Packet {
    tcp((WEB.address, KEPT), (REMOTE, 443), SYN).of(&WEB)
}

#[test]
fn what_a_pod_sends_as_itself_passes_unchanged() {
    let node = Node::new();
    let packets = [
        syn(),
        tcp((WEB.address, KEPT), (PEER, 443), ACK).of(&WEB),
        udp((WEB.address, 53), (WIRESERVER, 53)).of(&WEB),
        udp((WEB.address, 53), (REMOTE, 53))
            .without_checksum()
            .of(&WEB),
        echo((WEB.address, 9), DATABASE.address).of(&WEB),
        timestamp(WEB.address, REMOTE).of(&WEB),
        other(132, WEB.address, REMOTE).of(&WEB),
        udp((WEB.address, 53), (REMOTE, 53))
            .fragment(LATER)
            .of(&WEB),
        syn().options(&[7, 3, 4, 0]),
        syn().padded(6),
    ];
    for packet in &packets {
        node.from_pod(&WEB, packet)
            .passes(Reason::NotOurs, packet, &[]);
    }
}

/// A pod of v0.1.0 may still have a neighbour's own MAC in its ARP table, or the NIC's for the node's address.
#[test]
fn what_is_sent_to_a_neighbours_mac_goes_to_the_router() {
    let node = Node::new();
    for (number, to) in [DATABASE.mac, NIC, WEB.mac, NEW_MAC]
        .into_iter()
        .enumerate()
    {
        for packet in [
            tcp((WEB.address, KEPT), (DATABASE.address, 443), SYN),
            udp((WEB.address, 53), (NODE, 53)),
            echo((WEB.address, 9), DATABASE.address),
            other(132, WEB.address, PEER),
            syn().options(&[7, 3, 4, 0]),
            udp((WEB.address, 53), (PEER, 53)).fragment(LATER),
        ] {
            println!("{number}: {packet:?}");
            node.from_pod(&WEB, &packet.clone().frame(WEB.mac, to))
                .passes(Reason::NotOurs, &packet.of(&WEB), &[]);
        }
    }
}

/// Or it would be flooded to all pods, and no program would have seen it leave.
#[test]
fn what_is_sent_to_many_goes_nowhere() {
    let node = Node::new();
    let multicast = Mac([0x01, 0, 0x5e, 0, 0, 0xfb]);
    for to in [BROADCAST, multicast] {
        for packet in [
            udp((WEB.address, 68), (Ipv4Addr::BROADCAST, 67)),
            udp((WEB.address, 53), (Ipv4Addr::new(224, 0, 0, 251), 53)),
            syn(),
            syn().options(&[7, 3, 4, 0]),
            other(2, WEB.address, REMOTE),
        ] {
            node.from_pod(&WEB, &packet.frame(WEB.mac, to))
                .drops(Reason::ToGroup, &[]);
        }
        let spoofed = udp((NODE, 68), (Ipv4Addr::BROADCAST, 67)).frame(WEB.mac, to);
        node.from_pod(&WEB, &spoofed)
            .drops(Reason::SpoofedAddress, &[]);
    }
}

/// portmap has the kernel route that, and a pod would reach what listens for the node alone.
#[test]
fn what_is_for_the_nodes_loopback_goes_nowhere() {
    let node = Node::new();
    for last in [1, 53] {
        let to = Ipv4Addr::new(127, 0, 0, last);
        for packet in [
            udp((WEB.address, 5000), (to, 53)),
            other(2, WEB.address, to),
        ] {
            node.from_pod(&WEB, &packet.frame(WEB.mac, FABRIC))
                .drops(Reason::Loopback, &[]);
        }
    }
}

#[test]
fn ipv6_goes_no_further() {
    let node = Node::new();
    for to in [FABRIC, Mac([0x33, 0x33, 0, 0, 0, 1])] {
        node.from_pod(&WEB, ipv6(WEB.mac, to))
            .drops(Reason::Ipv6, &[]);
    }
}

/// The second of two, or one that the kernel has not taken off. One that it has: see `devices`.
#[test]
fn what_has_a_tag_goes_no_further() {
    let node = Node::new();
    for ether_type in [ETHERTYPE_VLAN, ETHERTYPE_QINQ] {
        for tag in [0, 5] {
            let mut frame = BytesMut::from(&tagged(&syn().bytes(), tag)[..]);
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            node.from_pod(&WEB, frame.freeze())
                .drops(Reason::Tagged, &[]);
        }
    }
}

/// LLDP, `PPPoE`, MPLS, EAPOL, two tags of old, a length (BPDU, CDP, SNAP), and numbers that are nobody's.
#[test]
fn frames_of_all_other_types_go_no_further() {
    let node = Node::new();
    let payload = syn().bytes().slice(14..);
    for ether_type in [
        0x88cc, 0x8863, 0x8864, 0x8847, 0x888e, 0x9100, 38, 0, 0x0801, 0xffff,
    ] {
        node.from_pod(&WEB, ethernet(WEB.mac, FABRIC, ether_type, &payload))
            .drops(Reason::EtherType, &[]);
    }
}

#[test]
fn the_address_of_another_is_dropped() {
    let node = Node::new();
    for address in [NODE, DATABASE.address, PEER, REMOTE] {
        let packet = udp((address, 53), (PEER, 53)).of(&WEB);
        node.from_pod(&WEB, &packet)
            .drops(Reason::SpoofedAddress, &[]);
    }
}

/// With several interfaces in one subnet a container answers for all of their addresses through the
/// one that its route names.
#[test]
fn a_container_may_send_with_the_address_of_its_other_interface() {
    let mut node = Node::new();
    node.add_pod(&WEB_SECOND);
    let packet = udp((WEB_SECOND.address, 53), (PEER, 53)).of(&WEB);
    node.from_pod(&WEB, &packet)
        .passes(Reason::NotOurs, &packet, &[]);
    node.from_pod(&DATABASE, &packet.frame(DATABASE.mac, FABRIC))
        .drops(Reason::SpoofedAddress, &[]);
}

#[test]
fn each_pod_has_its_own_address() {
    let node = Node::new();
    let of_web = udp((WEB.address, 53), (PEER, 53)).of(&WEB);
    let of_database = udp((DATABASE.address, 53), (PEER, 53)).of(&DATABASE);
    node.from_pod(&DATABASE, &of_database)
        .passes(Reason::NotOurs, &of_database, &[]);
    let as_other = of_web.frame(DATABASE.mac, FABRIC);
    node.from_pod(&DATABASE, &as_other)
        .drops(Reason::SpoofedAddress, &[]);
}

#[test]
fn macs_that_would_divert_others_traffic_are_dropped() {
    let node = Node::new();
    let multicast = Mac([0x01, 0, 0x5e, 0, 0, 1]);
    for mac in [NIC, FABRIC, BROADCAST, multicast, Mac::NONE] {
        node.from_pod(&WEB, &syn().frame(mac, FABRIC))
            .drops(Reason::SpoofedMac, &[]);
    }
    assert_eq!(node.known_macs(&WEB), (WEB.mac, WEB.mac));
}

#[test]
fn a_new_mac_is_learnt() {
    let node = Node::new();
    let packet = syn().frame(NEW_MAC, FABRIC);
    node.from_pod(&WEB, &packet)
        .passes(Reason::NotOurs, &packet, &[]);
    assert_eq!(node.known_macs(&WEB), (NEW_MAC, NEW_MAC));
    assert_eq!(node.known_macs(&DATABASE), (DATABASE.mac, DATABASE.mac));

    let request = udp((PEER, 53), (WEB.address, 53));
    node.from_uplink(&request)
        .passes(Reason::ToPod, &request, &[]);
    node.to_pods(&request)
        .redirects(Reason::ToNewMac, &request.frame(FABRIC, NEW_MAC), &[]);
}

#[test]
fn every_truncation_of_the_ip_packet_is_malformed() {
    let node = Node::new();
    let whole = syn().payload(b"twelve bytes").bytes();
    for length in SHORTEST..whole.len() {
        node.from_pod(&WEB, whole.slice(..length))
            .drops(Reason::Malformed, &[]);
    }
    node.from_pod(&WEB, whole.clone())
        .passes(Reason::NotOurs, whole, &[]);
}

#[test]
fn header_lengths_that_cannot_be_right_are_malformed() {
    let node = Node::new();
    for (what, frame) in impossible_headers(&syn().bytes()) {
        println!("{what}");
        node.from_pod(&WEB, frame).drops(Reason::Malformed, &[]);
    }
}

/// The packet, which has no IP options, with one lie each in its first bytes.
pub fn impossible_headers(frame: &Bytes) -> Vec<(&'static str, Bytes)> {
    let with = |changes: &[(usize, u8)]| {
        let mut frame = BytesMut::from(&frame[..]);
        for (offset, value) in changes {
            frame[14 + offset] = *value;
        }
        frame.freeze()
    };
    vec![
        ("version 0", with(&[(0, 0x05)])),
        ("version 6", with(&[(0, 0x65)])),
        ("a header of 0 bytes", with(&[(0, 0x40)])),
        ("a header of 16 bytes", with(&[(0, 0x44)])),
        ("a header longer than the packet", with(&[(0, 0x4f)])),
        ("a total length of 0", with(&[(2, 0), (3, 0)])),
        (
            "a total length below the header's",
            with(&[(2, 0), (3, 19)]),
        ),
        ("a total length beyond the frame", with(&[(2, 0), (3, 41)])),
        ("a total length of 65535", with(&[(2, 255), (3, 255)])),
    ]
}

#[test]
fn nothing_passes_before_the_node_is_configured() {
    let mut node = Node::unconfigured();
    node.from_pod(&WEB, &syn()).drops(Reason::Unconfigured, &[]);
    node.configure(PORTS, HZ);
    node.from_pod(&WEB, &syn())
        .passes(Reason::NotOurs, &syn(), &[]);
}

#[test]
fn nothing_passes_from_a_device_without_a_pod() {
    let node = Node::new();
    node.from_device(LOOPBACK, &syn())
        .drops(Reason::Unconfigured, &[]);
}
