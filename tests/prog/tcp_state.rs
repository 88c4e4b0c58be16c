//! How far a masqueraded TCP connection got, and when it is over if nobody says more.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Be16, Reason, TcpState};

use crate::flows::{Change, Tuple, outgoing, replies};
use crate::harness::Node;
use crate::packet::{ACK, FIN, RST, SYN, tcp};
use crate::plan::{KEPT, NODE, REMOTE, TIMEOUTS, WEB};

const LOCAL: (Ipv4Addr, u16) = (WEB.address, KEPT);
const REMOTE_END: (Ipv4Addr, u16) = (REMOTE, 443);

const OPENING: (u32, u8) = (TIMEOUTS.tcp_opening, 0);
const ESTABLISHED: (u32, u8) = (TIMEOUTS.tcp_established, TcpState::ESTABLISHED);
/// After a FIN or RST of this side.
const CLOSING: (u32, u8) = (
    TIMEOUTS.tcp_closing,
    TcpState::ESTABLISHED | TcpState::CLOSING,
);
/// After a RST of the other side, when this one had not got past its first packet.
const REFUSED: [(u32, u8); 2] = [
    (TIMEOUTS.unproven, TcpState::CLOSING),
    (TIMEOUTS.unproven, TcpState::ESTABLISHED | TcpState::CLOSING),
];

/// One connection; each step says what it changes in the entry for the pod's packets and in that
/// for the replies.
struct Connection {
    node: Node,
    begun: bool,
}

impl Connection {
    fn new() -> Self {
        let node = Node::new();
        Self { node, begun: false }
    }

    /// With a handshake behind it.
    fn established() -> Self {
        let mut connection = Self::new();
        connection.pod_sends(SYN, Some(OPENING), Some(OPENING));
        connection.remote_sends(SYN | ACK, None, None);
        connection.pod_sends(ACK, Some(ESTABLISHED), None);
        connection.remote_sends(ACK, None, Some(ESTABLISHED));
        connection
    }

    #[track_caller]
    fn pod_sends(&mut self, flags: u8, out: Option<(u32, u8)>, back: Option<(u32, u8)>) {
        let reason = if self.begun {
            Reason::Masqueraded
        } else {
            Reason::FlowCreated
        };
        let sent = tcp(LOCAL, REMOTE_END, flags).of(&WEB);
        let left = tcp((NODE, KEPT), REMOTE_END, flags).leaving();
        self.node
            .to_uplink(&sent)
            .passes(reason, &left, &self.changes(out, back));
        self.begun = true;
    }

    #[track_caller]
    fn remote_sends(&mut self, flags: u8, out: Option<(u32, u8)>, back: Option<(u32, u8)>) {
        let came = tcp(REMOTE_END, (NODE, KEPT), flags);
        let entered = tcp(REMOTE_END, LOCAL, flags);
        self.node.from_uplink(&came).passes(
            Reason::Unmasqueraded,
            &entered,
            &self.changes(out, back),
        );
    }

    fn changes(&self, out: Option<(u32, u8)>, back: Option<(u32, u8)>) -> Vec<Change> {
        let tuple = Tuple::tcp(LOCAL, REMOTE_END);
        [
            (outgoing(tuple, &WEB, KEPT), out),
            (replies(tuple, &WEB, KEPT), back),
        ]
        .into_iter()
        .filter_map(|((tuple, entry), state)| {
            let (timeout, bits) = state?;
            let entry = entry.state(timeout, bits);
            Some(if self.begun {
                Change::Changed(tuple, entry)
            } else {
                Change::Added(tuple, entry)
            })
        })
        .collect()
    }
}

#[test]
fn each_direction_is_established_by_its_own_first_packet_after_the_syn() {
    let _ = Connection::established();
}

/// A simultaneous open (RFC 9293, section 3.5): the SYNs of both sides cross, and each is answered.
#[test]
fn syns_that_cross_open_a_connection() {
    let mut connection = Connection::new();
    connection.pod_sends(SYN, Some(OPENING), Some(OPENING));
    connection.remote_sends(SYN, None, None);
    connection.pod_sends(SYN | ACK, None, None);
    connection.remote_sends(SYN | ACK, None, None);
    connection.pod_sends(ACK, Some(ESTABLISHED), None);
    connection.remote_sends(ACK, None, Some(ESTABLISHED));
    connection.pod_sends(FIN | ACK, Some(CLOSING), Some(CLOSING));
}

#[test]
fn data_changes_nothing() {
    let mut connection = Connection::established();
    for _ in 0..3 {
        connection.pod_sends(ACK, None, None);
        connection.remote_sends(ACK, None, None);
    }
}

#[test]
fn a_fin_or_rst_of_the_pod_closes_both_directions() {
    for flags in [FIN | ACK, RST, RST | ACK] {
        let mut connection = Connection::established();
        connection.pod_sends(flags, Some(CLOSING), Some(CLOSING));
        connection.remote_sends(ACK, None, None);
        connection.remote_sends(FIN | ACK, None, None);
        connection.pod_sends(ACK, None, None);
    }
}

#[test]
fn a_fin_or_rst_of_the_remote_closes_both_directions() {
    for flags in [FIN | ACK, RST, RST | ACK] {
        let mut connection = Connection::established();
        connection.remote_sends(flags, Some(CLOSING), Some(CLOSING));
        connection.pod_sends(FIN | ACK, None, None);
        connection.remote_sends(ACK, None, None);
    }
}

#[test]
fn a_refused_connection_is_closing() {
    let mut connection = Connection::new();
    connection.pod_sends(SYN, Some(OPENING), Some(OPENING));
    connection.remote_sends(RST | ACK, Some(REFUSED[0]), Some(REFUSED[1]));
}

#[test]
fn a_syn_begins_anew() {
    let mut connection = Connection::established();
    connection.pod_sends(FIN | ACK, Some(CLOSING), Some(CLOSING));
    connection.pod_sends(SYN, Some(OPENING), None);
    connection.remote_sends(SYN | ACK, None, Some(OPENING));
    connection.pod_sends(ACK, Some(ESTABLISHED), None);
    connection.remote_sends(ACK, None, Some(ESTABLISHED));
}

/// What each half says of the other tells the living partner of an entry from another flow that has its key now.
#[test]
fn a_fin_does_not_close_a_stranger() {
    let mut connection = Connection::established();
    let replies = Tuple::tcp(LOCAL, REMOTE_END)
        .sent_from(NODE, KEPT)
        .reversed();
    let mut stranger = connection.node.flow(replies);
    stranger.port = Be16::from_host(1);
    connection.node.set_flow(replies, stranger);
    connection.pod_sends(FIN | ACK, Some(CLOSING), None);
}

#[test]
fn a_fin_without_a_partner_closes_what_there_is() {
    let mut connection = Connection::established();
    let replies = Tuple::tcp(LOCAL, REMOTE_END)
        .sent_from(NODE, KEPT)
        .reversed();
    connection.node.remove_flow(replies);
    connection.pod_sends(FIN | ACK, Some(CLOSING), None);
}
