//! One look at everything that a page shows; rates are the difference of two.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use azure_vnet_ipam::Report;

use super::super::flows::{self, Flow, Kind, Protocol};
use super::super::{Failure, pool};
use crate::datapath::{self, Record, Tier, view};
use crate::state::{self, Attachment};

const LINKS: &str = "/sys/class/net";

/// What there is now.
pub struct Look {
    /// When it was.
    pub when: Instant,
    /// The bridges.
    pub bridges: Vec<Bridge>,
    /// The pods, with what their links have counted; none for a link that is gone.
    pub pods: Vec<(Attachment, Option<Traffic>)>,
    /// Dropped packets, by bridge and reason (eBPF tier).
    pub drops: BTreeMap<(String, &'static str), u64>,
    /// The addresses; none before the first was asked for.
    pub pool: Option<Report>,
}

/// A bridge and the flows of its pods.
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// What masquerades.
    pub tier: Tier,
    /// Flows by pod.
    pub of_pods: BTreeMap<Ipv4Addr, u64>,
    /// Masqueraded flows by destination.
    pub of_destinations: BTreeMap<(Protocol, Ipv4Addr, u16), u64>,
    /// How many entries its flow table has, and may have (eBPF tier).
    pub table: Option<(u64, u64)>,
    /// How many ports one destination may have (eBPF tier).
    pub ports: Option<u64>,
    /// How many flows one pod may have (eBPF tier).
    pub share: Option<u64>,
}

/// What a pod's link has counted.
#[derive(Clone, Copy)]
pub struct Traffic {
    /// Bytes that the pod has sent.
    pub sent: u64,
    /// Bytes that it has got.
    pub got: u64,
    /// Packets both ways.
    pub packets: u64,
}

impl Look {
    /// Looks.
    pub fn take() -> Result<Self, Failure> {
        let mut bridges = Vec::new();
        let mut drops = BTreeMap::new();
        for (name, record) in Record::all() {
            if matches!(record.tier, Tier::Ebpf(_)) {
                for (reason, packets) in datapath::counters(&name).unwrap_or_default() {
                    if !reason.passes() {
                        drops.insert((name.clone(), reason.name()), packets);
                    }
                }
            }
            bridges.push(Bridge::look_at(name, record.tier)?);
        }
        let pods = state::everything().into_iter().map(|pod| {
            let traffic = Traffic::of(&pod.host_veth);
            (pod, traffic)
        });
        Ok(Self {
            when: Instant::now(),
            bridges,
            pods: pods.collect(),
            drops,
            pool: pool::read().map_err(Failure::new)?,
        })
    }
}

impl Bridge {
    fn look_at(name: String, tier: Tier) -> Result<Self, Failure> {
        let flows = flows::of_bridge(&name)?;
        let mut this = Self {
            tier,
            of_pods: BTreeMap::new(),
            of_destinations: BTreeMap::new(),
            table: None,
            ports: None,
            share: None,
            name,
        };
        for flow in &flows {
            *this.of_pods.entry(flow.pod).or_default() += 1;
            if flow.kind == Kind::Masqueraded {
                let destination = (flow.protocol, flow.remote, flow.remote_port);
                *this.of_destinations.entry(destination).or_default() += 1;
            }
        }
        if let Tier::Ebpf(_) = tier {
            let entries = |flow: &Flow| if flow.kind == Kind::Masqueraded { 2 } else { 1 };
            let used = flows.iter().map(entries).sum();
            let size = view::flow_table_size(&this.name).unwrap_or_default();
            this.table = size.map(|size| (used, size.into()));
            if let Ok(Some(uplink)) = view::uplink(&this.name) {
                let reserved = view::reserved_ports(&this.name).unwrap_or_default();
                let ports = u64::from(uplink.port_max) + 1 - u64::from(uplink.port_min);
                this.ports = Some(ports.saturating_sub(reserved.unwrap_or(0).into()));
                this.share = Some(uplink.flows_per_pod.into());
            }
        }
        Ok(this)
    }
}

impl Traffic {
    /// The link's other end is the pod's: what comes in by it is what the pod sends.
    fn of(host_veth: &str) -> Option<Self> {
        let counted = |what: &str| -> Option<u64> {
            let path = Path::new(LINKS)
                .join(host_veth)
                .join("statistics")
                .join(what);
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Some(Self {
            sent: counted("rx_bytes")?,
            got: counted("tx_bytes")?,
            packets: counted("rx_packets")?.saturating_add(counted("tx_packets")?),
        })
    }
}
