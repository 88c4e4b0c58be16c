//! A flow on the fast path: what leaves the pod's veth for the NIC and the NIC for the pod's veth is
//! the same packet, byte for byte, that hooks and routing make of it on the slow path; and what takes the slow
//! path all the same.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Direct, FlowFlags, Mac, Reason, TcpState, programs};

use crate::flows::{Change, Entry, Tuple, outgoing, replies};
use crate::harness::Node;
use crate::packet::{
    ACK, End, FIN, FIRST, LATER, Packet, RST, SYN, echo, icmp_error, later_fragment, tcp, udp,
};
use crate::plan::{
    DATABASE, FABRIC, HZ, KEPT, MTU, NIC, NODE, OTHER_REMOTE, PORTS, Pod, REMOTE, REPLACED,
    TIMEOUTS, WEB,
};

const REMOTE_END: End = (REMOTE, 443);
const ESTABLISHED: (u32, u8) = (TIMEOUTS.tcp_established, TcpState::ESTABLISHED);
const NEW_MAC: Mac = Mac([0x0a, 0, 0, 0, 0, 0x99]);

/// A fast flow of a pod.
struct Fast {
    node: Node,
    pod: Pod,
    tuple: Tuple,
    local: End,
    /// The port that it leaves from.
    port: u16,
}

impl Fast {
    fn tcp(port: u16) -> Self {
        let first = |local| tcp(local, REMOTE_END, SYN);
        Self::begin(Node::new(), WEB, port, Tuple::tcp, first)
    }

    /// A second is so long that the test is over before the flow is to be judged again.
    fn udp(port: u16) -> Self {
        let first = |local| udp(local, REMOTE_END);
        let mut fast = Self::begin(Node::new(), WEB, port, Tuple::udp, first);
        fast.node.configure(PORTS, 1000 * HZ);
        fast
    }

    fn begin(
        mut node: Node,
        pod: Pod,
        port: u16,
        tuple: fn(End, End) -> Tuple,
        first: impl Fn(End) -> Packet,
    ) -> Self {
        let local = (pod.address, port);
        let tuple = tuple(local, REMOTE_END);
        let _ = node.to_uplink(&first(local).of(&pod));
        let port = node.flow(tuple).port.to_host();
        node.make_fast([tuple, tuple.sent_from(NODE, port).reversed()]);
        Self {
            node,
            pod,
            tuple,
            local,
            port,
        }
    }

    fn node_end(&self) -> End {
        (NODE, self.port)
    }

    /// The entry for the pod's packets.
    fn out(&self) -> (Tuple, Entry) {
        let (tuple, entry) = outgoing(self.tuple, &self.pod, self.port);
        (tuple, entry.fast())
    }

    /// The entry for the replies.
    fn back(&self) -> (Tuple, Entry) {
        let (tuple, entry) = replies(self.tuple, &self.pod, self.port);
        (tuple, entry.fast())
    }

    /// The packet leaves from the pod's veth, and passes the NIC's hook as the node's own.
    #[track_caller]
    fn leaves(&self, packet: &Packet, changes: &[Change]) {
        let left = packet.clone().source(self.node_end()).leaving().routed();
        self.node
            .from_pod(&self.pod, &packet.clone().of(&self.pod))
            .redirects(Reason::MasqueradedFast, &left, changes);
        self.node
            .to_uplink(&left)
            .passes(Reason::NotOurs, &left, &[]);
    }

    /// The packet goes on to the bridge as it is.
    #[track_caller]
    fn is_slow(&self, packet: &Packet, changes: &[Change]) {
        self.node
            .from_pod(&self.pod, packet)
            .passes(Reason::NotOurs, packet, changes);
    }

    /// The reply is delivered to the pod's veth.
    #[track_caller]
    fn enters(&self, packet: &Packet, changes: &[Change]) {
        let entered = packet
            .clone()
            .destination(self.local)
            .entering(&self.pod)
            .routed();
        self.node
            .from_uplink(packet)
            .redirects(Reason::UnmasqueradedFast, &entered, changes);
    }
}

/// An entry in another state.
fn in_state((tuple, entry): (Tuple, Entry), (timeout, state): (u32, u8)) -> Change {
    Change::Changed(tuple, entry.state(timeout, state))
}

#[test]
fn a_connection_is_rewritten_both_ways_with_its_state() {
    for port in [KEPT, REPLACED] {
        let fast = Fast::tcp(port);
        let established = [in_state(fast.out(), ESTABLISHED)];
        fast.leaves(&tcp(fast.local, REMOTE_END, ACK), &established);
        let answered = [in_state(fast.back(), ESTABLISHED)];
        fast.enters(&tcp(REMOTE_END, fast.node_end(), ACK), &answered);
        fast.leaves(&tcp(fast.local, REMOTE_END, ACK).payload(b"?"), &[]);
        fast.enters(&tcp(REMOTE_END, fast.node_end(), ACK).payload(b"!"), &[]);
    }
}

/// The end of a connection is not left to connection tracking, which has not seen its middle.
#[test]
fn fin_and_rst_are_fast_and_end_the_flow() {
    for flags in [FIN | ACK, RST, RST | ACK] {
        let fast = Fast::tcp(REPLACED);
        let _ = fast
            .node
            .from_pod(&WEB, &tcp(fast.local, REMOTE_END, ACK).of(&WEB));
        let run = fast
            .node
            .from_pod(&WEB, &tcp(fast.local, REMOTE_END, flags).of(&WEB));
        assert_eq!(run.outcome().1, [(Reason::MasqueradedFast, 1)]);
        for (tuple, _) in [fast.out(), fast.back()] {
            let flow = fast.node.flow(tuple);
            assert_eq!(flow.timeout, (TIMEOUTS.tcp_closing + 1) * HZ, "{flags:#x}");
            assert_eq!(flow.flags, FlowFlags::FAST, "{flags:#x}");
        }
    }
}

#[test]
fn datagrams_of_any_length_are_rewritten_both_ways() {
    for port in [KEPT, REPLACED] {
        let fast = Fast::udp(port);
        for length in [0, 1, 2, 3, 18, 63, 64, 1400, usize::from(MTU) - 33] {
            let payload = vec![0xc3; length];
            let out = udp(fast.local, REMOTE_END).payload(&payload);
            fast.leaves(&out, &[]);
            fast.leaves(&out.clone().without_checksum(), &[]);
            fast.leaves(&out.padded(5), &[]);
            let back = udp(REMOTE_END, fast.node_end()).payload(&payload);
            fast.enters(&back, &[]);
            fast.enters(&back.clone().without_checksum(), &[]);
            fast.enters(&back.padded(5), &[]);
        }
    }
}

/// RFC 768: a checksum that comes out as 0 is sent as 0xffff, because 0 says "none".
#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_ones() {
    let fast = Fast::udp(REPLACED);
    let sums_to_zero = |packet: Packet| {
        let with = |word: u16| packet.clone().payload(&word.to_be_bytes());
        let zero = with(0).bytes();
        let at = packet.transport_offset() + 6;
        let word = u16::from_be_bytes([zero[at], zero[at + 1]]);
        let ones = with(word);
        assert_eq!(ones.bytes()[at..at + 2], [0xff, 0xff]);
        word
    };
    let word = sums_to_zero(udp(fast.node_end(), REMOTE_END)).to_be_bytes();
    fast.leaves(&udp(fast.local, REMOTE_END).payload(&word), &[]);
    let word = sums_to_zero(udp(REMOTE_END, fast.local)).to_be_bytes();
    fast.enters(&udp(REMOTE_END, fast.node_end()).payload(&word), &[]);
}

/// The sum of the pod's address is that of the node's: the checksum does not show whether the kernel's
/// helper took it for a complete one.
#[test]
fn an_address_with_the_sum_of_the_nodes_is_rewritten_as_well() {
    let twin = Pod {
        address: Ipv4Addr::new(10, 241, 0, 3),
        ..WEB
    };
    for port in [KEPT, REPLACED] {
        for (tuple, packet) in [
            (
                Tuple::udp as fn(End, End) -> Tuple,
                udp as fn(End, End) -> Packet,
            ),
            (Tuple::tcp, |from, to| tcp(from, to, ACK)),
        ] {
            let mut node = Node::new();
            node.add_pod(&twin);
            let fast = Fast::begin(node, twin, port, tuple, |local| packet(local, REMOTE_END));
            let out = packet(fast.local, REMOTE_END);
            let left = out.clone().source(fast.node_end()).leaving().routed();
            let run = fast.node.from_pod(&twin, &out.of(&twin));
            run.redirects(Reason::MasqueradedFast, &left, &[]);
            let back = packet(REMOTE_END, fast.node_end());
            let entered = back
                .clone()
                .destination(fast.local)
                .entering(&twin)
                .routed();
            assert_eq!(
                fast.node.run(programs::FROM_UPLINK, &back.bytes()).1,
                entered.bytes()
            );
        }
    }
}

/// Rules have to see every connection begin, and are asked anew whether to translate it.
#[test]
fn what_opens_a_connection_is_slow_both_ways() {
    let fast = Fast::tcp(REPLACED);
    let slow = |(tuple, entry): (Tuple, Entry)| Change::Changed(tuple, Entry { flags: 0, ..entry });
    let syn = tcp(fast.local, REMOTE_END, SYN).of(&WEB);
    fast.is_slow(&syn, &[slow(fast.out()), slow(fast.back())]);

    // It is slow from then on, unless its SYN shows at the NIC that nobody translated it.
    let ack = tcp(fast.local, REMOTE_END, ACK).of(&WEB);
    fast.is_slow(&ack, &[]);

    let fast = Fast::tcp(REPLACED);
    let syn_ack = tcp(REMOTE_END, fast.node_end(), SYN | ACK);
    let entered = syn_ack.clone().destination(fast.local);
    fast.node
        .from_uplink(&syn_ack)
        .passes(Reason::Unmasqueraded, &entered, &[]);
}

/// What others have done about it has its effect then: rules, Services, connection tracking. Its replies go on as they did.
#[test]
fn datagrams_are_slow_once_a_second_until_one_has_arrived() {
    for options in [&[][..], &[1; 4]] {
        let mut fast = Fast::udp(REPLACED);
        fast.node.age_all(1000 * HZ);
        let sent = udp(fast.local, REMOTE_END).options(options).of(&WEB);
        let (tuple, entry) = fast.out();
        let slow = Entry { flags: 0, ..entry };
        fast.is_slow(&sent, &[Change::Changed(tuple, slow)]);
        fast.is_slow(&sent, &[]);
        fast.enters(&udp(REMOTE_END, fast.node_end()), &[]);
    }
    // A connection is judged when it begins.
    let mut fast = Fast::tcp(REPLACED);
    fast.node.age_all(1000 * HZ);
    let run = fast
        .node
        .from_pod(&WEB, &tcp(fast.local, REMOTE_END, ACK).of(&WEB));
    assert_eq!(run.outcome().1, [(Reason::MasqueradedFast, 1)]);
}

/// With an address that the NIC has not any more nothing leaves. Datagrams get the new one; a connection as well, whose remote resets it then.
#[test]
fn a_flow_with_an_address_of_before_begins_anew() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 77);
    for (mut fast, packet) in [
        (Fast::udp(KEPT), udp as fn(End, End) -> Packet),
        (Fast::tcp(KEPT), |from, to| tcp(from, to, ACK)),
    ] {
        fast.node.set_address(OTHER);
        let sent = packet(fast.local, REMOTE_END).of(&WEB);
        let ((tuple, _), (back, _)) = (fast.out(), fast.back());
        let run = fast.node.from_pod(&WEB, &sent);
        assert_eq!(run.outcome().1, []);
        let run = fast.node.to_uplink(&sent);
        assert_eq!(run.outcome().1, [(Reason::FlowCreated, 1)]);
        assert_eq!(Ipv4Addr::from(fast.node.flow(tuple).address), OTHER);
        assert!(!fast.node.has_flow(back));

        // An error about a flow that had the old one does not leave either.
        fast.node.set_address(NODE);
        let got = packet(REMOTE_END, fast.local);
        let error = icmp_error(3, WEB.address, REMOTE, &got, 28).of(&WEB);
        fast.node
            .to_uplink(&error)
            .drops(Reason::UnsupportedProtocol, &[]);
    }
}

/// More than 64 KiB, which are cut into segments later, have no length that the header could say (IPv4 BIG TCP).
#[test]
fn a_length_of_zero_is_the_buffers() {
    let fast = Fast::tcp(REPLACED);
    let _ = fast
        .node
        .from_pod(&WEB, &tcp(fast.local, REMOTE_END, ACK).of(&WEB));
    let sent = tcp(fast.local, REMOTE_END, ACK)
        .payload(&[7; 900])
        .without_length();
    let left = sent.clone().source(fast.node_end()).leaving().routed();
    fast.node
        .from_pod_in_segments(&WEB, &sent.clone().of(&WEB), 2, 450)
        .redirects(Reason::MasqueradedFast, &left, &[]);
    // One that is not cut has a length.
    fast.node
        .to_uplink(&sent.of(&WEB))
        .drops(Reason::Malformed, &[]);
}

#[test]
fn a_flow_that_is_not_fast_is_slow_both_ways() {
    let mut fast = Fast::udp(REPLACED);
    for (tuple, _) in [fast.out(), fast.back()] {
        let mut flow = fast.node.flow(tuple);
        flow.flags = 0;
        fast.node.set_flow(tuple, flow);
    }
    fast.is_slow(&udp(fast.local, REMOTE_END).of(&WEB), &[]);
    let reply = udp(REMOTE_END, fast.node_end());
    let entered = reply.clone().destination(fast.local);
    fast.node
        .from_uplink(&reply)
        .passes(Reason::Unmasqueraded, &entered, &[]);
}

/// A pod of v0.1.0 that still knows others than the router: it asks again soon.
#[test]
fn what_is_sent_to_another_mac_is_slow() {
    let fast = Fast::udp(REPLACED);
    let packet = udp(fast.local, REMOTE_END);
    for packet in [packet.clone(), packet.options(&[1; 4])] {
        for mac in [NIC, DATABASE.mac] {
            fast.node
                .from_pod(&WEB, &packet.clone().frame(WEB.mac, mac))
                .passes(Reason::NotOurs, &packet.clone().of(&WEB), &[]);
        }
    }
}

/// What would have no router left to live for is the node's to complain about, in every form of packet.
#[test]
fn what_lives_no_longer_is_slow_both_ways() {
    for routers in [0, 1] {
        let fast = Fast::udp(REPLACED);
        let last = |packet: Packet| packet.time_to_live(routers);
        let out = udp(fast.local, REMOTE_END);
        for packet in [
            out.clone(),
            out.clone().options(&[1; 4]),
            out.fragment(FIRST),
            icmp_error(3, WEB.address, REMOTE, &udp(REMOTE_END, fast.local), 28),
        ] {
            fast.is_slow(&last(packet).of(&WEB), &[]);
        }

        let came = last(udp(REMOTE_END, fast.node_end()));
        let routed = came.clone().destination(fast.local);
        fast.node
            .from_uplink(&came)
            .passes(Reason::Unmasqueraded, &routed, &[]);
        let about = |local| udp(local, REMOTE_END);
        let came = last(icmp_error(
            11,
            OTHER_REMOTE,
            NODE,
            &about(fast.node_end()),
            28,
        ));
        let routed = last(icmp_error(
            11,
            OTHER_REMOTE,
            WEB.address,
            &about(fast.local),
            28,
        ));
        fast.node
            .from_uplink(&came)
            .passes(Reason::IcmpErrorIn, &routed, &[]);
    }
}

#[test]
fn fragments_that_live_no_longer_are_slow_both_ways() {
    let fast = Fast::udp(REPLACED);
    let first = udp(fast.local, REMOTE_END).fragment(FIRST);
    let _ = fast.node.from_pod(&WEB, &first.of(&WEB));
    let later = later_fragment(17, WEB.address, REMOTE).time_to_live(1);
    fast.is_slow(&later.of(&WEB), &[]);

    let came = udp(REMOTE_END, fast.node_end()).fragment(FIRST);
    fast.enters(&came, &[]);
    let later = later_fragment(17, REMOTE, NODE).time_to_live(1);
    let routed = later.clone().destination((WEB.address, 0));
    fast.node
        .from_uplink(&later)
        .passes(Reason::Unmasqueraded, &routed, &[]);
}

/// The header's checksum has the time to live in it, whatever the sum is.
#[test]
fn the_time_to_live_goes_down_by_one_from_wherever_it_is() {
    let fast = Fast::udp(REPLACED);
    for routers in 2..=u8::MAX {
        for identification in [0, 0x1234, 0x8000, 0xfffe, 0xffff] {
            let shaped = |packet: Packet| {
                let packet = packet.time_to_live(routers);
                packet.identification(identification)
            };
            let out = shaped(udp(fast.local, REMOTE_END));
            let left = out.clone().source(fast.node_end()).leaving().routed();
            let (_, frame) = fast
                .node
                .run_from_device(WEB.ifindex, &out.of(&WEB).bytes());
            assert_eq!(frame, left.bytes(), "{routers}, {identification:#x}");
            let back = shaped(udp(REMOTE_END, fast.node_end()));
            let entered = back.clone().destination(fast.local).entering(&WEB).routed();
            let (_, frame) = fast.node.run(programs::FROM_UPLINK, &back.bytes());
            assert_eq!(frame, entered.bytes(), "{routers}, {identification:#x}");
        }
    }
}

#[test]
fn what_the_nic_cannot_send_is_slow() {
    let fast = Fast::udp(REPLACED);
    let payload = vec![7; usize::from(MTU) - 27];
    fast.is_slow(&udp(fast.local, REMOTE_END).payload(&payload).of(&WEB), &[]);

    // In segments it is the segments that have to fit.
    let large = udp(fast.local, REMOTE_END).payload(&[7; 2900]).of(&WEB);
    let left = large.clone().source(fast.node_end()).leaving().routed();
    let fits = u32::from(MTU) - 28;
    let run = fast.node.from_pod_in_segments(&WEB, &large, 2, fits);
    run.redirects(Reason::MasqueradedFast, &left, &[]);
    let run = fast.node.from_pod_in_segments(&WEB, &large, 2, fits + 1);
    run.passes(Reason::NotOurs, &large, &[]);

    let fast = Fast::tcp(REPLACED);
    let large = tcp(fast.local, REMOTE_END, ACK)
        .payload(&[7; 2900])
        .of(&WEB);
    let left = large.clone().source(fast.node_end()).leaving().routed();
    let fits = u32::from(MTU) - 40;
    let run = fast.node.from_pod_in_segments(&WEB, &large, 2, fits + 1);
    run.passes(Reason::NotOurs, &large, &[]);
    let run = fast.node.from_pod_in_segments(&WEB, &large, 2, fits);
    let established = [in_state(fast.out(), ESTABLISHED)];
    run.redirects(Reason::MasqueradedFast, &left, &established);
}

/// The flow is of one veth, so another's packets with its addresses are nothing but spoofed.
#[test]
fn another_pod_cannot_send_into_the_flow() {
    let fast = Fast::udp(REPLACED);
    let spoofed = udp(fast.local, REMOTE_END).of(&DATABASE);
    fast.node
        .from_pod(&DATABASE, &spoofed)
        .drops(Reason::SpoofedAddress, &[]);
    let spoofed = spoofed.options(&[1, 1, 1, 0]);
    fast.node
        .from_pod(&DATABASE, &spoofed)
        .drops(Reason::SpoofedAddress, &[]);
}

#[test]
fn ip_options_are_fast_as_well() {
    for options in [&[0x94, 4, 0, 0][..], &[1; 40]] {
        let fast = Fast::udp(REPLACED);
        let out = udp(fast.local, REMOTE_END).options(options);
        let left = out.clone().source(fast.node_end()).leaving().routed();
        fast.node
            .from_pod(&WEB, &out.of(&WEB))
            .redirects(Reason::MasqueradedFast, &left, &[]);
        fast.enters(&udp(REMOTE_END, fast.node_end()).options(options), &[]);
    }
}

/// All fragments go the way of the first: a part of them would never be put together.
#[test]
fn fragments_are_fast_if_the_first_is() {
    let fast = Fast::udp(REPLACED);
    let first = udp(fast.local, REMOTE_END)
        .fragment(FIRST)
        .identification(7);
    let later = later_fragment(17, WEB.address, REMOTE).identification(7);
    fast.is_slow(&later.clone().of(&WEB), &[]);
    let left = first.clone().source(fast.node_end()).leaving().routed();
    fast.node
        .from_pod(&WEB, &first.of(&WEB))
        .redirects(Reason::MasqueradedFast, &left, &[]);
    let left = later.clone().source((NODE, 0)).leaving().routed();
    fast.node.from_pod(&WEB, &later.clone().of(&WEB)).redirects(
        Reason::MasqueradedFast,
        &left,
        &[],
    );
    fast.node
        .from_pod(&DATABASE, &later.of(&DATABASE))
        .drops(Reason::SpoofedAddress, &[]);

    fast.enters(
        &udp(REMOTE_END, fast.node_end())
            .fragment(FIRST)
            .identification(8),
        &[],
    );
    let later = later_fragment(17, REMOTE, NODE)
        .fragment(LATER)
        .identification(8);
    let entered = later
        .clone()
        .destination((WEB.address, 0))
        .entering(&WEB)
        .routed();
    fast.node
        .from_uplink(&later)
        .redirects(Reason::UnmasqueradedFast, &entered, &[]);
}

/// Connection tracking may have forgotten the flow by now, and would call them invalid.
#[test]
fn icmp_errors_about_a_fast_flow_are_fast() {
    let fast = Fast::udp(REPLACED);
    let got = udp(REMOTE_END, fast.local);
    let sent = udp(REMOTE_END, fast.node_end());
    let complaint = icmp_error(3, WEB.address, REMOTE, &got, 28);
    let left = icmp_error(3, NODE, REMOTE, &sent, 28).leaving().routed();
    fast.node
        .from_pod(&WEB, &complaint.of(&WEB))
        .redirects(Reason::MasqueradedFast, &left, &[]);

    let complaint = icmp_error(3, OTHER_REMOTE, NODE, &udp(fast.node_end(), REMOTE_END), 28);
    let entered = icmp_error(
        3,
        OTHER_REMOTE,
        WEB.address,
        &udp(fast.local, REMOTE_END),
        28,
    )
    .entering(&WEB)
    .routed();
    fast.node
        .from_uplink(&complaint)
        .redirects(Reason::UnmasqueradedFast, &entered, &[]);
}

/// The kernel takes them off on the way through a veth, and not on the way past its host's end.
#[test]
fn marks_of_the_node_stay_there() {
    for (direct, expected) in [(Direct::YES, 0), (Direct::HELD_BACK, 7)] {
        let mut fast = Fast::udp(KEPT);
        fast.node.set_direct(WEB.ifindex, direct);
        let reply = udp(REMOTE_END, fast.node_end());
        assert_eq!(fast.node.mark_after_from_uplink(&reply, 7), expected);
        fast.enters(&reply, &[]);
    }
}

#[test]
fn an_echo_is_slow() {
    let node = Node::new();
    let request = echo((WEB.address, KEPT), REMOTE).of(&WEB);
    let _ = node.to_uplink(&request);
    node.from_pod(&WEB, &request)
        .passes(Reason::NotOurs, &request, &[]);
}

/// The `tuning` plugin, or the pod itself, gives the interface another MAC.
#[test]
fn a_new_mac_is_learnt_and_replies_follow_it() {
    let fast = Fast::udp(REPLACED);
    let out = udp(fast.local, REMOTE_END);
    let left = out.clone().source(fast.node_end()).leaving().routed();
    let moved = |(tuple, entry): (Tuple, Entry)| {
        let mac = NEW_MAC.0;
        Change::Changed(tuple, Entry { mac, ..entry })
    };
    fast.node
        .from_pod(&WEB, &out.clone().frame(NEW_MAC, FABRIC))
        .redirects(
            Reason::MasqueradedFast,
            &left,
            &[moved(fast.out()), moved(fast.back())],
        );
    assert_eq!(fast.node.known_macs(&WEB), (NEW_MAC, NEW_MAC));
    let reply = udp(REMOTE_END, fast.node_end());
    let entered = reply
        .clone()
        .destination(fast.local)
        .frame(FABRIC, NEW_MAC)
        .routed();
    fast.node
        .from_uplink(&reply)
        .redirects(Reason::UnmasqueradedFast, &entered, &[]);
    fast.node
        .from_pod(&WEB, &out.frame(NIC, FABRIC))
        .drops(Reason::SpoofedMac, &[]);
}

/// The address has been given to another pod: what is left of a flow must not be sent to the veth of
/// the one before.
#[test]
fn a_flow_that_comes_from_another_veth_is_slow_from_then_on() {
    let local = (WEB.address, REPLACED);
    for (tuple, packet) in [
        (Tuple::udp as fn(End, End) -> Tuple, udp(local, REMOTE_END)),
        (Tuple::tcp, tcp(local, REMOTE_END, SYN)),
    ] {
        let mut fast = Fast::begin(Node::new(), WEB, REPLACED, tuple, |_| packet.clone());
        let successor = Pod {
            ifindex: DATABASE.ifindex,
            mac: NEW_MAC,
            ..WEB
        };
        fast.node.add_pod(&successor);
        let of_successor = |(tuple, entry): (Tuple, Entry)| {
            let (ifindex, mac) = (successor.ifindex, successor.mac.0);
            let entry = Entry {
                ifindex,
                mac,
                flags: 0,
                ..entry
            };
            Change::Changed(tuple, entry)
        };
        let left = packet.clone().source(fast.node_end()).leaving();
        fast.node.to_uplink(&packet.of(&successor)).passes(
            Reason::Masqueraded,
            &left,
            &[of_successor(fast.out()), of_successor(fast.back())],
        );
    }
}
