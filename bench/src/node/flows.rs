//! Live flows beside the one that is measured.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use azure_vnet_abi::{ABI_VERSION, Be16, Be32, Flow, FlowKey, maps};

use super::{BRIDGE, Node, PORT, by_hand};
use crate::servers::Servers;
use crate::variant::Variant;

/// Jiffies that no run lasts for.
const FOR_GOOD: u32 = 100_000_000;

/// Makes as many flows as the subject is to have, or as there is room for; returns how many those are.
pub fn fill(node: &Node<'_>, servers: &Servers, seen: SocketAddrV4) -> Result<u32> {
    match node.subject.variant {
        _ if node.subject.scale.flows == 0 => Ok(0),
        Variant::Ebpf { .. } | Variant::Shaped => into_map(node, servers, seen),
        Variant::Plain | Variant::Bare | Variant::Host => Ok(0),
        _ => by_sending(node),
    }
}

/// Copies of the measured flow's two entries under other tuples, straight into the map.
fn into_map(node: &Node<'_>, servers: &Servers, seen: SocketAddrV4) -> Result<u32> {
    let (pod, remote) = (node.address()?, servers.udp());
    let out = key(SocketAddrV4::new(pod, PORT), remote);
    let back = key(remote, seen);
    let filled = node.vm.namespace().run(|| -> Result<u32> {
        let path = format!(
            "/sys/fs/bpf/azure-vnet/v{ABI_VERSION}/{BRIDGE}/maps/{}",
            maps::FLOWS
        );
        let data =
            MapData::from_pin(Path::new(&path)).with_context(|| format!("no map at {path}"))?;
        let room = data.info()?.max_entries() / 2;
        let mut map: HashMap<MapData, FlowKey, Flow> = Map::from_map_data(data)?.try_into()?;
        let lasting = |mut flow: Flow| {
            flow.timeout = FOR_GOOD;
            flow
        };
        let out_flow = lasting(
            map.get(&out, 0)
                .context("the measured flow is not in the map")?,
        );
        let back_flow = lasting(
            map.get(&back, 0)
                .context("the measured flow has no way back")?,
        );
        let wanted = node.subject.scale.flows.min(room / 100 * 95);
        for number in 0..wanted {
            let other = elsewhere(number);
            map.insert(key(SocketAddrV4::new(pod, PORT), other), out_flow, 0)?;
            map.insert(key(other, seen), back_flow, 0)?;
        }
        Ok(wanted)
    })?;
    filled.context("cannot fill the flow table")
}

fn key(from: SocketAddrV4, to: SocketAddrV4) -> FlowKey {
    const UDP: u8 = 17;
    FlowKey::new(
        UDP,
        Be32::from(*from.ip()),
        Be16::from_host(from.port()),
        Be32::from(*to.ip()),
        Be16::from_host(to.port()),
    )
}

/// A packet each, for what keeps its flows in conntrack.
fn by_sending(node: &Node<'_>) -> Result<u32> {
    by_hand::sysctl(node.vm, "netfilter/nf_conntrack_udp_timeout", "3600")?;
    let socket = node.pod().run(|| UdpSocket::bind("0.0.0.0:0"))??;
    let before = tracked(node)?;
    for number in 0..node.subject.scale.flows {
        socket.send_to(b"x", elsewhere(number))?;
    }
    Ok(tracked(node)?.saturating_sub(before))
}

/// Entries of the node's conntrack table.
fn tracked(node: &Node<'_>) -> Result<u32> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_count";
    let text = node
        .vm
        .namespace()
        .run(|| std::fs::read_to_string(path))??;
    text.trim()
        .parse()
        .with_context(|| format!("{path} has {text:?}"))
}

/// A far end that no other number has, in the range for benchmarks (RFC 2544).
fn elsewhere(number: u32) -> SocketAddrV4 {
    let [_, high, middle, low] = (number / 50_000).to_be_bytes();
    let port = u16::try_from(10_000 + number % 50_000).unwrap_or(u16::MAX);
    SocketAddrV4::new(Ipv4Addr::new(198, 18 + (high & 1), middle, low), port)
}
