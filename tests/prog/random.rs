//! Packets that nobody would write down, thousands of them, always the same: whatever a pod sends,
//! its address does not leave the ranges.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use azure_vnet_abi::programs;
use bytes::{Bytes, BytesMut};
use fastrand::Rng;

use crate::flows::Tuple;
use crate::harness::{Node, Verdict};
use crate::oracle::{Ipv4, checksum};
use crate::packet::{ICMP, Packet, TCP, UDP, echo, echo_reply, ethernet, other, sent_by, tcp, udp};
use crate::plan::{
    CARVED_OUT, CLOSED, DATABASE, FABRIC, NIC, NODE, OTHER_REMOTE, PEER, Pod, REMOTE, WEB,
    WIRESERVER, is_out_of_range,
};

const PACKETS: usize = 8_000;
const PODS: [Pod; 2] = [WEB, DATABASE];
const DESTINATIONS: [Ipv4Addr; 8] = [
    REMOTE,
    OTHER_REMOTE,
    CARVED_OUT,
    Ipv4Addr::new(224, 0, 0, 251),
    Ipv4Addr::BROADCAST,
    CLOSED,
    PEER,
    WIRESERVER,
];

/// Nothing came in, so nothing may leave as a reply.
#[test]
fn no_packet_of_a_pod_leaves_the_ranges_with_its_address() {
    let node = Node::new();
    let mut rng = Rng::with_seed(0x00a2_0e5e);
    let mut seen = Seen::default();
    for number in 0..PACKETS {
        let pod = PODS[rng.usize(..PODS.len())];
        let sent = anything(&mut rng, &pod);
        if let Some(left) = leave(&node, &pod, &sent) {
            assert!(!leaks(&left), "packet {number}: {:02x?}", &left[..]);
            seen.note(&node, &pod, &sent, &left);
        } else {
            seen.dropped += 1;
        }
    }
    seen.assert_worth_it();
}

/// Some flows come in; what they recorded, and nothing else, may leave with the pod's address.
#[test]
fn beside_flows_that_came_in_only_their_replies_do() {
    let node = Node::new();
    let mut rng = Rng::with_seed(0x1b0d);
    let (mut came, mut replies) = (BTreeSet::new(), 0);
    for number in 0..PACKETS {
        let pod = PODS[rng.usize(..PODS.len())];
        if rng.u8(..4) == 0 {
            let packet = something_for(&mut rng, &pod).bytes();
            let _ = node.run(programs::FROM_UPLINK, &packet);
            came.insert(tuple_of(&Ipv4::read(&packet).unwrap()).unwrap().reversed());
            continue;
        }
        let sent = anything(&mut rng, &pod);
        let Some(left) = leave(&node, &pod, &sent) else {
            continue;
        };
        if leaks(&left) {
            let packet = Ipv4::read(&left);
            let is_reply = packet.is_some_and(|packet| {
                // With identifier 0 the tuple alone does not tell a request from a reply.
                let is_request = packet.protocol() == ICMP && packet.icmp_type() == 8;
                !is_request && tuple_of(&packet).is_some_and(|tuple| came.contains(&tuple))
            });
            assert!(is_reply, "packet {number}: {packet:?}");
            replies += 1;
        }
    }
    assert!(replies > 100, "only {replies} replies: that was no test");
}

/// Through both hooks, as the node would route it.
fn leave(node: &Node, pod: &Pod, sent: &Bytes) -> Option<Bytes> {
    let (verdict, forwarded) = node.run_from_device(pod.ifindex, sent);
    if verdict != Verdict::Passes {
        return None;
    }
    assert_eq!(&forwarded, sent, "from_pod changes no packet to the router");
    let (verdict, left) = node.run(programs::TO_UPLINK, &sent_by(NIC, &forwarded));
    (verdict == Verdict::Passes).then_some(left)
}

/// Whether an IPv4 frame, whatever else is wrong with it, has a pod's address as its source and
/// one out of range as its destination.
fn leaks(frame: &[u8]) -> bool {
    if frame[12..14] != [8, 0] {
        return false;
    }
    let address = |offset: usize| -> Ipv4Addr {
        let octets: [u8; 4] = frame[offset..offset + 4].try_into().unwrap();
        octets.into()
    };
    PODS.iter().any(|pod| pod.address == address(26)) && is_out_of_range(address(30))
}

/// What became of packets that left, so that the test cannot pass by dropping everything.
#[derive(Debug, Default)]
struct Seen {
    dropped: usize,
    masqueraded: usize,
    with_right_checksums: usize,
    unchanged: usize,
}

impl Seen {
    /// Of a packet whose flow cannot be told only a fragment changes: as its first one did.
    fn note_without_ports(&mut self, sent: &Bytes, left: &Bytes) {
        if left[14..] == sent[14..] {
            self.unchanged += 1;
            return;
        }
        let offset = u16::from_be_bytes([sent[20], sent[21]]) & 0x1fff;
        assert_ne!(offset, 0, "no fragment, but changed");
        assert_eq!(left[26..30], NODE.octets());
        assert_eq!((&left[14..24], &left[30..]), (&sent[14..24], &sent[30..]));
        let header = usize::from(left[14] & 15) * 4;
        assert_eq!(
            checksum(&[&sent[14..14 + header]]),
            checksum(&[&left[14..14 + header]])
        );
        self.masqueraded += 1;
    }

    fn note(&mut self, node: &Node, pod: &Pod, sent: &Bytes, left: &Bytes) {
        let (Some(before), Some(after)) = (Ipv4::read(sent), Ipv4::read(left)) else {
            self.note_without_ports(sent, left);
            return;
        };
        if before.has_right_header_checksum() {
            assert!(after.has_right_header_checksum(), "{:02x?}", &left[..]);
        }
        if before.has_right_transport_checksum() {
            assert!(after.has_right_transport_checksum(), "{:02x?}", &left[..]);
            self.with_right_checksums += 1;
        }
        if after.source() == NODE {
            self.masqueraded += 1;
            assert_reply_finds_the_pod(node, pod, &before, &after);
        } else {
            assert_eq!(left[14..], sent[14..]);
            self.unchanged += 1;
        }
    }

    fn assert_worth_it(&self) {
        let Self {
            dropped,
            masqueraded,
            with_right_checksums,
            unchanged,
        } = self;
        let least = *[dropped, masqueraded, with_right_checksums, unchanged]
            .into_iter()
            .min()
            .unwrap();
        assert!(least > PACKETS / 20, "too few of one kind: {self:?}");
    }
}

/// Answers what left, and expects the answer at the pod with the flow's original ends.
fn assert_reply_finds_the_pod(node: &Node, pod: &Pod, before: &Ipv4<'_>, after: &Ipv4<'_>) {
    let remote = (after.destination(), after.destination_port());
    let reply = |to| match after.protocol() {
        TCP => tcp(remote, to, 0x10),
        UDP => udp(remote, to),
        _ => echo_reply(remote.0, to),
    };
    let port = |packet: &Ipv4<'_>| match packet.protocol() {
        ICMP => packet.identifier(),
        _ => packet.source_port(),
    };
    assert_eq!(before.destination(), after.destination());
    let came = reply((NODE, port(after))).bytes();
    let (verdict, entered) = node.run(programs::FROM_UPLINK, &came);
    assert_eq!(verdict, Verdict::Passes);
    assert_eq!(entered, reply((pod.address, port(before))).bytes());
}

/// A packet as it comes from a pod whose owner means no good.
fn anything(rng: &mut Rng, pod: &Pod) -> Bytes {
    if rng.u8(..20) == 0 {
        let payload: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(60).collect();
        let ether_type = [0x0800, 0x0806, 0x88cc][rng.usize(..3)];
        return ethernet(pod.mac, FABRIC, ether_type, &payload);
    }
    let remote = DESTINATIONS[rng.usize(..DESTINATIONS.len())];
    let (from, to) = (any_port(rng), any_port(rng));
    let packet = something(rng, (pod.address, from), (remote, to));
    let mut frame = BytesMut::from(&packet.of(pod).bytes()[..]);
    for _ in 0..[0, 0, 0, 1, 1, 2, 3][rng.usize(..7)] {
        damage(rng, &mut frame);
    }
    frame.freeze()
}

/// A packet from a remote that begins a flow with a pod's own address.
fn something_for(rng: &mut Rng, pod: &Pod) -> Packet {
    let remote = ([REMOTE, OTHER_REMOTE][rng.usize(..2)], any_port(rng));
    let local = (pod.address, any_port(rng));
    match rng.u8(..3) {
        0 => tcp(remote, local, 0x02),
        1 => udp(remote, local),
        _ => echo(remote, local.0),
    }
}

/// A sound packet of any kind.
fn something(rng: &mut Rng, source: (Ipv4Addr, u16), remote: (Ipv4Addr, u16)) -> Packet {
    let length = [0, 1, 7, 64, 255, 1400][rng.usize(..6)];
    let payload: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
    let packet = match rng.u8(..12) {
        0..4 => tcp(source, remote, rng.u8(..)),
        4..7 => udp(source, remote),
        7 => udp(source, remote).without_checksum(),
        8..10 => echo(source, remote.0),
        10 => echo_reply(source.0, remote),
        _ => other(rng.u8(..), source.0, remote.0),
    };
    let options = [0, 0, 0, 4, 20, 40][rng.usize(..6)];
    packet.payload(&payload).options(&vec![1; options])
}

/// Few, so that packets meet flows that are there.
fn any_port(rng: &mut Rng) -> u16 {
    [0, 53, 50_000, 50_001, 50_002, 0xffff][rng.usize(..6)]
}

/// One thing about the frame is not as it should be, and mostly the header's checksum hides it.
fn damage(rng: &mut Rng, frame: &mut BytesMut) {
    match rng.u8(..8) {
        0 => frame[14] = 0x40 | rng.u8(..16),
        1 => frame[14] = rng.u8(..),
        2 => frame[16..18].copy_from_slice(&rng.u16(..).to_be_bytes()),
        3 => frame[16..18].copy_from_slice(&rng.u16(20..70).to_be_bytes()),
        4 => frame[20..22].copy_from_slice(&rng.u16(..).to_be_bytes()),
        5 => frame[23] = rng.u8(..),
        // The kernel runs no program on less than an Ethernet and an IPv4 header.
        6 => frame.truncate(rng.usize(34..=frame.len())),
        _ => {
            let offset = rng.usize(14..frame.len());
            frame[offset] = rng.u8(..);
        }
    }
    if rng.u8(..4) > 0 {
        frame[24..26].copy_from_slice(&[0, 0]);
        let end = (14 + usize::from(frame[14] & 15) * 4).clamp(34, frame.len());
        let sum = checksum(&[&frame[14..end]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The key of a packet that has a flow.
fn tuple_of(packet: &Ipv4<'_>) -> Option<Tuple> {
    let (source, destination) = (packet.source(), packet.destination());
    let (from, to) = match packet.protocol() {
        TCP | UDP => (packet.source_port(), packet.destination_port()),
        ICMP if packet.icmp_type() == 8 => (packet.identifier(), 0),
        ICMP if packet.icmp_type() == 0 => (0, packet.identifier()),
        _ => return None,
    };
    Some(Tuple::new(
        packet.protocol(),
        (source, from),
        (destination, to),
    ))
}
