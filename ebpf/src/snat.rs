//! Giving a flow a port of the node's address.
//!
//! A port is taken per five-tuple: what must be unique is the tuple that replies carry. The entry
//! for the replies is made first and only where there is none, so it is the lock; the entry for
//! the pod's packets follows from it.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use azure_vnet_abi::{Be16, Flow, FlowKey, FlowKind, Pod, Reason, Uplink};

use crate::flow::{self, InsertError};

/// How many ports are tried for one packet, first free ones, then those whose flow is over. A
/// bound on the work, not on the truth: a flow that fails has its next packet start elsewhere.
const TRIES: u32 = 32;
const TRIES_TO_RECLAIM: u32 = 4;

/// Makes both entries of a new flow from `pod` and returns the one for its packets.
#[inline(always)]
pub fn open(
    key: &FlowKey,
    pod: &Pod,
    uplink: &Uplink,
    tcp_state: u8,
    flags: u8,
    now: u32,
) -> Result<Flow, Reason> {
    // SAFETY: the helper takes nothing.
    let generation = unsafe { bpf_get_prandom_u32() };
    let timeout = flow::timeout(key.protocol, tcp_state, uplink);
    let mut reply = Flow::new(
        FlowKind::UNMASQUERADE,
        key.source,
        key.source_port,
        generation,
        pod.ifindex,
        pod.mac,
        now,
        timeout,
    );
    reply.flags = flags;
    let port = reserve(key, &reply, uplink)?;

    let mut outgoing = Flow::new(
        FlowKind::MASQUERADE,
        uplink.address,
        port,
        generation,
        pod.ifindex,
        pod.mac,
        now,
        timeout,
    );
    outgoing.tcp_state = tcp_state;
    outgoing.flags = flags;
    match flow::insert(key, &outgoing) {
        Ok(()) => Ok(outgoing),
        Err(error) => {
            flow::remove(&reply_key(key, uplink, port));
            match error {
                // Another CPU had a packet of the same flow: its entry stands.
                InsertError::Exists => flow::find(key)
                    .filter(|flow| flow.kind == FlowKind::MASQUERADE)
                    .map(|flow| *flow)
                    .ok_or(Reason::NoPortFound),
                InsertError::Full => Err(Reason::FlowTableFull),
            }
        }
    }
}

/// Finds a port whose reply tuple is free and takes it: the pod's own if it is in the range, else
/// from a random place upwards.
///
/// Each turn of a loop has one way into the next: the verifier walks every path, and two ways a
/// turn would be two to the power of `TRIES`.
#[inline(always)]
fn reserve(key: &FlowKey, reply: &Flow, uplink: &Uplink) -> Result<Be16, Reason> {
    let candidates = Candidates::new(key, reply.generation, uplink);
    for turn in 0..TRIES {
        let port = candidates.port(turn);
        match flow::insert(&reply_key(key, uplink, port), reply) {
            Ok(()) => return Ok(port),
            Err(InsertError::Full) => return Err(Reason::FlowTableFull),
            Err(InsertError::Exists) => {}
        }
    }
    for turn in 0..TRIES_TO_RECLAIM {
        let port = candidates.port(turn);
        let reply_key = reply_key(key, uplink, port);
        if let Some(holder) = flow::find(&reply_key)
            && flow::is_over(&reply_key, holder, reply.last_seen)
        {
            // Another CPU may have found the same one: removing and inserting anew lets one win.
            flow::forget(&reply_key, holder);
            return match flow::insert(&reply_key, reply) {
                Ok(()) => Ok(port),
                Err(_) => Err(Reason::NoPortFound),
            };
        }
    }
    Err(Reason::NoPortFound)
}

/// The ports of the range, from one of them on and around.
struct Candidates {
    min: u32,
    size: u32,
    start: u32,
}

impl Candidates {
    #[inline(always)]
    fn new(key: &FlowKey, random: u32, uplink: &Uplink) -> Self {
        let min = u32::from(uplink.port_min);
        let size = u32::from(uplink.port_max) - min + 1;
        let wanted = u32::from(key.source_port.to_host()).wrapping_sub(min);
        let start = if wanted < size { wanted } else { random };
        Self { min, size, start }
    }

    #[inline(always)]
    fn port(&self, turn: u32) -> Be16 {
        // BPF divides by zero without harm, and user space sends no empty range.
        let offset = self
            .start
            .wrapping_add(turn)
            .checked_rem(self.size)
            .unwrap_or(0);
        Be16::from_host((self.min + offset) as u16)
    }
}

/// The key that replies to a packet carry once it left from `port`.
#[inline(always)]
fn reply_key(key: &FlowKey, uplink: &Uplink, port: Be16) -> FlowKey {
    let mut sent = *key;
    sent.source = uplink.address;
    sent.source_port = port;
    sent.reversed()
}

/// Whether a port is one that replies to masqueraded flows may carry.
#[inline(always)]
pub fn is_in_range(port: u16, uplink: &Uplink) -> bool {
    port >= uplink.port_min && port <= uplink.port_max
}
