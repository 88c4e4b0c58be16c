//! An event as a line: who sent what to whom, and what became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use azure_vnet_abi::{Be16, Event, FlowKey, FlowKind, Reason};
use azure_vnet_cni::foreign;
use serde::Serialize;

use super::super::bridges;
use super::super::flows::Protocol;
use crate::datapath::view;
use crate::state;

const ETHERNET: usize = 14;
const ADDRESSES: usize = ETHERNET + 12;
/// Of a fragment, in eight bytes.
const OFFSET: u16 = 0x1fff;
const PORTS: usize = ETHERNET + 20;

/// What is needed to make sense of the events of one bridge.
pub struct Lines {
    bridge: String,
    pods: BTreeMap<Ipv4Addr, String>,
}

/// An event.
#[derive(Debug, Serialize)]
pub struct Told {
    /// Seconds since 1970.
    time: u64,
    /// The bridge.
    bridge: String,
    /// Why, as in the counters.
    reason: &'static str,
    /// Whether the packet was dropped.
    pub dropped: bool,
    /// Address of the pod that it is about, if it is known.
    pub pod: Option<Ipv4Addr>,
    /// What people call the pod.
    name: Option<String>,
    /// `tcp`, `udp`, `icmp`, a number, or `ethernet 0x86dd`.
    protocol: String,
    /// Source address as the packet leaves the program; null if it is not IPv4.
    source: Option<Ipv4Addr>,
    /// Source port, or the identifier of an ICMP echo.
    source_port: Option<u16>,
    /// Destination address.
    destination: Option<Ipv4Addr>,
    /// Destination port.
    destination_port: Option<u16>,
    /// Bytes of the frame.
    length: u32,
}

impl Lines {
    pub fn of(bridge: &str) -> Self {
        let mut this = Self {
            bridge: bridge.to_owned(),
            pods: BTreeMap::new(),
        };
        this.refresh();
        this
    }

    /// Pods come and go.
    pub fn refresh(&mut self) {
        let pods = state::attachments(&self.bridge)
            .unwrap_or_default()
            .into_iter();
        self.pods = pods
            .map(|pod| (pod.address, bridges::label(&pod)))
            .collect();
    }

    /// Reads an event.
    pub fn tell(&self, event: &Event) -> Told {
        let reason = Reason::ALL
            .into_iter()
            .find(|reason| *reason as u32 == event.reason);
        let head = &event.head;
        let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
        let ether_type = half(12);
        let is_ipv4 = ether_type == 0x0800;
        let number = head[ETHERNET + 9];
        let known = Protocol::of_number(number).filter(|_| is_ipv4);
        let (source, destination) = (address(ADDRESSES), address(ADDRESSES + 4));
        // Ports follow a header without options, of a packet or its first fragment.
        let has_ports = is_ipv4 && head[ETHERNET] == 0x45 && half(ETHERNET + 6) & OFFSET == 0;
        let (source_port, destination_port) = match known {
            Some(Protocol::Tcp | Protocol::Udp) if has_ports => {
                (Some(half(PORTS)), Some(half(PORTS + 2)))
            }
            Some(Protocol::Icmp) if has_ports => (Some(half(PORTS + 4)), None),
            _ => (None, None),
        };
        let mut told = Told {
            time: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            bridge: self.bridge.clone(),
            reason: reason.map_or("unknown", Reason::name),
            dropped: reason.is_some_and(|reason| !reason.passes()),
            pod: None,
            name: None,
            protocol: match known {
                Some(protocol) => protocol.name().to_owned(),
                None if is_ipv4 => number.to_string(),
                None => format!("ethernet {ether_type:#06x}"),
            },
            source: is_ipv4.then_some(source),
            source_port,
            destination: is_ipv4.then_some(destination),
            destination_port,
            length: event.length,
        };
        told.pod = self.pod_of(&told, number);
        told.name = told.pod.and_then(|pod| self.pods.get(&pod).cloned());
        told
    }

    /// Either end, or the pod behind the node's address.
    fn pod_of(&self, told: &Told, protocol: u8) -> Option<Ipv4Addr> {
        let ends = [told.source?, told.destination?];
        if let Some(pod) = ends.into_iter().find(|end| self.pods.contains_key(end)) {
            return Some(pod);
        }
        let replies = FlowKey::new(
            protocol,
            ends[1].into(),
            Be16::from_host(told.destination_port.unwrap_or(0)),
            ends[0].into(),
            Be16::from_host(told.source_port?),
        );
        let flow = view::flow(&self.bridge, &replies).ok()??;
        (flow.kind == FlowKind::UNMASQUERADE).then(|| flow.address.into())
    }
}

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time % 86400;
        write!(
            out,
            "{:02}:{:02}:{:02} {} {}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            if self.dropped { "DROP" } else { "pass" },
            self.reason
        )?;
        if let Some(name) = &self.name {
            write!(out, " {}", foreign::line(name))?;
        }
        write!(out, " {}", self.protocol)?;
        if let (Some(source), Some(destination)) = (self.source, self.destination) {
            let end = |address: Ipv4Addr, port: Option<u16>| match port {
                Some(port) => format!("{address}:{port}"),
                None => address.to_string(),
            };
            write!(
                out,
                " {} -> {}",
                end(source, self.source_port),
                end(destination, self.destination_port)
            )?;
        }
        writeln!(out)
    }
}
