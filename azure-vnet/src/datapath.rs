//! The datapath: what makes pods' frames acceptable to the fabric and masquerades what leaves the
//! ranges. Two tiers give the same verdicts, TC eBPF and netfilter; this file chooses.

mod attach;
mod batch;
mod bpffs;
mod chained;
mod direct;
mod ebpf;
mod inbound;
mod maps;
mod netfilter;
mod nics;
mod object;
mod policy;
mod predecessors;
mod probe;
mod queued;
mod record;
mod refresh;
mod rehearsal;
mod removal;
mod reserve;
pub mod view;
pub mod watch;

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use ipnet::Ipv4Net;

use crate::lock::{self, Lock};
use crate::masquerade::{Policy, Source, Timeouts};
use crate::netlink::MacAddress;
use crate::node::Seen;
use crate::ports;
use crate::state;

use crate::live::{self, interface_index, is_link, pods};
use refresh::Settings;

pub use attach::{FILTER, Mechanism};
pub use direct::{Depth, is_supported as counts_behind_veths, passed_by, tell_ports};
pub use ebpf::EbpfError;
pub use maps::Counters;
pub(crate) use netfilter::execute;
pub use netfilter::{Judged, NetfilterError, Rules, foreign, judge, spoofed};
pub use nics::{Addresses, Elsewhere, Nics, tell_nics};
pub use object::OBJECT;
pub use probe::{Inspection, Way, defects, probe};
pub use queued::is_anybody_asked;
pub use record::Record;
pub use refresh::{
    Refreshed, attach_again, attach_again_beside, prefixes, refresh, refresh_beside,
};
pub use rehearsal::{Performed, Rehearsal};
pub use removal::{
    Departed, Forgotten, bridges, forget, forget_dead, remove_pod, sweep, take_away,
};

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
    /// nftables or iptables ([`Rules`]).
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
    /// The bridge of its pods; names the datapath.
    pub bridge: String,
    /// Interface index of the bridge.
    pub bridge_ifindex: u32,
    /// The NIC.
    pub name: String,
    /// Primary address of the NIC: what masqueraded packets are sent from.
    pub address: Ipv4Addr,
    /// Interface index of the NIC.
    pub ifindex: u32,
    /// MAC of the NIC.
    pub mac: MacAddress,
    /// MTU of the NIC.
    pub mtu: u32,
    /// Whether established flows pass routing and netfilter by.
    pub fast_path: bool,
    /// First and last port for masquerading, or why there are none (eBPF tier).
    pub ports: Result<(u16, u16), ports::Error>,
    /// When idle flows end (eBPF tier).
    pub timeouts: Timeouts,
    /// How many flows a pod may have (eBPF tier).
    pub flows_per_pod: u32,
    /// What is masqueraded.
    pub policy: Policy,
    /// The pool's subnet, and what the configuration says: what the policy was made of, beside
    /// ip-masq-agent's files.
    pub subnet: Ipv4Net,
    /// As `subnet`.
    pub source: Source,
}

impl Uplink {
    fn port_range(&self) -> Result<RangeInclusive<u16>, EbpfError> {
        let (first, last) = self.ports.clone()?;
        Ok(first..=last)
    }
}

/// A pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name of its network, whose list says what is chained behind us.
    pub network: String,
    /// Name of its host veth.
    pub host_veth: String,
    /// Interface index of its host veth.
    pub ifindex: u32,
    /// Names its container ([`crate::names::container`]), which may have several interfaces.
    pub container: u32,
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
    /// Which pods there are is not known, and the rules of one that lives must not go.
    #[error("cannot tell which pods there are")]
    Pods(#[from] live::Error),
}

/// The datapath of one bridge, in place.
pub struct Datapath {
    uplink: Uplink,
    tier: Running,
}

enum Running {
    Ebpf(ebpf::Ebpf),
    Netfilter(Rules),
}

impl Running {
    /// The tier as an earlier call left it, if it is whole and the wanted one.
    fn find(wanted: Wanted, uplink: &Uplink) -> Option<Self> {
        let record = Record::read(&uplink.bridge)?;
        match (choose(wanted, Some(&record)), record.tier) {
            (Wanted::Netfilter, Tier::Ebpf(_)) | (Wanted::Ebpf | Wanted::Auto, Tier::Netfilter) => {
                None
            }
            // Every pod that is added mends the rules.
            (Wanted::Netfilter, Tier::Netfilter) => Some(Self::Netfilter(record.rules)),
            (Wanted::Ebpf | Wanted::Auto, Tier::Ebpf(mechanism)) => {
                // What has another index only is told to the programs by `reuse`.
                let is_pinned = ebpf::is_pinned(&uplink.bridge, mechanism);
                let tier = is_pinned.then(|| ebpf::Ebpf::reuse(uplink, mechanism));
                tier.flatten().map(Self::Ebpf)
            }
        }
    }
}

impl Running {
    /// Whether nothing is to be done for the policy of `uplink`, nor to be written down.
    fn has_policy(&self, uplink: &Uplink) -> bool {
        match self {
            Self::Ebpf(ebpf) => {
                ebpf.has_policy
                    && Settings::read(&uplink.bridge).as_ref() == Some(&Settings::of(uplink))
            }
            // Every pod that is added brings it.
            Self::Netfilter(_) => true,
        }
    }

    /// Puts it in force; under the bridge's lock.
    fn set_policy(&self, uplink: &Uplink) -> Result<(), Error> {
        if matches!(self, Self::Ebpf(_)) {
            ebpf::set_policy(uplink)?;
            Settings::of(uplink).write(&uplink.bridge);
        }
        Ok(())
    }
}

impl Datapath {
    /// Makes sure that the datapath of `uplink` is in place. What is there already is kept: with
    /// `Auto` the tier that the first call chose. A tier that is set up anew, or again after its
    /// state was lost, serves all pods of the bridge at once.
    pub fn ensure(wanted: Wanted, mut uplink: Uplink) -> Result<Self, Error> {
        keep_ports(wanted, &mut uplink);
        if let Some(tier) = Running::find(wanted, &uplink)
            && tier.has_policy(&uplink)
        {
            return Ok(Self { uplink, tier });
        }
        let lock = lock(&uplink.bridge)?;
        // Another call may have done it while this one waited.
        if let Some(tier) = Running::find(wanted, &uplink) {
            tier.set_policy(&uplink)?;
            return Ok(Self { uplink, tier });
        }
        let before = Record::read(&uplink.bridge);
        let choice = choose(wanted, before.as_ref());
        let pods = pods(&uplink.bridge)?;
        let (tier, record) = match choice {
            Wanted::Netfilter => Self::netfilter(&uplink, &pods, &lock)?,
            choice => Self::ebpf(choice, &uplink, &pods, before.as_ref(), &lock)?,
        };
        record.write(&uplink.bridge)?;
        Settings::of(&uplink).write(&uplink.bridge);
        Ok(Self { uplink, tier })
    }

    fn ebpf(
        choice: Wanted,
        uplink: &Uplink,
        pods: &[Pod],
        before: Option<&Record>,
        lock: &Lock,
    ) -> Result<(Running, Record), Error> {
        match ebpf::Ebpf::set_up(uplink, pods) {
            Ok(ebpf) => {
                if let Some(before) = before.filter(|before| before.tier == Tier::Netfilter) {
                    netfilter::drain(before.rules, &uplink.bridge, lock);
                }
                let record = Record::ebpf(ebpf.mechanism());
                Ok((Running::Ebpf(ebpf), record))
            }
            Err(error) if choice == Wanted::Auto => {
                let why = chain(&error);
                ebpf::remove(uplink, pods);
                let rules = netfilter::install(uplink, pods, lock);
                let rules = rules.map_err(|source| Error::Netfilter {
                    source,
                    ebpf: Some(why.clone()),
                })?;
                tracing::warn!("falling back to netfilter ({rules}), eBPF cannot be used: {why}");
                Ok((
                    Running::Netfilter(rules),
                    Record::netfilter(rules, Some(why)),
                ))
            }
            Err(error) => {
                // Pods that an earlier call serves are better off with what is left of it.
                if !before.is_some_and(|before| matches!(before.tier, Tier::Ebpf(_))) {
                    ebpf::remove(uplink, pods);
                }
                Err(error.into())
            }
        }
    }

    fn netfilter(uplink: &Uplink, pods: &[Pod], lock: &Lock) -> Result<(Running, Record), Error> {
        let rules = netfilter::install(uplink, pods, lock)
            .map_err(|source| Error::Netfilter { source, ebpf: None })?;
        ebpf::remove(uplink, pods);
        Ok((Running::Netfilter(rules), Record::netfilter(rules, None)))
    }

    /// Takes responsibility for a pod before its link is made: from then on a concurrent call that
    /// sets the tier up anew may serve it, so a failed ADD has to take it back even if it never
    /// came to [`Served::serve`].
    pub fn undertake(&self, host_veth: &str, address: Ipv4Addr) -> Served<'_> {
        Served {
            datapath: self,
            pod: Departed {
                host_veth: host_veth.to_owned(),
                ifindex: None,
                address: Some(address),
            },
            kept: false,
        }
    }

    fn add_pod(&self, pod: &Pod, seen: &Seen) -> Result<(), Error> {
        let bridge = &self.uplink.bridge;
        match &self.tier {
            Running::Ebpf(ebpf) => {
                reserve::refresh(&self.uplink, pod)?;
                ebpf.add_pod(bridge, pod)?;
                match seen.pods(bridge) {
                    Some(pods) => serve_unknown(ebpf, bridge, pods),
                    None => serve_unknown(ebpf, bridge, &pods(bridge)?),
                }
            }
            Running::Netfilter(rules) => {
                let lock = lock(bridge)?;
                // The pods of this moment, under the lock: what is not of one of them goes.
                netfilter::mend(*rules, &self.uplink, &pods(bridge)?, Some(pod), &lock)
                    .map_err(|source| Error::Netfilter { source, ebpf: None })?;
                Settings::of(&self.uplink).write(bridge);
                Ok(())
            }
        }
    }

    fn serve_unknown(&self) -> Result<(), Error> {
        match &self.tier {
            Running::Ebpf(ebpf) => {
                let bridge = &self.uplink.bridge;
                serve_unknown(ebpf, bridge, &pods(bridge)?)
            }
            Running::Netfilter(_) => Ok(()),
        }
    }

    /// What is in place.
    pub fn tier(&self) -> Tier {
        match &self.tier {
            Running::Ebpf(ebpf) => Tier::Ebpf(ebpf.mechanism()),
            Running::Netfilter(_) => Tier::Netfilter,
        }
    }
}

/// A pod that is served but may not stay; dropping it, after its link, forgets the pod.
#[must_use = "dropping it forgets the pod"]
pub struct Served<'a> {
    datapath: &'a Datapath,
    pod: Departed,
    kept: bool,
}

impl Served<'_> {
    /// Serves the pod, which is among the remembered attachments and has its link by now.
    pub fn serve(&mut self, pod: &Pod, seen: &Seen) -> Result<(), Error> {
        self.pod.ifindex = Some(pod.ifindex);
        self.datapath.add_pod(pod, seen)
    }

    /// The pod stays.
    pub fn commit(mut self) {
        self.kept = true;
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = remove_pod(&self.datapath.uplink.bridge, &self.pod) {
            tracing::warn!("{}", chain(&error));
        }
    }
}

/// Serves the pods that the maps do not know, because somebody took them out. A pod whose ADD is under way is that call's to serve.
///
/// The list may be some time old: one of it that is gone by now is taken out again, and one that came later is its ADD's.
fn serve_unknown(ebpf: &ebpf::Ebpf, bridge: &str, pods: &[Pod]) -> Result<(), Error> {
    let mut unknown = ebpf::unknown(bridge, pods)?;
    unknown.retain(|pod| !state::is_recent(&pod.host_veth));
    for pod in &unknown {
        tracing::info!("mending: the maps of {bridge} do not know {}", pod.address);
    }
    serve(ebpf, bridge, unknown)
}

/// Serves pods that may be served already, and may be about to go.
fn serve<'a>(
    ebpf: &ebpf::Ebpf,
    bridge: &str,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Result<(), Error> {
    for pod in pods {
        let served = ebpf.add_pod(bridge, pod);
        if is_link(pod.ifindex) {
            served?;
        } else {
            // Its DEL was faster, and may have been between our list and our entry.
            ebpf::forget_dead(bridge, &pod.host_veth)?;
        }
    }
    Ok(())
}

/// Whether it is written down what the datapath of `bridge` is, and what it was told.
pub fn is_known(bridge: &str) -> bool {
    Record::read(bridge).is_some() && Settings::read(bridge).is_some()
}

/// Where the eBPF tier is in force already and the node leaves no ports any more, it goes on with those that it has: to give the
/// tier up would cost every pod its flows. `doctor` says that the node's own sockets may get the same ports.
fn keep_ports(wanted: Wanted, uplink: &mut Uplink) {
    if let Err(error) = &uplink.ports
        && let Some(ports) = ports_kept(wanted, &uplink.bridge)
    {
        tracing::warn!(
            "{}-{} stay the ports to masquerade with: {error}",
            ports.0,
            ports.1
        );
        uplink.ports = Ok(ports);
    }
}

fn ports_kept(wanted: Wanted, bridge: &str) -> Option<(u16, u16)> {
    match (wanted, Record::read(bridge)?.tier) {
        (Wanted::Auto, Tier::Ebpf(_)) => Settings::read(bridge)?.ports(),
        _ => None,
    }
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
    lock::acquire(&path).map_err(|source| Error::Lock {
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
