//! TC ingress of a pod's host veth: only what is the pod's own goes on, and goes on as it is.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Mac, Reason};
use bytes::{Bytes, BytesMut};

use crate::harness::Node;
use crate::packet::{
    ACK, LATER, Packet, SHORTEST, SYN, echo, ethernet, ipv6, other, tagged, tcp, timestamp, udp,
};
use crate::plan::{
    BROADCAST, DATABASE, FABRIC, HZ, KEPT, NIC, NODE, PEER, PORTS, Pod, REMOTE, WEB, WIRESERVER,
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

#[test]
fn what_is_not_ipv4_or_arp_passes() {
    let node = Node::new();
    let tag = tagged(&syn().bytes(), 5);
    for frame in [
        ipv6(WEB.mac, FABRIC),
        ethernet(WEB.mac, FABRIC, 0x88cc, b"LLDP"),
        tag,
    ] {
        node.from_pod(&WEB, frame.clone())
            .passes(Reason::NotOurs, frame, &[]);
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
    let second = Pod {
        address: Ipv4Addr::new(10, 240, 0, 12),
        mac: NEW_MAC,
        ifindex: 103,
        ..WEB
    };
    node.add_pod(&second);
    let packet = udp((second.address, 53), (PEER, 53)).of(&WEB);
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
    for mac in [NIC, FABRIC, BROADCAST, multicast] {
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
        .passes(Reason::ToPod, &request.frame(FABRIC, NEW_MAC), &[]);
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
