//! The allocator against a model of it: flows begin, go on and time out in random order over few
//! ports, some of which the node needs itself now and then, and after every step table and model say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use azure_vnet_abi::{FlowKind, Reason, programs};
use fastrand::Rng;

use crate::flows::Tuple;
use crate::harness::{Node, Verdict};
use crate::oracle::Ipv4;
use crate::packet::{ACK, Packet, TCP, tcp, udp};
use crate::plan::{DATABASE, NODE, OTHER_REMOTE, Pod, REMOTE, WEB};

const PODS: [Pod; 2] = [WEB, DATABASE];
const REMOTES: [Ipv4Addr; 2] = [REMOTE, OTHER_REMOTE];
const REMOTE_PORT: u16 = 53;
/// Ports that are tried for a free one before those are looked at whose flows may be over.
const TRIES: usize = 32;
/// Ports that one packet looks at then.
const LOOKS: usize = 256;
/// Steps after which other ports are reserved.
const RESERVING: usize = 500;

/// As many as are tried for a free one: none that is over is taken while there is one.
#[test]
fn thirty_two_ports() {
    Model::new(50_000..=50_031).play(6_000, OFTEN, 2);
}

#[test]
fn four_ports() {
    Model::new(50_000..=50_003).play(6_000, OFTEN, 1);
}

/// More than are tried, and no more than one packet looks at: it may fail only when every one is alive.
#[test]
fn a_hundred_ports() {
    Model::new(50_000..=50_099).play(10_000, OFTEN, 3);
}

/// More than one packet looks at.
#[test]
fn six_hundred_ports() {
    Model::new(50_000..=50_599).play(15_000, SELDOM, 4);
}

/// Of a hundred steps, how many pods send in, remotes answer in, and time goes by in.
type Steps = [u8; 3];
const OFTEN: Steps = [50, 12, 38];
const SELDOM: Steps = [95, 2, 3];

/// What is known of one flow.
#[derive(Clone, Copy, Debug)]
struct Known {
    port: u16,
    is_out_over: bool,
    is_back_over: bool,
}

impl Known {
    fn is_alive(self) -> bool {
        !self.is_out_over || !self.is_back_over
    }
}

struct Model {
    node: Node,
    ports: RangeInclusive<u16>,
    /// Those that no new flow may have.
    reserved: BTreeSet<u16>,
    flows: BTreeMap<Tuple, Known>,
    /// Who has a port towards which remote: the flow by what its packets leave as.
    holders: BTreeMap<Tuple, Tuple>,
    /// How many packets in a row found no port, by their destination (what would have left from port 0),
    /// and since which of them each port could be had.
    refused: BTreeMap<Tuple, Refused>,
    /// Packets for which every port was in use, and for which none was found.
    without_port: u64,
    going_on: u64,
}

/// Packets to one destination that found no port, one after the other.
#[derive(Default)]
struct Refused {
    packets: usize,
    /// The packet after which a port was seen to be there.
    since: BTreeMap<u16, usize>,
}

impl Model {
    fn new(ports: RangeInclusive<u16>) -> Self {
        Self {
            node: Node::with_ports(ports.clone()),
            ports,
            reserved: BTreeSet::new(),
            flows: BTreeMap::new(),
            holders: BTreeMap::new(),
            refused: BTreeMap::new(),
            without_port: 0,
            going_on: 0,
        }
    }

    fn play(mut self, steps: usize, [sends, answers, _]: Steps, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        for step in 0..steps {
            match rng.u8(..100) {
                dice if dice < sends => self.pod_sends(&mut rng),
                dice if dice < sends + answers => self.remote_answers(&mut rng),
                _ => self.time_passes(&mut rng),
            }
            if step % RESERVING == RESERVING / 2 {
                self.node_reserves(&mut rng);
            }
            if step % 100 == 0 {
                self.assert_same();
            }
        }
        self.assert_same();
        assert!(self.without_port > 0, "the ports were never exhausted");
        let goes_on = self.ports.len() > LOOKS;
        assert_eq!(self.going_on > 0, goes_on, "one packet sees {LOOKS} ports");
        for (reason, packets) in [
            (Reason::NoPortFound, self.without_port),
            (Reason::PortSearchGoesOn, self.going_on),
        ] {
            assert_eq!(self.node.packets(reason), packets, "{}", reason.name());
        }
    }

    /// A third of the ports, or none.
    fn node_reserves(&mut self, rng: &mut Rng) {
        self.reserved.clear();
        if rng.u8(..4) > 0 {
            let ports = self.ports.clone();
            self.reserved.extend(ports.filter(|_| rng.u8(..3) == 0));
        }
        self.node.set_reserved(self.reserved.iter().copied());
        // Everybody looks anew.
        self.refused.clear();
    }

    fn pod_sends(&mut self, rng: &mut Rng) {
        let (packet, tuple) = self.any_packet(rng);
        let (verdict, frame) = self.node.run(programs::TO_UPLINK, &packet.bytes());
        if let Some(known) = self.flows.get_mut(&tuple) {
            assert_eq!(verdict, Verdict::Passes, "{tuple:?} is known");
            known.is_out_over = false;
            assert_eq!(sent_from(&frame), (NODE, known.port));
            return;
        }
        let candidates = self.candidates(tuple);
        if verdict != Verdict::Passes {
            self.is_refused(tuple, &candidates);
            self.forget_what_was_swept();
            return;
        }
        let (address, port) = sent_from(&frame);
        assert_eq!(address, NODE);
        assert!(candidates.contains(&port), "{port}: {candidates:?}");
        self.refused.remove(&tuple.sent_from(NODE, 0));
        let sent = tuple.sent_from(NODE, port);
        if let Some(old) = self.holders.insert(sent, tuple) {
            self.flows.remove(&old);
        }
        let known = Known {
            port,
            is_out_over: false,
            is_back_over: false,
        };
        self.flows.insert(tuple, known);
        self.forget_what_was_swept();
    }

    /// Nothing is said to be in use that is not, and what can be had is found by one of so many packets
    /// in a row as look at the whole range.
    fn is_refused(&mut self, tuple: Tuple, candidates: &[u16]) {
        if self.node.packets(Reason::NoPortFound) > self.without_port {
            assert!(candidates.is_empty(), "{tuple:?}: {candidates:?}");
            self.without_port += 1;
        } else {
            self.going_on += 1;
        }
        let refused = self.refused.entry(tuple.sent_from(NODE, 0)).or_default();
        refused.since.retain(|port, _| candidates.contains(port));
        for port in candidates {
            let since = *refused.since.entry(*port).or_insert(refused.packets);
            let packets = refused.packets + 1 - since;
            assert!(
                packets < self.ports.len().div_ceil(LOOKS),
                "{packets} packets missed {port}"
            );
        }
        refused.packets += 1;
    }

    /// A new flow may sweep away others, if they are over; whether both entries are gone is asked
    /// when table and model are compared.
    fn forget_what_was_swept(&mut self) {
        let (node, holders) = (&self.node, &mut self.holders);
        self.flows.retain(|tuple, known| {
            let stays = known.is_alive() || node.has_flow(*tuple);
            if !stays {
                holders.remove(&tuple.sent_from(NODE, known.port));
            }
            stays
        });
    }

    fn any_packet(&self, rng: &mut Rng) -> (Packet, Tuple) {
        let pod = PODS[rng.usize(..PODS.len())];
        let span = u16::try_from(self.ports.len()).unwrap();
        let port = match rng.u16(..2 * span) {
            kept if kept < span => self.ports.start() + kept,
            replaced => 1000 + replaced,
        };
        let local = (pod.address, port);
        let remote = (REMOTES[rng.usize(..REMOTES.len())], REMOTE_PORT);
        if rng.bool() {
            (udp(local, remote).of(&pod), Tuple::udp(local, remote))
        } else {
            let packet = tcp(local, remote, ACK).of(&pod);
            (packet, Tuple::tcp(local, remote))
        }
    }

    /// Which ports a new flow may be given; one of them it has to be, or one of the next packets.
    fn candidates(&self, tuple: Tuple) -> Vec<u16> {
        let holder = |port: u16| self.holders.get(&tuple.sent_from(NODE, port));
        let may_be_had = |port: &u16| !self.reserved.contains(port);
        let is_free = |port: &u16| may_be_had(port) && holder(*port).is_none();
        let is_over = |port: &u16| {
            may_be_had(port) && holder(*port).is_some_and(|flow| !self.flows[flow].is_alive())
        };
        let (_, wanted) = tuple.source();
        if self.ports.contains(&wanted) && is_free(&wanted) {
            return vec![wanted];
        }
        let free: Vec<u16> = self.ports.clone().filter(is_free).collect();
        if !free.is_empty() && self.ports.len() <= TRIES {
            return free;
        }
        // Where many are in use in a row, one that is over may be met before one that is free.
        free.into_iter()
            .chain(self.ports.clone().filter(is_over))
            .collect()
    }

    fn remote_answers(&mut self, rng: &mut Rng) {
        let Some((tuple, known)) = any(&mut self.flows, rng) else {
            return;
        };
        known.is_back_over = false;
        let (known, local) = (*known, tuple.source());
        let (_, remote) = (tuple.source(), tuple.reversed().source());
        let reply = |to| match tuple.protocol() {
            TCP => tcp(remote, to, ACK),
            _ => udp(remote, to),
        };
        let came = reply((NODE, known.port)).bytes();
        let (verdict, frame) = self.node.run(programs::FROM_UPLINK, &came);
        assert_eq!(verdict, Verdict::Passes);
        assert_eq!(frame, reply(local).bytes());
    }

    fn time_passes(&mut self, rng: &mut Rng) {
        let Some((tuple, known)) = any(&mut self.flows, rng) else {
            return;
        };
        let back = tuple.sent_from(NODE, known.port).reversed();
        // Most flows end in both directions, some in one.
        let both = rng.u8(..4) > 0;
        if both || rng.bool() {
            known.is_out_over = true;
            self.node.time_out(tuple);
        }
        if both || !known.is_out_over {
            known.is_back_over = true;
            self.node.time_out(back);
        }
    }

    /// Two entries for each known flow that agree with each other and with the model, and no other.
    fn assert_same(&self) {
        let table = self.node.flows();
        assert_eq!(table.len(), 2 * self.flows.len());
        for (tuple, known) in &self.flows {
            let (out, back) = (
                table[tuple],
                table[&tuple.sent_from(NODE, known.port).reversed()],
            );
            assert_eq!(out.kind, FlowKind::MASQUERADE);
            assert_eq!(out.port.to_host(), known.port);
            assert_eq!(back.kind, FlowKind::UNMASQUERADE);
            assert_eq!((back.address.into(), back.port.to_host()), tuple.source());
        }
    }
}

fn any<'a>(flows: &'a mut BTreeMap<Tuple, Known>, rng: &mut Rng) -> Option<(Tuple, &'a mut Known)> {
    if flows.is_empty() {
        return None;
    }
    let index = rng.usize(..flows.len());
    flows
        .iter_mut()
        .nth(index)
        .map(|(tuple, known)| (*tuple, known))
}

fn sent_from(frame: &[u8]) -> (Ipv4Addr, u16) {
    let packet = Ipv4::read(frame).unwrap();
    assert!(packet.has_right_header_checksum() && packet.has_right_transport_checksum());
    (packet.source(), packet.source_port())
}
