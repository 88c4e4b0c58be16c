//! What a pod is told when there is no port for its packet: ICMP "communication administratively
//! prohibited" (RFC 5508, REQ-8), with the packet as the pod sent it in it.

use azure_vnet_abi::{Mac, Reason};
use bytes::{BufMut as _, Bytes, BytesMut};

use crate::harness::Node;
use crate::oracle::checksum;
use crate::packet::{
    ACK, ETHERTYPE_IPV4, End, FIRST, SYN, echo, ethernet, other, tcp, timestamp, udp,
};
use crate::plan::{BROADCAST, DATABASE, FABRIC, KEPT, NODE, Pod, REMOTE, REPLACED, WEB};

/// What a pod gets that has sent `sent`.
pub fn prohibited(sent: &[u8], pod: &Pod) -> Bytes {
    let mut icmp = BytesMut::new();
    icmp.put_slice(&[3, 13, 0, 0, 0, 0, 0, 0]);
    // RFC 792: the IP header and eight bytes.
    icmp.put_slice(&sent[14..42]);
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut ip = BytesMut::new();
    ip.put_slice(&[0x45, 0xc0, 0, 56, 0, 0, 0x40, 0, 64, 1, 0, 0]);
    ip.put_slice(&NODE.octets());
    ip.put_slice(&pod.address.octets());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.put(icmp);
    ethernet(FABRIC, pod.mac, ETHERTYPE_IPV4, &ip)
}

const LOCAL: End = (WEB.address, REPLACED);
const SERVER: End = (REMOTE, 443);

/// A node whose only port is in use towards `SERVER`, by whatever protocol.
fn full(hz: u32) -> Node {
    let mut node = Node::with_ports(KEPT..=KEPT);
    node.configure(KEPT..=KEPT, hz);
    let local = (DATABASE.address, KEPT);
    for packet in [
        tcp(local, SERVER, SYN),
        udp(local, SERVER),
        echo(local, REMOTE),
    ] {
        let _ = node.to_uplink(&packet.of(&DATABASE));
    }
    node
}

/// So many jiffies in a second that the test is over before the pod may be told again, and so few that it
/// may be told at once.
const LONG: u32 = 200_000;
const NONE: u32 = 19;

#[test]
fn the_pod_gets_the_error_with_its_packet_in_it() {
    let node = full(NONE);
    for sent in [
        tcp(LOCAL, SERVER, SYN),
        tcp(LOCAL, SERVER, ACK).payload(&[7; 1000]),
        udp(LOCAL, SERVER),
        udp(LOCAL, SERVER).without_checksum(),
        // Shorter than the answer.
        udp(LOCAL, SERVER).payload(&[]),
        udp(LOCAL, SERVER).payload(&[]).padded(18),
        udp(LOCAL, SERVER).payload(&[0x55; 1471]),
        echo(LOCAL, REMOTE),
    ] {
        let sent = sent.of(&WEB);
        let answer = prohibited(&sent.bytes(), &WEB);
        node.to_uplink(&sent)
            .redirects(Reason::NoPortFound, answer, &[]);
    }
}

/// SCTP, GRE, ESP: they do not leave the ranges, and a pod that tries hears of it.
#[test]
fn what_is_neither_tcp_udp_nor_icmp_is_refused_out_of_range() {
    for protocol in [132, 47, 50] {
        let sent = other(protocol, WEB.address, REMOTE).of(&WEB);
        let answer = prohibited(&sent.bytes(), &WEB);
        Node::new()
            .to_uplink(&sent)
            .redirects(Reason::UnsupportedProtocol, answer, &[]);
        // ICMP errors are never about ICMP errors, nor about a part of a packet.
        for silent in [
            sent.fragment(FIRST),
            timestamp(WEB.address, REMOTE).of(&WEB),
        ] {
            Node::new()
                .to_uplink(&silent)
                .drops(Reason::UnsupportedProtocol, &[]);
        }
    }
}

/// RFC 1122, section 3.2.2, and what the quotation has no room for.
#[test]
fn fragments_what_is_sent_to_many_and_options_are_not_answered() {
    let node = full(NONE);
    let sent = udp(LOCAL, SERVER).of(&WEB);
    let multicast = Mac([1, 0, 0x5e, 0, 0, 1]);
    for sent in [
        sent.clone().fragment(FIRST),
        sent.clone().frame(WEB.mac, BROADCAST),
        sent.clone().frame(WEB.mac, multicast),
        sent.clone().options(&[1; 4]),
    ] {
        node.to_uplink(&sent).drops(Reason::NoPortFound, &[]);
    }
    let answer = prohibited(&sent.bytes(), &WEB);
    node.to_uplink(&sent)
        .redirects(Reason::NoPortFound, answer, &[]);
}

/// RFC 1812, section 4.3.2.8. One pod does not use up what another may be told.
#[test]
fn a_pod_that_does_not_stop_is_not_told_every_time() {
    let node = full(LONG);
    for pod in [WEB, DATABASE] {
        let sent = udp((pod.address, REPLACED), SERVER).of(&pod);
        let answer = prohibited(&sent.bytes(), &pod);
        node.to_uplink(&sent)
            .redirects(Reason::NoPortFound, answer, &[]);
        for _ in 0..20 {
            node.to_uplink(&sent).drops(Reason::NoPortFound, &[]);
        }
    }
}

/// While the search goes on nothing is known, and the next packet may find a port.
#[test]
fn nothing_is_told_before_it_is_known() {
    let node = Node::new();
    let from = |port| udp((WEB.address, port), SERVER).of(&WEB);
    for port in crate::plan::PORTS {
        let _ = node.run(azure_vnet_abi::programs::TO_UPLINK, &from(port).bytes());
    }
    for _ in 0..3 {
        node.to_uplink(&from(1))
            .drops(Reason::PortSearchGoesOn, &[]);
    }
    let answer = prohibited(&from(1).bytes(), &WEB);
    node.to_uplink(&from(1))
        .redirects(Reason::NoPortFound, answer, &[]);
}
