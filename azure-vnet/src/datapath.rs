//! The datapath: what makes pods' frames acceptable to the fabric and masquerades what leaves the
//! ranges. Two tiers give the same verdicts, TC eBPF and netfilter; this file chooses.

mod attach;
mod bpffs;
mod ebpf;
mod maps;
mod netfilter;
mod object;
mod record;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use serde::{Deserialize, Serialize};

use crate::lock::{self, Lock};
use crate::masquerade::Policy;
use crate::netlink::MacAddress;
use crate::state;

pub use attach::Mechanism;
pub use ebpf::EbpfError;
pub use maps::Counters;
pub use netfilter::NetfilterError;
pub use object::OBJECT;
pub use record::Record;

/// `masquerade.datapath` of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// eBPF if the kernel gives it, else netfilter with a warning.
    #[default]
    Auto,
    /// eBPF or an error.
    Ebpf,
    /// netfilter or an error.
    Netfilter,
}

/// What is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// TC eBPF, attached in this way.
    Ebpf(Mechanism),
    /// nftables.
    Netfilter,
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ebpf(mechanism) => write!(formatter, "ebpf ({mechanism})"),
            Self::Netfilter => formatter.write_str("netfilter"),
        }
    }
}

/// The NIC that is served, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The bridge it is a port of; names the datapath.
    pub bridge: String,
    /// The NIC.
    pub name: String,
    /// Primary address of the NIC: what masqueraded packets are sent from.
    pub address: Ipv4Addr,
    /// MAC of the NIC.
    pub mac: MacAddress,
    /// First and last port for masquerading.
    pub ports: (u16, u16),
    /// What is masqueraded.
    pub policy: Policy,
}

/// A pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name of its host veth.
    pub host_veth: String,
    /// Interface index of its host veth.
    pub ifindex: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// MAC of the pod's end.
    pub mac: MacAddress,
}

/// Why there is no datapath.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another call holds the lock for too long.
    #[error("the datapath of {bridge} is being set up by another call")]
    Lock {
        /// Whose datapath.
        bridge: String,
        /// What happened at the lock file.
        source: lock::Error,
    },
    /// The eBPF tier was asked for.
    #[error(
        "the eBPF datapath cannot be set up; \"masquerade\": {{\"datapath\": \"auto\"}} would fall back to netfilter"
    )]
    Ebpf(#[from] EbpfError),
    /// The netfilter tier was asked for, or eBPF was not to be had either.
    #[error("the netfilter datapath cannot be set up{}", .ebpf.as_ref().map(|why| format!(" (and eBPF cannot either: {why})")).unwrap_or_default())]
    Netfilter {
        /// What failed.
        source: NetfilterError,
        /// Why eBPF was not used, if it was tried first.
        ebpf: Option<String>,
    },
    /// The choice could not be written down.
    #[error(transparent)]
    Record(#[from] record::Error),
}

/// The datapath of one bridge, in place.
pub struct Datapath {
    uplink: Uplink,
    tier: Running,
}

enum Running {
    Ebpf(ebpf::Ebpf),
    Netfilter,
}

impl Datapath {
    /// Makes sure that the datapath of `uplink` is in place. What is there already is kept: with
    /// `Auto` the tier that the first call chose. A tier that is set up anew, or again after its
    /// state was lost, serves all pods of the bridge at once.
    pub fn ensure(wanted: Wanted, uplink: Uplink) -> Result<Self, Error> {
        let record = Record::read(&uplink.bridge);
        if let Some(Tier::Ebpf(mechanism)) = record.as_ref().map(|record| record.tier)
            && wanted != Wanted::Netfilter
            && let Some(ebpf) = ebpf::Ebpf::reuse(&uplink, mechanism)
        {
            return Ok(Self {
                uplink,
                tier: Running::Ebpf(ebpf),
            });
        }
        let _lock = lock(&uplink.bridge)?;
        let pods = pods(&uplink.bridge);
        let (tier, record) = match choose(wanted, record.as_ref()) {
            Wanted::Netfilter => Self::netfilter(&uplink, &pods, record)?,
            choice => Self::ebpf(choice, &uplink, &pods)?,
        };
        record.write(&uplink.bridge)?;
        Ok(Self { uplink, tier })
    }

    fn ebpf(choice: Wanted, uplink: &Uplink, pods: &[Pod]) -> Result<(Running, Record), Error> {
        match ebpf::Ebpf::set_up(uplink, pods) {
            Ok(ebpf) => {
                netfilter::remove(&uplink.bridge);
                let record = Record::new(Tier::Ebpf(ebpf.mechanism()), None);
                Ok((Running::Ebpf(ebpf), record))
            }
            Err(error) if choice == Wanted::Auto => {
                let why = chain(&error);
                ebpf::remove(uplink, pods);
                netfilter::install(uplink, pods).map_err(|source| Error::Netfilter {
                    source,
                    ebpf: Some(why.clone()),
                })?;
                tracing::warn!("falling back to netfilter, eBPF cannot be used: {why}");
                Ok((Running::Netfilter, Record::new(Tier::Netfilter, Some(why))))
            }
            Err(error) => {
                ebpf::remove(uplink, pods);
                Err(error.into())
            }
        }
    }

    fn netfilter(
        uplink: &Uplink,
        pods: &[Pod],
        record: Option<Record>,
    ) -> Result<(Running, Record), Error> {
        netfilter::install(uplink, pods)
            .map_err(|source| Error::Netfilter { source, ebpf: None })?;
        ebpf::remove(uplink, pods);
        let why = record.and_then(|record| record.why);
        Ok((Running::Netfilter, Record::new(Tier::Netfilter, why)))
    }

    /// Serves one more pod, which is among the remembered attachments already.
    pub fn add_pod(&self, pod: &Pod) -> Result<Served, Error> {
        let bridge = &self.uplink.bridge;
        let served = Served {
            bridge: bridge.clone(),
            host_veth: pod.host_veth.clone(),
            address: pod.address,
            kept: false,
        };
        match &self.tier {
            Running::Ebpf(ebpf) => ebpf.add_pod(bridge, pod)?,
            Running::Netfilter => {
                let _lock = lock(bridge)?;
                netfilter::install(&self.uplink, &pods(bridge))
                    .map_err(|source| Error::Netfilter { source, ebpf: None })?;
            }
        }
        Ok(served)
    }

    /// What is in place.
    pub fn tier(&self) -> Tier {
        match &self.tier {
            Running::Ebpf(ebpf) => Tier::Ebpf(ebpf.mechanism()),
            Running::Netfilter => Tier::Netfilter,
        }
    }
}

/// A pod that is served but may not stay; dropping it forgets the pod.
#[must_use = "dropping it forgets the pod"]
#[derive(Debug)]
pub struct Served {
    bridge: String,
    host_veth: String,
    address: Ipv4Addr,
    kept: bool,
}

impl Served {
    /// The pod stays.
    pub fn commit(mut self) {
        self.kept = true;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = remove_pod(&self.bridge, &self.host_veth, self.address) {
            tracing::warn!("{}", chain(&error));
        }
    }
}

/// Forgets a pod in whatever tier is in place; what is gone already is as good. Its link may be
/// gone, so it is known by name and address.
pub fn remove_pod(bridge: &str, host_veth: &str, address: Ipv4Addr) -> Result<(), Error> {
    match Record::read(bridge).map(|record| record.tier) {
        Some(Tier::Ebpf(_)) => Ok(ebpf::remove_pod(bridge, host_veth, address)?),
        Some(Tier::Netfilter) => {
            let _lock = lock(bridge)?;
            netfilter::remove_pod(bridge, address)
                .map_err(|source| Error::Netfilter { source, ebpf: None })
        }
        None => Ok(()),
    }
}

/// The pods of a bridge whose links are there.
fn pods(bridge: &str) -> Vec<Pod> {
    state::attachments(bridge)
        .into_iter()
        .filter_map(|attachment| {
            Some(Pod {
                ifindex: interface_index(&attachment.host_veth)?,
                host_veth: attachment.host_veth,
                address: attachment.address,
                mac: attachment.mac,
            })
        })
        .collect()
}

/// The index of a link of this namespace, if there is one of that name.
fn interface_index(name: &str) -> Option<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    name_to_index(socket, name).ok()
}

/// The packet counters of a bridge's eBPF tier.
pub fn counters(bridge: &str) -> Result<Counters, EbpfError> {
    ebpf::counters(bridge)
}

/// The choice is made once: a node must not change its tier because one call found less memory.
fn choose(wanted: Wanted, record: Option<&Record>) -> Wanted {
    match (wanted, record.map(|record| record.tier)) {
        (Wanted::Auto, Some(Tier::Netfilter)) => Wanted::Netfilter,
        _ => wanted,
    }
}

fn lock(bridge: &str) -> Result<Lock, Error> {
    let path = Path::new(state::DIRECTORY).join(format!("datapath-{bridge}.lock"));
    Lock::acquire(&path).map_err(|source| Error::Lock {
        bridge: bridge.to_owned(),
        source,
    })
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
