//! What every call does for a datapath that another one set up: it mends what was lost, and a policy that changed reaches a node
//! that runs: with the next ADD where the configuration changed, with any call where ip-masq-agent's files did.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{
    Addresses, Datapath, Error, Mechanism, Nics, Pod, Record, Tier, Uplink, Wanted, ebpf,
    interface_index, lock, netfilter, pods, record, serve, tell_nics,
};
use crate::conntrack;
use crate::masquerade::{Digest, Source, Timeouts, agent};
use crate::netlink::MacAddress;
use crate::node::Seen;
use crate::ports;
use crate::state;

/// What the datapath of a bridge was told by the last ADD: all that it takes to compile its policy anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    nic: String,
    ifindex: u32,
    #[serde(default)]
    bridge_ifindex: u32,
    mtu: u32,
    fast_path: bool,
    address: Ipv4Addr,
    mac: MacAddress,
    /// None where the node left none: the netfilter tier needs none.
    ports: Option<(u16, u16)>,
    #[serde(default)]
    timeouts: Timeouts,
    #[serde(default = "default_flows_per_pod")]
    flows_per_pod: u32,
    subnet: Ipv4Net,
    source: Source,
    /// Of the policy that the netfilter tier has; the eBPF tier's is in its maps.
    digest: Digest,
}

/// What became of one bridge.
#[derive(Debug)]
pub struct Refreshed {
    /// The bridge.
    pub bridge: String,
    /// Whether its policy was another one.
    pub result: Result<bool, Error>,
}

/// Puts right what was lost of the datapaths of all bridges, for all pods; compiles their policies anew, with what ip-masq-agent's
/// files say now, and puts in force those that changed. Cheap where nothing did.
///
/// `seen` is what the call has seen when it mended the node's network.
pub fn refresh(seen: &Seen) -> Vec<Refreshed> {
    let addresses = seen.addresses();
    let bridges = Record::all().into_iter();
    let refreshed = bridges.map(|(bridge, record)| Refreshed {
        result: refresh_bridge(&bridge, record.tier, &addresses, seen.pods(&bridge)),
        bridge,
    });
    let refreshed = refreshed.collect();
    tell_nics(&addresses);
    refreshed
}

/// [`refresh`] for a call whose own work does not depend on it: what fails is logged.
pub fn refresh_beside(seen: &Seen) {
    for Refreshed { bridge, result } in refresh(seen) {
        if let Err(error) = result {
            tracing::warn!(
                "the masquerade policy of {bridge} stays as it was: {}",
                super::chain(&error)
            );
        }
    }
}

/// Attaches the program of every pod in the eBPF tier, where somebody took it off its veth. That is one change of a filter for
/// each pod, so it is done by the calls that are rare.
pub fn attach_again() -> Vec<Refreshed> {
    let bridges = Record::all().into_iter();
    let attached = bridges.filter_map(|(bridge, record)| match record.tier {
        Tier::Ebpf(mechanism) => Some(Refreshed {
            result: attach_pods(&bridge, mechanism).map(|()| false),
            bridge,
        }),
        Tier::Netfilter => None,
    });
    attached.collect()
}

fn attach_pods(bridge: &str, mechanism: Mechanism) -> Result<(), Error> {
    let pods = pods(bridge)?;
    serve(&ebpf::Ebpf::at(mechanism), bridge, &pods)
}

/// [`attach_again`] for a call whose own work does not depend on it: what fails is logged.
pub fn attach_again_beside() {
    for Refreshed { bridge, result } in attach_again() {
        if let Err(error) = result {
            let why = super::chain(&error);
            tracing::warn!("the programs of the pods of {bridge} stay as they are: {why}");
        }
    }
}

/// Prefixes of the policy of `bridge`, as an ADD or a later call last put it in force.
pub fn prefixes(bridge: &str) -> Option<usize> {
    let settings = Settings::read(bridge)?;
    let files = agent::last().settings;
    let policy = settings.source.policy(settings.subnet, files.as_ref());
    Some(policy.compile().prefixes().len())
}

fn refresh_bridge(
    bridge: &str,
    tier: Tier,
    addresses: &Addresses,
    seen: Option<&[Pod]>,
) -> Result<bool, Error> {
    let Some(settings) = Settings::read(bridge) else {
        return Ok(false);
    };
    let settings = settings.with_address_of(addresses.get(bridge));
    let uplink = settings.uplink(bridge);
    let is_whole = match tier {
        Tier::Ebpf(mechanism) => {
            let unknown = |pods: &[Pod]| {
                let mut pods = ebpf::unknown(bridge, pods)?.into_iter();
                Ok::<_, Error>(pods.any(|pod| !state::is_recent(&pod.host_veth)))
            };
            // Attaches the programs of NIC and bridge where somebody took them off.
            ebpf::Ebpf::reuse(&uplink, mechanism).is_some()
                && !match seen {
                    Some(pods) => unknown(pods)?,
                    None => unknown(&pods(bridge)?)?,
                }
        }
        // What becomes of a pod's elements mends them all.
        Tier::Netfilter => true,
    };
    if !is_whole {
        tracing::info!("mending: the programs and maps of {bridge}");
        let datapath = Datapath::ensure(Wanted::Ebpf, uplink)?;
        return datapath.serve_unknown().map(|()| true);
    }
    if settings.is_in_force(bridge, tier)? {
        return Ok(false);
    }
    let lock = lock(bridge)?;
    // An ADD may have been faster, with another configuration or another tier.
    let Some((settings, record)) = Settings::read(bridge).zip(Record::read(bridge)) else {
        return Ok(false);
    };
    let settings = settings.with_address_of(addresses.get(bridge));
    let uplink = settings.uplink(bridge);
    match record.tier {
        Tier::Ebpf(_) => ebpf::set_policy(&uplink)?,
        Tier::Netfilter => {
            netfilter::mend(record.rules, &uplink, &pods(bridge)?, None, &lock)
                .map_err(|source| Error::Netfilter { source, ebpf: None })?;
        }
    }
    let is_new = Settings::of(&uplink) != settings;
    Settings::of(&uplink).write(bridge);
    Ok(is_new)
}

impl Settings {
    /// What is in place for `uplink`.
    pub fn of(uplink: &Uplink) -> Self {
        Self {
            nic: uplink.name.clone(),
            ifindex: uplink.ifindex,
            bridge_ifindex: uplink.bridge_ifindex,
            mtu: uplink.mtu,
            fast_path: uplink.fast_path,
            address: uplink.address,
            mac: uplink.mac,
            ports: uplink.ports.clone().ok(),
            timeouts: uplink.timeouts,
            flows_per_pod: uplink.flows_per_pod,
            subnet: uplink.subnet,
            source: uplink.source.clone(),
            digest: uplink.policy.compile().digest(),
        }
    }

    /// What an earlier call wrote; a file that cannot be read counts as none, until the next ADD.
    pub fn read(bridge: &str) -> Option<Self> {
        state::read_json(&path(bridge))
    }

    /// Writes down what is in force by now, under the bridge's lock. Without it the node works, but changes wait for an ADD. What
    /// connection tracking sends with the address before ends: it would go on so for as long as its remote answers, or longer.
    pub fn write(&self, bridge: &str) {
        let path = path(bridge);
        let before = Self::read(bridge);
        if before.as_ref() == Some(self) {
            return;
        }
        if let Some(address) = before.map(|it| it.address).filter(|it| *it != self.address)
            && let Err(error) = conntrack::forget_translated(address)
        {
            tracing::warn!("connection tracking goes on sending with {address}: {error}");
        }
        if let Err(error) = state::write_json(&path, self) {
            tracing::warn!("cannot write {}: {error}", path.display());
        }
    }

    /// First and last port that the datapath was told, if it was told any.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.ports
    }

    /// Forgets what the datapath of `bridge` was told.
    pub fn forget(bridge: &str) -> Result<(), record::Error> {
        record::remove(path(bridge))
    }

    /// Where the NIC has lost the address that pods' packets leave with, they leave with its first in the pods' subnet.
    fn with_address_of(mut self, nics: Option<&Nics>) -> Self {
        let nets = nics.map(|it| it.addresses.as_slice()).unwrap_or_default();
        if !nets.iter().any(|net| net.addr() == self.address)
            && let Some(net) = nets.iter().find(|net| self.subnet.contains(&net.addr()))
        {
            self.address = net.addr();
        }
        self
    }

    fn is_in_force(&self, bridge: &str, tier: Tier) -> Result<bool, Error> {
        let uplink = self.uplink(bridge);
        Ok(match tier {
            Tier::Ebpf(_) => ebpf::has_policy(&uplink)?,
            Tier::Netfilter => {
                self.digest == uplink.policy.compile().digest()
                    && Self::read(bridge).is_some_and(|before| before.address == self.address)
            }
        })
    }

    /// As an ADD would have it now.
    pub fn uplink(&self, bridge: &str) -> Uplink {
        let files = agent::in_force().settings;
        Uplink {
            bridge: bridge.to_owned(),
            bridge_ifindex: interface_index(bridge)
                .ok()
                .flatten()
                .unwrap_or(self.bridge_ifindex),
            name: self.nic.clone(),
            ifindex: self.ifindex,
            mtu: self.mtu,
            fast_path: self.fast_path,
            address: self.address,
            mac: self.mac,
            ports: self.ports.ok_or(ports::Error::NoneFree),
            timeouts: self.timeouts,
            flows_per_pod: self.flows_per_pod,
            policy: self.source.policy(self.subnet, files.as_ref()),
            subnet: self.subnet,
            source: self.source.clone(),
        }
    }
}

fn default_flows_per_pod() -> u32 {
    azure_vnet_abi::Uplink::DEFAULT_FLOWS_PER_POD
}

fn path(bridge: &str) -> PathBuf {
    Path::new(state::DIRECTORY).join(format!("masquerade-{bridge}.json"))
}
