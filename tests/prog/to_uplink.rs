//! TC egress of the NIC, without flows: what cannot be masqueraded leaves only where a pod's address may be seen.

use std::net::Ipv4Addr;

use azure_vnet_abi::{FlowKind, Mac, Reason};
use bytes::{Bytes, BytesMut};

use crate::flows::{Change, Tuple, outgoing, replies};
use crate::from_pod::impossible_headers;
use crate::harness::Node;
use crate::packet::{
    ACK, Arp, End, FIN, FIRST, LATER, Packet, RST, SHORTEST, SYN, echo, echo_reply, ethernet, ipv6,
    other, tagged, tcp, timestamp, udp,
};
use crate::plan::{
    BRIDGE_IFINDEX, BROADCAST, CLOSED, DATABASE, ELSEWHERE, FABRIC, HZ, KEPT, NIC, NODE, OTHER_NIC,
    PEER, PORTS, REMOTE, WEB, WIRESERVER,
};

/// Every kind of packet there is, from the pod to one destination.
fn packets_to(destination: Ipv4Addr) -> Vec<Packet> {
    let (source, remote) = ((WEB.address, KEPT), (destination, 443));
    let mut packets = with_flow(source, remote);
    packets.extend(
        without_flow(source, remote)
            .into_iter()
            .map(|(packet, _)| packet),
    );
    packets
}

/// Those whose flow can be told.
fn with_flow(source: End, remote: End) -> Vec<Packet> {
    [SYN, SYN | ACK, ACK, FIN | ACK, RST]
        .map(|flags| tcp(source, remote, flags))
        .into_iter()
        .chain([
            udp(source, remote),
            udp(source, remote).without_checksum(),
            udp(source, remote).options(&[1, 1, 1, 0]),
            udp(source, remote).fragment(FIRST),
            echo(source, remote.0),
            echo_reply(source.0, remote),
        ])
        .map(|packet| packet.of(&WEB))
        .collect()
}

/// Those whose flow cannot.
fn without_flow(source: End, remote: End) -> Vec<(Packet, Reason)> {
    let fragment = |field| (udp(source, remote).fragment(field), Reason::Fragment);
    let unsupported = |packet| (packet, Reason::UnsupportedProtocol);
    [
        fragment(FIRST | LATER),
        fragment(LATER),
        unsupported(timestamp(source.0, remote.0)),
        unsupported(other(0, source.0, remote.0)),
        unsupported(other(47, source.0, remote.0)),
        unsupported(other(50, source.0, remote.0)),
        unsupported(other(132, source.0, remote.0)),
        unsupported(other(255, source.0, remote.0)),
    ]
    .map(|(packet, reason)| (packet.of(&WEB), reason))
    .into()
}

#[test]
fn the_nodes_own_traffic_passes_whatever_it_is() {
    let node = Node::new();
    let (source, remote) = ((NODE, KEPT), (REMOTE, 443));
    let mut packets = with_flow(source, remote);
    packets.extend(
        without_flow(source, remote)
            .into_iter()
            .map(|(packet, _)| packet),
    );
    for packet in packets {
        let packet = packet.leaving();
        node.to_uplink(&packet)
            .passes(Reason::NotOurs, &packet, &[]);
    }
}

/// The floating address of a load balancer, an address on another link: not ours to judge.
#[test]
fn what_is_neither_the_nodes_nor_a_pods_passes() {
    let node = Node::new();
    for packet in [udp((PEER, 68), (REMOTE, 67)), other(132, PEER, REMOTE)] {
        let packet = packet.leaving();
        node.to_uplink(&packet)
            .passes(Reason::NotOurs, &packet, &[]);
    }
}

/// Routed here, as the answer of a pod that was asked under that NIC's address is. Whatever kind of packet it is, it is
/// the fabric's: it goes by the NIC that has the address.
#[test]
fn what_has_another_nics_address_leaves_by_that_nic() {
    let mut node = Node::new();
    node.add_nic(ELSEWHERE, OTHER_NIC);
    let (source, remote) = ((ELSEWHERE, KEPT), (REMOTE, 443));
    let without = without_flow(source, remote).into_iter();
    let packets = with_flow(source, remote)
        .into_iter()
        .chain(without.map(|(packet, _)| packet));
    for packet in packets {
        let expected = packet.clone().frame(OTHER_NIC, FABRIC);
        node.to_uplink(&packet)
            .redirects(Reason::ByOtherNic, &expected, &[]);
        // Not that of a port which nobody guards: it may say what it likes.
        let run = node.to_uplink_from(BRIDGE_IFINDEX, &packet);
        run.drops(Reason::UnknownSource, &[]);
    }
    let other = udp((PEER, KEPT), remote).leaving();
    node.to_uplink(&other).passes(Reason::NotOurs, &other, &[]);
}

#[test]
fn inside_the_ranges_everything_leaves_as_the_pod() {
    let node = Node::new();
    for packet in packets_to(PEER) {
        let expected = packet.clone().leaving();
        node.to_uplink(&packet)
            .passes(Reason::InRange, &expected, &[]);
    }
}

#[test]
fn to_an_exempt_destination_everything_leaves_as_the_pod() {
    let node = Node::new();
    for packet in packets_to(WIRESERVER) {
        let expected = packet.clone().leaving();
        node.to_uplink(&packet)
            .passes(Reason::Exempt, &expected, &[]);
    }
}

#[test]
fn to_a_closed_destination_nothing_leaves() {
    let node = Node::new();
    for packet in packets_to(CLOSED) {
        node.to_uplink(&packet).drops(Reason::PolicyDrop, &[]);
    }
}

#[test]
fn out_of_range_what_has_no_flow_does_not_leave() {
    let node = Node::new();
    for (packet, reason) in without_flow((WEB.address, KEPT), (REMOTE, 443)) {
        node.to_uplink(&packet).refuses(reason, &packet, &WEB);
    }
}

#[test]
fn an_echo_reply_that_nobody_asked_for_does_not_leave() {
    let node = Node::new();
    let packet = echo_reply(WEB.address, (REMOTE, KEPT)).of(&WEB);
    node.to_uplink(&packet)
        .drops(Reason::UnsupportedProtocol, &[]);
}

#[test]
fn out_of_range_every_truncation_is_malformed() {
    let node = Node::new();
    let (source, remote) = ((WEB.address, KEPT), (REMOTE, 443));
    for packet in [
        tcp(source, remote, SYN),
        tcp(source, remote, SYN).options(&[1; 40]),
        udp(source, remote),
        echo(source, REMOTE),
    ] {
        let whole = packet.of(&WEB).bytes();
        for length in SHORTEST..whole.len() {
            node.to_uplink(whole.slice(..length))
                .drops(Reason::Malformed, &[]);
        }
    }
}

#[test]
fn out_of_range_a_transport_header_cut_by_the_ip_length_is_malformed() {
    let node = Node::new();
    let (source, remote) = ((WEB.address, KEPT), (REMOTE, 443));
    for (packet, header) in [
        (tcp(source, remote, SYN), 20),
        (tcp(source, remote, SYN).options(&[1; 8]), 20),
        (udp(source, remote), 8),
        (echo(source, REMOTE), 8),
    ] {
        let network = packet.transport_offset() - 14;
        for rest in 0..header {
            let frame = claiming(&packet.clone().of(&WEB), network + rest);
            node.to_uplink(frame).drops(Reason::Malformed, &[]);
        }
    }
}

/// The packet with another total length in its IP header, whose checksum is not looked at. The
/// bytes beyond are what Ethernet pads with.
fn claiming(packet: &Packet, total: usize) -> Bytes {
    let mut frame = BytesMut::from(&packet.bytes()[..]);
    frame[16..18].copy_from_slice(&u16::try_from(total).unwrap().to_be_bytes());
    frame.freeze()
}

#[test]
fn header_lengths_that_cannot_be_right_are_malformed() {
    let node = Node::new();
    let syn = tcp((WEB.address, KEPT), (REMOTE, 443), SYN)
        .of(&WEB)
        .bytes();
    for (what, frame) in impossible_headers(&syn) {
        println!("{what}");
        node.to_uplink(frame).drops(Reason::Malformed, &[]);
    }
}

/// Of a pod, `from_pod` lets none of it pass.
#[test]
fn what_is_not_ipv4_is_the_nodes() {
    let node = Node::new();
    let arp = Arp {
        from: NIC,
        to: BROADCAST,
        operation: Arp::REQUEST,
        sender: (NIC, NODE),
        target: (Mac([0; 6]), PEER),
    };
    for frame in [
        ipv6(NIC, FABRIC),
        ethernet(NIC, FABRIC, 0x88cc, b"LLDP"),
        Bytes::from(&arp),
        tagged(&udp((NODE, 53), (REMOTE, 53)).leaving().bytes(), 5),
    ] {
        node.to_uplink(frame.clone())
            .passes(Reason::NotOurs, frame, &[]);
    }
}

#[test]
fn an_entry_of_the_other_direction_is_no_flow_of_the_pods() {
    let mut node = Node::new();
    let tuple = Tuple::udp((WEB.address, KEPT), (REMOTE, 53));
    let packet = udp((WEB.address, KEPT), (REMOTE, 53)).of(&WEB);
    let _ = node.to_uplink(&packet);
    let mut flow = node.flow(tuple);
    flow.kind = FlowKind::UNMASQUERADE;
    node.set_flow(tuple, flow);
    // The entry is replaced. Its port is still taken, by an entry that answers no question.
    let (port, expected) = (KEPT + 1, packet.clone().leaving().source((NODE, KEPT + 1)));
    node.to_uplink(&packet).passes(
        Reason::FlowCreated,
        &expected,
        &[
            Change::changed(outgoing(tuple, &WEB, port)),
            Change::added(replies(tuple, &WEB, port)),
        ],
    );
}

#[test]
fn nothing_leaves_before_the_node_is_configured() {
    let mut node = Node::unconfigured();
    let packet = udp((DATABASE.address, 53), (PEER, 53)).of(&DATABASE);
    node.to_uplink(&packet).drops(Reason::Unconfigured, &[]);
    node.configure(PORTS, HZ);
    node.to_uplink(&packet)
        .passes(Reason::InRange, &packet.clone().leaving(), &[]);
}
