//! Giving a flow a port of the node's address.
//!
//! A port is taken per five-tuple: what must be unique is the tuple that replies carry. The entry
//! for the replies is made first and only where there is none, so it is the lock; the entry for
//! the pod's packets follows from it.

use azure_vnet_abi::{Be16, Flow, FlowFlags, FlowKey, FlowKind, Pod, Reason, Uplink};

use crate::{
    flow::{self, InsertError},
    life,
    packet::Transport,
    ports::Range,
    search, secret, share, sweep,
    taking::{self, Taken},
};

/// Makes both entries of a new flow from `pod` and returns the one for its packets.
#[inline(always)]
pub fn open(
    key: &FlowKey,
    pod: &Pod,
    uplink: &Uplink,
    transport: &Transport,
    fast: u8,
    now: u32,
) -> Result<&'static Flow, Reason> {
    if share::is_used_up(key.source, uplink) {
        sweep::make_room(now, key.source.raw());
        if share::is_used_up(key.source, uplink) {
            return Err(Reason::PodFlowLimit);
        }
    }
    let tcp_state = life::first_state(key, transport);
    let begun = share::begin(key.source, uplink, now);
    let mut flags = fast | FlowFlags::UNPROVEN;
    if begun > uplink.protected {
        flags |= FlowFlags::CROWDED;
    }
    let random = secret::hash(key, uplink, now);
    let wanted = taking::wanted().ok_or(Reason::PortSearchGoesOn)?;
    wanted.reply_key = reply_key(key, uplink);
    wanted.reply = Flow::new(
        FlowKind::UNMASQUERADE,
        key.source,
        key.source_port,
        pod.ifindex,
        pod.mac,
        now,
        life::timeout(key.protocol, tcp_state, flags, uplink),
    );
    wanted.reply.flags = flags;
    (wanted.grace, wanted.may_search) = (uplink.grace, u32::from(begun <= uplink.searched));
    let port = reserve(key, random as u32, uplink, now)?;

    let wanted = taking::wanted().ok_or(Reason::PortSearchGoesOn)?;
    wanted.outgoing = wanted.reply;
    wanted.outgoing.kind = FlowKind::MASQUERADE;
    (wanted.outgoing.address, wanted.outgoing.port) = (uplink.address, port);
    wanted.outgoing.tcp_state = tcp_state;
    wanted.outgoing.acknowledged = transport.acknowledgment;
    match flow::insert(key, &wanted.outgoing) {
        Ok(()) => Ok(&wanted.outgoing),
        Err(error) => {
            flow::remove(&wanted.reply_key, FlowKind::UNMASQUERADE);
            search::begin_anew(&wanted.reply_key);
            match error {
                // Another CPU had a packet of the same flow: its entry stands.
                InsertError::Exists => flow::find(key)
                    .filter(|flow| flow.kind == FlowKind::MASQUERADE)
                    .map(|flow| &*flow)
                    .ok_or(Reason::PortSearchGoesOn),
                InsertError::Full => Err(Reason::FlowTableFull),
            }
        }
    }
}

/// Takes a port whose reply tuple nobody has: the pod's own if it is in the range, else from a `random`
/// place upwards.
#[inline(always)]
fn reserve(key: &FlowKey, random: u32, uplink: &Uplink, now: u32) -> Result<Be16, Reason> {
    let range = Range::of(uplink);
    let own = range.place(key.source_port);
    let first = if own < range.size { own } else { random };
    let mut taken = search::find_port(first);
    if taken == Taken::FULL {
        sweep::make_room(now, sweep::ANYBODY);
        taken = search::find_port(first);
    }
    match taken {
        Taken::NONE => Err(Reason::NoPortFound),
        Taken::FULL => Err(Reason::FlowTableFull),
        port if port < Taken::IN_USE => Ok(Be16::from_host(port as u16)),
        _ => Err(Reason::PortSearchGoesOn),
    }
}

/// The key that replies to a packet carry once it left, but for the port.
#[inline(always)]
fn reply_key(key: &FlowKey, uplink: &Uplink) -> FlowKey {
    let mut sent = *key;
    sent.source = uplink.address;
    sent.reversed()
}
