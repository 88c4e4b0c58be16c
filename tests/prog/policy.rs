//! The policy: verdicts by protocol and port, and what becomes of connections when it changes.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Action, Judgement, PolicyState, Reason, TcpState};

use crate::flows::{Change, Tuple, inbound, masqueraded};
use crate::harness::Node;
use crate::packet::{ACK, FIN, FIRST, LATER, RST, SYN, TCP, UDP, echo, later_fragment, tcp, udp};
use crate::plan::{CURRENT, KEPT, NODE, REMOTE, TIMEOUTS, WEB, WIRESERVER};

const LOCAL: (Ipv4Addr, u16) = (WEB.address, KEPT);

/// 168.63.129.16 exempt, but DNS masqueraded, and TCP closed on port 80 and from 32512 to 32767.
fn by_port() -> Node {
    let mut node = Node::new();
    let exempt = Judgement {
        action: Action::EXEMPT,
        rules: 3,
    };
    node.set_judgement(CURRENT, WIRESERVER, 32, exempt);
    for (protocol, port, bits, action) in [
        (UDP, 53, 16, Action::MASQUERADE),
        (UDP, 0, 0, Action::EXEMPT),
        (TCP, 53, 16, Action::MASQUERADE),
        (TCP, 80, 16, Action::DROP),
        (TCP, 0x7f00, 8, Action::DROP),
    ] {
        node.set_rule(3, protocol, port, bits, action);
    }
    // Of another destination.
    node.set_rule(2, TCP, 81, 16, Action::DROP);
    node
}

#[test]
fn the_port_decides_where_the_destination_has_rules() {
    let node = by_port();
    for port in [80, 0x7f00, 0x7f80, 0x7fff] {
        node.to_uplink(&tcp(LOCAL, (WIRESERVER, port), SYN).of(&WEB))
            .drops(Reason::PolicyDrop, &[]);
    }
    for packet in [
        tcp(LOCAL, (WIRESERVER, 81), SYN),
        tcp(LOCAL, (WIRESERVER, 0x7eff), SYN),
        tcp(LOCAL, (WIRESERVER, 0x8000), SYN),
        udp(LOCAL, (WIRESERVER, 80)),
        udp(LOCAL, (WIRESERVER, 54)),
        echo(LOCAL, WIRESERVER),
    ] {
        let left = packet.clone().leaving();
        node.to_uplink(&packet.of(&WEB))
            .passes(Reason::Exempt, &left, &[]);
    }
    let dns = (WIRESERVER, 53);
    node.to_uplink(&udp(LOCAL, dns).of(&WEB)).passes(
        Reason::FlowCreated,
        &udp((NODE, KEPT), dns).leaving(),
        &masqueraded(Tuple::udp(LOCAL, dns), &WEB, KEPT),
    );
    node.to_uplink(&tcp(LOCAL, dns, SYN).of(&WEB)).passes(
        Reason::FlowCreated,
        &tcp((NODE, KEPT), dns, SYN).leaving(),
        &masqueraded(Tuple::tcp(LOCAL, dns), &WEB, KEPT),
    );
}

/// Only the first fragment has a port, so the others follow it, and do not leave without.
#[test]
fn fragments_follow_their_first_where_ports_decide() {
    let node = by_port();
    let later = || later_fragment(UDP, WEB.address, WIRESERVER);
    node.to_uplink(&later().of(&WEB))
        .drops(Reason::Fragment, &[]);
    let first = udp(LOCAL, (WIRESERVER, 80)).fragment(FIRST);
    node.to_uplink(&first.clone().of(&WEB))
        .passes(Reason::Exempt, &first.leaving(), &[]);
    for field in [FIRST | LATER, 2 * LATER] {
        let later = later().fragment(field);
        node.to_uplink(&later.clone().of(&WEB))
            .passes(Reason::InboundReply, &later.leaving(), &[]);
    }
}

#[test]
fn headers_without_a_port_do_not_leave_where_ports_decide() {
    let node = by_port();
    let whole = tcp(LOCAL, (WIRESERVER, 81), SYN).of(&WEB).bytes();
    for length in 34..whole.len() {
        node.to_uplink(whole.slice(..length))
            .drops(Reason::Malformed, &[]);
    }
}

/// A probe from a port that pods may not open a connection to, or only masqueraded, is answered all the same.
#[test]
fn what_came_in_from_a_closed_port_is_answered() {
    let node = by_port();
    for port in [80, 53] {
        let (probe, service) = ((WIRESERVER, port), (WEB.address, 8080));
        let request = tcp(probe, service, SYN);
        let tuple = Tuple::tcp(service, probe);
        node.from_uplink(&request).passes(
            Reason::InboundRecorded,
            &request,
            &[Change::added(inbound(tuple, &WEB))],
        );
        let reply = tcp(service, probe, SYN | ACK);
        node.to_uplink(&reply.clone().of(&WEB))
            .passes(Reason::InboundReply, &reply.leaving(), &[]);
    }
}

#[test]
fn only_the_policy_in_force_is_asked() {
    let mut node = Node::new();
    let closed = Judgement {
        action: Action::DROP,
        rules: 0,
    };
    node.set_judgement(CURRENT + 1, REMOTE, 32, closed);
    let sent = udp(LOCAL, (REMOTE, 53)).of(&WEB);
    let tuple = Tuple::udp(LOCAL, (REMOTE, 53));
    node.to_uplink(&sent).passes(
        Reason::FlowCreated,
        &udp((NODE, KEPT), (REMOTE, 53)).leaving(),
        &masqueraded(tuple, &WEB, KEPT),
    );
    node.set_policy_state(PolicyState {
        current: CURRENT + 1,
        ..PolicyState::default()
    });
    node.to_uplink(&udp((WEB.address, KEPT + 1), (REMOTE, 53)).of(&WEB))
        .drops(Reason::PolicyDrop, &[]);
}

mod change {
    use super::*;

    /// A node whose policy let everything out with the pod's address until now.
    fn after_everything_was_exempt(until: u64) -> Node {
        let mut node = Node::new();
        let exempt = Judgement {
            action: Action::EXEMPT,
            rules: 0,
        };
        node.set_judgement(CURRENT - 1, Ipv4Addr::UNSPECIFIED, 0, exempt);
        node.set_policy_state(PolicyState {
            current: CURRENT,
            previous: CURRENT - 1,
            until,
            ..PolicyState::default()
        });
        node
    }

    #[test]
    fn a_connection_goes_on_as_it_began() {
        let remote = (REMOTE, 443);
        let tuple = Tuple::tcp(LOCAL, remote);
        for (flags, timeout, state) in [
            (ACK, TIMEOUTS.unproven, TcpState::ESTABLISHED),
            (
                FIN | ACK,
                TIMEOUTS.unproven,
                TcpState::ESTABLISHED | TcpState::CLOSING,
            ),
        ] {
            let node = after_everything_was_exempt(u64::MAX);
            let sent = tcp(LOCAL, remote, flags);
            let (_, entry) = inbound(tuple, &WEB);
            node.to_uplink(&sent.clone().of(&WEB)).passes(
                Reason::Exempt,
                &sent.clone().leaving(),
                &[Change::Added(tuple, entry.state(timeout, state))],
            );
            // By now whatever the policies say.
            node.to_uplink(&sent.clone().of(&WEB)).passes(
                Reason::InboundReply,
                &sent.leaving(),
                &[],
            );
        }
    }

    #[test]
    fn a_connection_that_begins_is_masqueraded() {
        let node = after_everything_was_exempt(u64::MAX);
        let remote = (REMOTE, 443);
        node.to_uplink(&tcp(LOCAL, remote, SYN).of(&WEB)).passes(
            Reason::FlowCreated,
            &tcp((NODE, KEPT), remote, SYN).leaving(),
            &masqueraded(Tuple::tcp(LOCAL, remote), &WEB, KEPT),
        );
        node.to_uplink(&udp(LOCAL, remote).of(&WEB)).passes(
            Reason::FlowCreated,
            &udp((NODE, KEPT), remote).leaving(),
            &masqueraded(Tuple::udp(LOCAL, remote), &WEB, KEPT),
        );
    }

    #[test]
    fn so_is_one_that_was_silent_for_too_long() {
        for node in [after_everything_was_exempt(1), Node::new()] {
            let remote = (REMOTE, 443);
            let run = node.to_uplink(&tcp(LOCAL, remote, ACK).of(&WEB));
            assert_eq!(run.outcome().1, [(Reason::FlowCreated, 1)]);
        }
    }

    #[test]
    fn what_is_closed_now_ends() {
        let mut node = after_everything_was_exempt(u64::MAX);
        node.set_policy(REMOTE, 32, Action::DROP);
        for flags in [ACK, RST | ACK] {
            node.to_uplink(&tcp(LOCAL, (REMOTE, 443), flags).of(&WEB))
                .drops(Reason::PolicyDrop, &[]);
        }
    }
}
