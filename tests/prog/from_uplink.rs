//! TC ingress of the NIC, without flows: nothing is changed, the node routes it.

use azure_vnet_abi::Reason;
use bytes::{Bytes, BytesMut};

use crate::from_pod::impossible_headers;
use crate::harness::Node;
use crate::packet::{
    ACK, Arp, FIN, FIRST, LATER, RST, SHORTEST, SYN, echo, echo_reply, ethernet, ipv6, other, tcp,
    timestamp, udp,
};
use crate::plan::{
    DATABASE, FABRIC, HZ, KEPT, NIC, NODE, PEER, PORTS, REMOTE, REPLACED, WEB, WIRESERVER,
};

#[test]
fn the_nodes_own_traffic_passes_unchanged() {
    let node = Node::new();
    for port in [22, REPLACED, *PORTS.start() - 1, *PORTS.end() + 1, KEPT] {
        for packet in [
            tcp((REMOTE, 443), (NODE, port), SYN),
            tcp((REMOTE, 443), (NODE, port), ACK),
            udp((PEER, 53), (NODE, port)),
            udp((PEER, 53), (NODE, port)).fragment(FIRST),
            udp((PEER, 53), (NODE, port)).fragment(LATER),
            echo((REMOTE, port), NODE),
            echo_reply(REMOTE, (NODE, port)),
            timestamp(REMOTE, NODE),
            other(132, REMOTE, NODE),
        ] {
            node.from_uplink(&packet)
                .passes(Reason::NotOurs, &packet, &[]);
        }
    }
}

#[test]
fn what_is_for_nobody_here_passes_unchanged() {
    let node = Node::new();
    let packet = udp((REMOTE, 53), (PEER, 53));
    node.from_uplink(&packet)
        .passes(Reason::NotOurs, &packet, &[]);
    let arp = |operation, target| {
        let (sender, target) = ((FABRIC, PEER), (NIC, target));
        Bytes::from(&Arp {
            from: FABRIC,
            to: NIC,
            operation,
            sender,
            target,
        })
    };
    for frame in [
        ipv6(FABRIC, NIC),
        ethernet(FABRIC, NIC, 0x88cc, b"LLDP"),
        arp(Arp::REPLY, NODE),
        arp(Arp::REQUEST, WEB.address),
        arp(Arp::REPLY, WEB.address),
    ] {
        node.from_uplink(frame.clone())
            .passes(Reason::NotOurs, frame, &[]);
    }
}

#[test]
fn from_inside_the_ranges_everything_is_routed_to_the_pod() {
    let node = Node::new();
    for source in [PEER, WIRESERVER] {
        for packet in [
            tcp((source, 443), (WEB.address, 80), SYN),
            tcp((source, 443), (WEB.address, 80), FIN | ACK),
            udp((source, 53), (WEB.address, 53)),
            echo((source, 9), WEB.address),
            echo_reply(source, (WEB.address, 9)),
            timestamp(source, WEB.address),
            other(132, source, WEB.address),
            udp((source, 53), (WEB.address, 53)).fragment(LATER),
        ] {
            let expected = packet.clone();
            node.from_uplink(&packet)
                .passes(Reason::ToPod, &expected, &[]);
        }
    }
}

#[test]
fn each_pod_gets_its_own() {
    let node = Node::new();
    let packet = udp((PEER, 53), (DATABASE.address, 53));
    let expected = packet.clone();
    node.from_uplink(&packet)
        .passes(Reason::ToPod, &expected, &[]);
}

#[test]
fn from_out_of_range_what_starts_no_flow_has_no_entry() {
    let node = Node::new();
    for packet in [
        tcp((REMOTE, 443), (WEB.address, 80), ACK),
        tcp((REMOTE, 443), (WEB.address, 80), SYN | ACK),
        tcp((REMOTE, 443), (WEB.address, 80), RST),
        tcp((REMOTE, 443), (WEB.address, 80), 0),
        echo_reply(REMOTE, (WEB.address, 9)),
        timestamp(REMOTE, WEB.address),
        other(132, REMOTE, WEB.address),
        udp((REMOTE, 53), (WEB.address, 53)).fragment(LATER),
    ] {
        let expected = packet.clone();
        node.from_uplink(&packet)
            .passes(Reason::ToPod, &expected, &[]);
    }
}

#[test]
fn truncated_packets_are_left_to_who_receives_them() {
    let node = Node::new();
    for (destination, whole) in [
        (NODE, tcp((REMOTE, 443), (NODE, KEPT), SYN).bytes()),
        (
            WEB.address,
            tcp((REMOTE, 443), (WEB.address, KEPT), SYN).bytes(),
        ),
    ] {
        for length in SHORTEST..whole.len() {
            println!("{length} bytes for {destination}");
            let frame = whole.slice(..length);
            node.from_uplink(frame.clone())
                .passes(Reason::NotOurs, frame, &[]);
        }
    }
}

#[test]
fn impossible_headers_are_left_to_who_receives_them() {
    let node = Node::new();
    let syn = tcp((REMOTE, 443), (WEB.address, KEPT), SYN).bytes();
    for (what, frame) in impossible_headers(&syn) {
        println!("{what}");
        node.from_uplink(frame.clone())
            .passes(Reason::NotOurs, frame, &[]);
    }
}

#[test]
fn a_transport_header_cut_by_the_ip_length_starts_no_flow() {
    let node = Node::new();
    let packet = tcp((REMOTE, 443), (WEB.address, KEPT), SYN);
    for total in 20..40_u8 {
        let claim = |frame: Bytes| {
            let mut frame = BytesMut::from(&frame[..]);
            frame[17] = total;
            frame.freeze()
        };
        let expected = claim(packet.clone().bytes());
        node.from_uplink(claim(packet.bytes()))
            .passes(Reason::ToPod, expected, &[]);
    }
}

#[test]
fn nothing_enters_before_the_node_is_configured() {
    let mut node = Node::unconfigured();
    let packet = udp((PEER, 53), (WEB.address, 53));
    node.from_uplink(&packet).drops(Reason::Unconfigured, &[]);
    node.configure(PORTS, HZ);
    node.from_uplink(&packet)
        .passes(Reason::ToPod, &packet, &[]);
}
