//! The allocator against a model of it: flows begin, go on and time out in random order over few
//! ports, and after every step table and model say the same.

use std::collections::BTreeMap;
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
/// As many over ports the allocator looks at for one packet.
const RECLAIMED_TRIES: u16 = 4;

/// No more ports than the allocator looks at: it may fail only when every one of them is alive.
#[test]
fn four_ports() {
    Model::new(50_000..=50_003).play(6_000, 1);
}

/// All the ports it looks at for a free one, more than it looks at for one that is over.
#[test]
fn thirty_two_ports() {
    Model::new(50_000..=50_031).play(6_000, 2);
}

/// What is known of one flow.
#[derive(Clone, Copy, Debug)]
struct Known {
    pod: Pod,
    port: u16,
    is_out_over: bool,
    is_back_over: bool,
}

impl Known {
    fn is_alive(&self) -> bool {
        !self.is_out_over || !self.is_back_over
    }
}

struct Model {
    node: Node,
    ports: RangeInclusive<u16>,
    flows: BTreeMap<Tuple, Known>,
    refused: u64,
}

impl Model {
    fn new(ports: RangeInclusive<u16>) -> Self {
        Self {
            node: Node::with_ports(ports.clone()),
            ports,
            flows: BTreeMap::new(),
            refused: 0,
        }
    }

    fn play(mut self, steps: usize, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        for step in 0..steps {
            match rng.u8(..8) {
                0..4 => self.pod_sends(&mut rng),
                4 => self.remote_answers(&mut rng),
                _ => self.time_passes(&mut rng),
            }
            if step % 100 == 0 {
                self.assert_same();
            }
        }
        self.assert_same();
        let counters = self.node.counters();
        assert!(self.refused > 0, "the ports were never exhausted");
        assert_eq!(
            counters[Reason::NoPortFound as usize],
            (Reason::NoPortFound, self.refused)
        );
    }

    fn pod_sends(&mut self, rng: &mut Rng) {
        let (packet, tuple, pod) = self.any_packet(rng);
        let (verdict, frame) = self.node.run(programs::TO_UPLINK, &packet.bytes());
        if let Some(known) = self.flows.get_mut(&tuple) {
            assert_eq!(verdict, Verdict::Passes, "{tuple:?} is known");
            known.is_out_over = false;
            assert_eq!(sent_from(&frame), (NODE, known.port));
            return;
        }
        let candidates = self.candidates(tuple);
        if verdict == Verdict::Dropped {
            assert!(!candidates.must_succeed, "{tuple:?}: {candidates:?}");
            self.refused += 1;
            self.forget_what_was_swept();
            return;
        }
        let (address, port) = sent_from(&frame);
        assert_eq!(address, NODE);
        assert!(candidates.ports.contains(&port), "{port}: {candidates:?}");
        let reply = tuple.sent_from(NODE, port).reversed();
        self.flows
            .retain(|tuple, known| tuple.sent_from(NODE, known.port).reversed() != reply);
        let known = Known {
            pod,
            port,
            is_out_over: false,
            is_back_over: false,
        };
        self.flows.insert(tuple, known);
        self.forget_what_was_swept();
    }

    /// A new flow may sweep away others, if they are over; whether both entries are gone is asked
    /// when table and model are compared.
    fn forget_what_was_swept(&mut self) {
        let node = &self.node;
        self.flows
            .retain(|tuple, known| known.is_alive() || node.has_flow(*tuple));
    }

    fn any_packet(&self, rng: &mut Rng) -> (Packet, Tuple, Pod) {
        let pod = PODS[rng.usize(..PODS.len())];
        let span = u16::try_from(self.ports.len()).unwrap();
        let port = match rng.u16(..2 * span) {
            kept if kept < span => self.ports.start() + kept,
            replaced => 1000 + replaced,
        };
        let local = (pod.address, port);
        let remote = (REMOTES[rng.usize(..REMOTES.len())], REMOTE_PORT);
        if rng.bool() {
            (udp(local, remote).of(&pod), Tuple::udp(local, remote), pod)
        } else {
            let packet = tcp(local, remote, ACK).of(&pod);
            (packet, Tuple::tcp(local, remote), pod)
        }
    }

    /// Which ports a new flow may be given.
    fn candidates(&self, tuple: Tuple) -> Candidates {
        let holder = |port: u16| {
            let sent = tuple.sent_from(NODE, port);
            self.flows
                .iter()
                .find(|(other, known)| other.sent_from(NODE, known.port) == sent)
                .map(|(_, known)| known)
        };
        let (_, wanted) = tuple.source();
        let is_kept = self.ports.contains(&wanted);
        let free: Vec<u16> = self
            .ports
            .clone()
            .filter(|p| holder(*p).is_none())
            .collect();
        if is_kept && free.contains(&wanted) {
            return Candidates::exactly(vec![wanted]);
        }
        if !free.is_empty() {
            return Candidates::exactly(free);
        }
        let is_over = |port: &u16| holder(*port).is_some_and(|known| !known.is_alive());
        let size = u16::try_from(self.ports.len()).unwrap();
        if !is_kept && size > RECLAIMED_TRIES {
            // They begin at a random port: only if all are over, one has to be found.
            let over: Vec<u16> = self.ports.clone().filter(is_over).collect();
            return Candidates {
                must_succeed: over.len() == usize::from(size),
                ports: over,
            };
        }
        let first = if is_kept {
            wanted - self.ports.start()
        } else {
            0
        };
        let tried = (0..RECLAIMED_TRIES).map(|turn| self.ports.start() + (first + turn) % size);
        Candidates::exactly(tried.filter(is_over).collect())
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
        assert_eq!(frame, reply(local).entering(&known.pod).bytes());
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
            assert_eq!(out.generation, back.generation);
        }
    }
}

/// The ports that may be given, and whether one of them has to be.
#[derive(Debug)]
struct Candidates {
    ports: Vec<u16>,
    must_succeed: bool,
}

impl Candidates {
    fn exactly(ports: Vec<u16>) -> Self {
        Self {
            must_succeed: !ports.is_empty(),
            ports,
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
