//! The flow table as tests read it: what a packet added, changed and took away.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_abi::{Be16, Be32, Flow, FlowFlags, FlowKey, FlowKind, TcpState};

use crate::packet::{End, ICMP, TCP, UDP};
use crate::plan::{HZ, NODE, Pod, TIMEOUTS};

/// The key of an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    protocol: u8,
    source: SocketAddrV4,
    destination: SocketAddrV4,
}

impl Tuple {
    pub fn tcp(source: End, destination: End) -> Self {
        Self::new(TCP, source, destination)
    }

    pub fn udp(source: End, destination: End) -> Self {
        Self::new(UDP, source, destination)
    }

    /// An ICMP echo request.
    pub fn echo(source: End, destination: Ipv4Addr) -> Self {
        Self::new(ICMP, source, (destination, 0))
    }

    /// An ICMP echo reply.
    pub fn echo_reply(source: Ipv4Addr, destination: End) -> Self {
        Self::new(ICMP, (source, 0), destination)
    }

    pub fn new(protocol: u8, source: End, destination: End) -> Self {
        Self {
            protocol,
            source: SocketAddrV4::new(source.0, source.1),
            destination: SocketAddrV4::new(destination.0, destination.1),
        }
    }

    pub fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
        }
    }

    /// As it is on the wire once the source was replaced.
    pub fn sent_from(self, address: Ipv4Addr, port: u16) -> Self {
        let source = SocketAddrV4::new(address, port);
        Self { source, ..self }
    }

    pub fn protocol(self) -> u8 {
        self.protocol
    }

    pub fn source(self) -> End {
        (*self.source.ip(), self.source.port())
    }

    pub fn key(self) -> FlowKey {
        FlowKey::new(
            self.protocol,
            Be32::from(*self.source.ip()),
            Be16::from_host(self.source.port()),
            Be32::from(*self.destination.ip()),
            Be16::from_host(self.destination.port()),
        )
    }
}

impl From<&FlowKey> for Tuple {
    fn from(key: &FlowKey) -> Self {
        Self::new(
            key.protocol,
            (key.source.into(), key.source_port.to_host()),
            (key.destination.into(), key.destination_port.to_host()),
        )
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            source,
            destination,
        } = self;
        write!(f, "{protocol}: {source} > {destination}")
    }
}

/// What an entry says, without what differs from run to run (when).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub kind: u8,
    /// What is written into the packet.
    pub end: SocketAddrV4,
    /// In jiffies.
    pub timeout: u32,
    pub tcp_state: u8,
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub flags: u8,
}

impl Entry {
    /// The entry of a flow on the fast path.
    pub fn fast(self) -> Self {
        Self {
            flags: FlowFlags::FAST,
            ..self
        }
    }

    /// The idle time in seconds, and the TCP state it follows from.
    pub fn state(self, seconds: u32, tcp_state: u8) -> Self {
        Self {
            timeout: idle(seconds),
            tcp_state,
            ..self
        }
    }

    fn new(kind: u8, end: End, pod: &Pod, seconds: u32) -> Self {
        Self {
            kind,
            end: SocketAddrV4::new(end.0, end.1),
            timeout: idle(seconds),
            tcp_state: 0,
            ifindex: pod.ifindex,
            mac: pod.mac.0,
            flags: 0,
        }
    }
}

/// What of a state most tests look at; the rest is the story of `proof` and `forged`.
const HOW_FAR: u8 = TcpState::ESTABLISHED | TcpState::CLOSING;

/// A second more than is asked for, because a packet is noted as much as that late.
const fn idle(seconds: u32) -> u32 {
    (seconds + 1) * HZ
}

impl From<&Flow> for Entry {
    fn from(flow: &Flow) -> Self {
        Self {
            kind: flow.kind,
            end: SocketAddrV4::new(flow.address.into(), flow.port.to_host()),
            timeout: flow.timeout,
            tcp_state: flow.tcp_state & HOW_FAR,
            ifindex: flow.ifindex,
            mac: flow.mac.0,
            flags: flow.flags & FlowFlags::FAST,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            end,
            timeout,
            tcp_state,
            ifindex,
            mac,
            flags,
        } = self;
        let kind = match *kind {
            FlowKind::MASQUERADE => "masquerade",
            FlowKind::UNMASQUERADE => "unmasquerade",
            FlowKind::INBOUND => "inbound",
            _ => "?",
        };
        write!(
            f,
            "{kind} {end}, {timeout} jiffies, state {tcp_state}, port {ifindex}, {mac:02x?}, flags {flags}"
        )
    }
}

/// How many flows a pod has: entries under keys of its own packets.
pub fn flows_of(pod: Ipv4Addr, flows: &Snapshot) -> i64 {
    let of_pod = |(tuple, flow): &(&Tuple, &Flow)| {
        tuple.source().0 == pod && flow.kind != FlowKind::UNMASQUERADE
    };
    i64::try_from(flows.iter().filter(of_pod).count()).unwrap()
}

/// One entry of a masqueraded flow: for the packets of `pod`, which leave from `port`.
pub fn outgoing(tuple: Tuple, pod: &Pod, port: u16) -> (Tuple, Entry) {
    let end = (NODE, port);
    let entry = Entry::new(FlowKind::MASQUERADE, end, pod, first_timeout(tuple));
    (tuple, entry)
}

/// The other one: for the replies to that port.
pub fn replies(tuple: Tuple, pod: &Pod, port: u16) -> (Tuple, Entry) {
    let kind = FlowKind::UNMASQUERADE;
    let entry = Entry::new(kind, tuple.source(), pod, first_timeout(tuple));
    (tuple.sent_from(NODE, port).reversed(), entry)
}

/// Both, as the first packet makes them.
pub fn masqueraded(tuple: Tuple, pod: &Pod, port: u16) -> [Change; 2] {
    [
        Change::added(outgoing(tuple, pod, port)),
        Change::added(replies(tuple, pod, port)),
    ]
}

/// The only entry of a flow that came in: for the replies of `pod`, whose tuple this is.
pub fn inbound(reply: Tuple, pod: &Pod) -> (Tuple, Entry) {
    let kind = FlowKind::INBOUND;
    let entry = Entry::new(kind, reply.source(), pod, first_timeout(reply));
    (reply, entry)
}

fn first_timeout(tuple: Tuple) -> u32 {
    match tuple.protocol {
        TCP => TIMEOUTS.tcp_opening,
        UDP => TIMEOUTS.udp,
        _ => TIMEOUTS.icmp,
    }
}

/// What a packet did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added(Tuple, Entry),
    Removed(Tuple),
    Changed(Tuple, Entry),
}

impl Change {
    pub fn added((tuple, entry): (Tuple, Entry)) -> Self {
        Self::Added(tuple, entry)
    }

    pub fn changed((tuple, entry): (Tuple, Entry)) -> Self {
        Self::Changed(tuple, entry)
    }

    fn tuple(&self) -> Tuple {
        let (Self::Added(tuple, _) | Self::Removed(tuple) | Self::Changed(tuple, _)) = *self;
        tuple
    }
}

/// The whole table.
pub type Snapshot = BTreeMap<Tuple, Flow>;

/// What happened between two snapshots, in the order of the tuples.
pub fn changes(before: &Snapshot, after: &Snapshot) -> Vec<Change> {
    let removed = before
        .keys()
        .filter(|tuple| !after.contains_key(tuple))
        .map(|tuple| Change::Removed(*tuple));
    let new = after.iter().filter_map(|(tuple, flow)| {
        let entry = Entry::from(flow);
        match before.get(tuple).map(Entry::from) {
            None => Some(Change::Added(*tuple, entry)),
            Some(old) if old != entry => Some(Change::Changed(*tuple, entry)),
            Some(_) => None,
        }
    });
    sorted(removed.chain(new))
}

/// In the order of the tuples.
pub fn sorted(changes: impl IntoIterator<Item = Change>) -> Vec<Change> {
    let mut changes: Vec<Change> = changes.into_iter().collect();
    changes.sort_by_key(Change::tuple);
    changes
}

/// Both entries of a flow are made in one go.
pub fn assert_pairs(before: &Snapshot, after: &Snapshot) {
    let added: Vec<&Flow> = after
        .iter()
        .filter(|(tuple, _)| !before.contains_key(tuple))
        .map(|(_, flow)| flow)
        .collect();
    for pair in added.windows(2) {
        assert_eq!(pair[0].last_seen, pair[1].last_seen);
    }
}
