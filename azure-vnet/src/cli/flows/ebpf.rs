//! Flows of the eBPF tier: its flow table, two entries for a masqueraded flow made one.

use std::collections::HashMap;

use azure_vnet_abi::{Flow as Entry, FlowKey, FlowKind, TcpState};

use super::super::Failure;
use super::{Flow, Kind, Protocol, State};
use crate::datapath::view;

type Tuple = (u8, u32, u16, u32, u16);

/// The flow table of `bridge`.
pub fn read(bridge: &str) -> Result<Vec<Flow>, Failure> {
    let entries = view::flows(bridge).map_err(|error| Failure::of(&error))?;
    let (now, hz) = (view::jiffies(), view::hz());
    let table: HashMap<Tuple, (FlowKey, Entry)> = entries
        .into_iter()
        .map(|(key, entry)| (tuple(&key), (key, entry)))
        .collect();
    let flows = table.values().filter_map(|(key, entry)| {
        let protocol = Protocol::of_number(key.protocol)?;
        let (kind, reply) = match entry.kind {
            FlowKind::MASQUERADE => {
                let reply = table
                    .get(&tuple(&replies(key, entry)))
                    .map(|(_, reply)| reply);
                (Kind::Masqueraded, reply)
            }
            FlowKind::INBOUND => (Kind::Inbound, None),
            _ => return None,
        };
        let reply =
            reply.filter(|reply| (reply.address, reply.port) == (key.source, key.source_port));
        let left = |entry: &Entry| entry.timeout.saturating_sub(idle(entry, now));
        let idle_jiffies = reply
            .map_or(u32::MAX, |reply| idle(reply, now))
            .min(idle(entry, now));
        let left = reply.map_or(0, left).max(left(entry));
        let over = entry.is_over(now) && reply.is_none_or(|reply| reply.is_over(now));
        Some(Flow {
            bridge: bridge.to_owned(),
            protocol,
            pod: key.source.into(),
            pod_port: key.source_port.to_host(),
            remote: key.destination.into(),
            remote_port: key.destination_port.to_host(),
            kind,
            seen_as: entry.address.into(),
            seen_port: entry.port.to_host(),
            state: if over {
                State::Over
            } else {
                state(protocol, entry)
            },
            idle_seconds: Some(u64::from(idle_jiffies / hz.max(1))),
            expires_seconds: u64::from(left / hz.max(1)),
        })
    });
    Ok(flows.collect())
}

/// Another CPU's clock may be a tick ahead of ours.
fn idle(entry: &Entry, now: u32) -> u32 {
    let idle = now.wrapping_sub(entry.last_seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

fn state(protocol: Protocol, entry: &Entry) -> State {
    if protocol != Protocol::Tcp {
        State::Active
    } else if entry.tcp_state & TcpState::CLOSING != 0 {
        State::Closing
    } else if entry.tcp_state & TcpState::ESTABLISHED != 0 {
        State::Established
    } else {
        State::Opening
    }
}

/// The key of the entry for the replies.
pub fn replies(key: &FlowKey, entry: &Entry) -> FlowKey {
    let mut sent = *key;
    (sent.source, sent.source_port) = (entry.address, entry.port);
    sent.reversed()
}

fn tuple(key: &FlowKey) -> Tuple {
    (
        key.protocol,
        key.source.raw(),
        key.source_port.raw(),
        key.destination.raw(),
        key.destination_port.raw(),
    )
}
