//! TC egress of the bridge: the bridge delivers what has the pod's MAC; what has another, because the node knows no better,
//! gets it and goes straight to the veth.

use azure_vnet_abi::{Mac, Reason};
use bytes::Bytes;

use crate::harness::Node;
use crate::packet::{
    ACK, Arp, FIRST, LATER, Packet, SHORTEST, SYN, echo, ethernet, ipv6, other, tcp, timestamp, udp,
};
use crate::plan::{BROADCAST, DATABASE, FABRIC, HZ, KEPT, NODE, PEER, PORTS, REMOTE, WEB};

const STALE: Mac = Mac([0x0a, 0, 0, 0, 0, 0x99]);

/// As the router sends it to what it believes to be the pod's MAC.
fn delivered(packet: Packet, mac: Mac) -> Packet {
    packet.frame(FABRIC, mac)
}

fn packets() -> [Packet; 9] {
    [
        tcp((REMOTE, 443), (WEB.address, KEPT), ACK),
        tcp((NODE, 40000), (WEB.address, 80), SYN),
        udp((DATABASE.address, 53), (WEB.address, 53)),
        udp((PEER, 53), (WEB.address, 53)).fragment(FIRST),
        udp((PEER, 53), (WEB.address, 53)).fragment(LATER),
        udp((PEER, 53), (WEB.address, 53)).options(&[1; 8]),
        echo((PEER, 9), WEB.address),
        timestamp(PEER, WEB.address),
        other(132, PEER, WEB.address),
    ]
}

#[test]
fn what_has_the_pods_mac_is_the_bridges_to_deliver() {
    let node = Node::new();
    for packet in packets() {
        let packet = packet.entering(&WEB);
        node.to_pods(&packet).passes(Reason::NotOurs, &packet, &[]);
    }
}

#[test]
fn whatever_has_another_gets_the_pods() {
    let node = Node::new();
    for packet in packets() {
        for mac in [STALE, DATABASE.mac, Mac([0x0a, 0, 0, 0, 0, 0])] {
            node.to_pods(&delivered(packet.clone(), mac)).redirects(
                Reason::ToNewMac,
                &packet.clone().entering(&WEB),
                &[],
            );
        }
    }
}

#[test]
fn each_pod_gets_its_own() {
    let node = Node::new();
    let packet = udp((PEER, 53), (DATABASE.address, 53));
    node.to_pods(&delivered(packet.clone(), STALE)).redirects(
        Reason::ToNewMac,
        &packet.entering(&DATABASE),
        &[],
    );
}

/// The `tuning` plugin, or the pod itself, gives the interface another MAC.
#[test]
fn a_mac_that_was_learnt_is_used_at_once() {
    let node = Node::new();
    let _ = node.from_pod(
        &WEB,
        &udp((WEB.address, 53), (PEER, 53)).frame(STALE, FABRIC),
    );
    let packet = udp((PEER, 53), (WEB.address, 53));
    node.to_pods(&delivered(packet.clone(), WEB.mac)).redirects(
        Reason::ToNewMac,
        &delivered(packet, STALE),
        &[],
    );
}

#[test]
fn all_else_is_the_bridges() {
    let node = Node::new();
    let question = Arp {
        from: FABRIC,
        to: BROADCAST,
        operation: Arp::REQUEST,
        sender: (FABRIC, NODE),
        target: (Mac([0; 6]), WEB.address),
    };
    let packet = udp((PEER, 53), (WEB.address, 53)).bytes();
    for frame in [
        udp((NODE, 53), (PEER, 53)).bytes(),
        Bytes::from(&question),
        ipv6(FABRIC, BROADCAST),
        ethernet(FABRIC, WEB.mac, 0x88cc, &packet[14..]),
    ] {
        node.to_pods(frame.clone())
            .passes(Reason::NotOurs, frame, &[]);
    }
}

/// The destination is all that it looks at, so it is all that has to be there.
#[test]
fn what_is_cut_short_is_the_receivers_to_judge() {
    let node = Node::new();
    let packet = tcp((PEER, 443), (WEB.address, 80), SYN);
    let sent = delivered(packet.clone(), STALE).bytes();
    let entered = packet.entering(&WEB).bytes();
    for length in SHORTEST..sent.len() {
        node.to_pods(sent.slice(..length)).redirects(
            Reason::ToNewMac,
            entered.slice(..length),
            &[],
        );
    }
}

#[test]
fn it_needs_to_know_the_pods_and_nothing_else() {
    let mut node = Node::unconfigured();
    let packet = delivered(udp((PEER, 53), (WEB.address, 53)), STALE);
    node.to_pods(&packet).passes(Reason::NotOurs, &packet, &[]);
    node.configure(PORTS, HZ);
    node.to_pods(&packet)
        .redirects(Reason::ToNewMac, &packet.entering(&WEB), &[]);
}
