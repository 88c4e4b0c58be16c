//! ARP of pods (RFC 826): who asks for another's address gets the router's MAC, from the node itself; nobody else on
//! the node ever hears of it.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Mac, Reason};
use bytes::{Bytes, BytesMut};

use crate::harness::Node;
use crate::packet::Arp;
use crate::plan::{BROADCAST, DATABASE, FABRIC, NIC, NODE, PEER, Pod, REMOTE, WEB, WEB_SECOND};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
const NOBODY: Mac = Mac([0; 6]);
const NEW_MAC: Mac = Mac([0x0a, 0, 0, 0, 0, 0x99]);

fn request(pod: &Pod, target: Ipv4Addr) -> Arp {
    Arp {
        from: pod.mac,
        to: BROADCAST,
        operation: Arp::REQUEST,
        sender: (pod.mac, pod.address),
        target: (NOBODY, target),
    }
}

/// RFC 5227: the question whether an address is free, from nobody.
fn probe(pod: &Pod, target: Ipv4Addr) -> Arp {
    Arp {
        sender: (pod.mac, Ipv4Addr::UNSPECIFIED),
        ..request(pod, target)
    }
}

fn reply(from: Mac, sender: Ipv4Addr, to: Mac, target: Ipv4Addr) -> Arp {
    Arp {
        from,
        to,
        operation: Arp::REPLY,
        sender: (from, sender),
        target: (to, target),
    }
}

/// The router's answer.
fn answer(pod: &Pod, asked_for: Ipv4Addr) -> Arp {
    reply(FABRIC, asked_for, pod.mac, pod.address)
}

#[test]
fn whoever_is_asked_for_the_router_answers() {
    let node = Node::new();
    for pod in [WEB, DATABASE] {
        let other = if pod.address == WEB.address {
            DATABASE
        } else {
            WEB
        };
        for target in [GATEWAY, NODE, PEER, REMOTE, other.address] {
            node.from_pod(&pod, &request(&pod, target)).redirects(
                Reason::ArpAnswered,
                &answer(&pod, target),
                &[],
            );
        }
    }
}

/// As the kernel does to an entry that it is about to forget; and a pod of v0.1.0 may ask the neighbour itself.
#[test]
fn a_request_to_one_mac_is_answered_as_one_to_all() {
    let node = Node::new();
    for to in [FABRIC, DATABASE.mac, NIC] {
        let asked = Arp {
            to,
            ..request(&WEB, DATABASE.address)
        };
        node.from_pod(&WEB, &asked).redirects(
            Reason::ArpAnswered,
            &answer(&WEB, DATABASE.address),
            &[],
        );
    }
}

/// What a sender says of the MAC that it asks for means nothing.
#[test]
fn the_answer_is_the_same_whatever_stands_for_the_unknown_mac() {
    let node = Node::new();
    for unknown in [BROADCAST, DATABASE.mac] {
        let mut asked = request(&WEB, GATEWAY);
        asked.target.0 = unknown;
        node.from_pod(&WEB, &asked)
            .redirects(Reason::ArpAnswered, &answer(&WEB, GATEWAY), &[]);
    }
}

#[test]
fn what_nobody_needs_goes_no_further() {
    let node = Node::new();
    for arp in [
        probe(&WEB, WEB.address),
        probe(&WEB, PEER),
        // Announcements, in both forms.
        request(&WEB, WEB.address),
        reply(WEB.mac, WEB.address, BROADCAST, WEB.address),
        reply(WEB.mac, WEB.address, FABRIC, NODE),
        reply(WEB.mac, WEB.address, DATABASE.mac, DATABASE.address),
        Arp {
            operation: 8,
            ..request(&WEB, GATEWAY)
        },
    ] {
        node.from_pod(&WEB, &arp).drops(Reason::ArpIgnored, &[]);
    }
}

/// RFC 5227: or it would think that its address is taken.
#[test]
fn a_container_is_not_answered_for_an_address_of_its_own() {
    let mut node = Node::new();
    node.add_pod(&WEB_SECOND);
    node.from_pod(&WEB, &request(&WEB, WEB_SECOND.address))
        .drops(Reason::ArpIgnored, &[]);
    let mut by_the_other = request(&WEB, GATEWAY);
    by_the_other.sender.1 = WEB_SECOND.address;
    let mut answer = answer(&WEB, GATEWAY);
    answer.target.1 = WEB_SECOND.address;
    node.from_pod(&WEB, &by_the_other)
        .redirects(Reason::ArpAnswered, &answer, &[]);
}

#[test]
fn nobody_speaks_for_the_address_of_another() {
    let node = Node::new();
    for address in [NODE, DATABASE.address, GATEWAY] {
        let mut arp = request(&WEB, PEER);
        arp.sender.1 = address;
        node.from_pod(&WEB, &arp).drops(Reason::SpoofedAddress, &[]);
        let arp = reply(WEB.mac, address, FABRIC, NODE);
        node.from_pod(&WEB, &arp).drops(Reason::SpoofedAddress, &[]);
    }
}

#[test]
fn nor_with_another_mac_inside_than_outside() {
    let node = Node::new();
    for mac in [NIC, DATABASE.mac, BROADCAST] {
        for mut arp in [request(&WEB, GATEWAY), probe(&WEB, GATEWAY)] {
            arp.sender.0 = mac;
            node.from_pod(&WEB, &arp).drops(Reason::SpoofedMac, &[]);
        }
    }
}

#[test]
fn a_new_mac_is_learnt_and_answered() {
    let node = Node::new();
    let moved = Pod {
        mac: NEW_MAC,
        ..WEB
    };
    node.from_pod(&WEB, &request(&moved, GATEWAY)).redirects(
        Reason::ArpAnswered,
        &answer(&moved, GATEWAY),
        &[],
    );
    assert_eq!(node.known_macs(&WEB), (NEW_MAC, NEW_MAC));
}

#[test]
fn every_truncation_is_malformed() {
    let node = Node::new();
    let whole = Bytes::from(&request(&WEB, GATEWAY));
    for length in 14..whole.len() {
        node.from_pod(&WEB, whole.slice(..length))
            .drops(Reason::Malformed, &[]);
    }
}

#[test]
fn so_is_arp_of_another_network() {
    let node = Node::new();
    let whole = Bytes::from(&request(&WEB, GATEWAY));
    for (offset, value) in [(15, 6), (16, 0x86), (17, 0xdd), (18, 8), (19, 16)] {
        let mut frame = BytesMut::from(&whole[..]);
        frame[offset] = value;
        node.from_pod(&WEB, frame.freeze())
            .drops(Reason::Malformed, &[]);
    }
}
