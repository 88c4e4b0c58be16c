//! What goes when a pod goes, in whatever tier is in place.
//!
//! The pod's link goes first. A call that sets a tier up anew serves the pods whose links it sees, so
//! whatever it adds is there before the link is gone, and is removed here, after that: nothing comes
//! back. All of it can be done again, and done for a pod that never was.

use std::net::Ipv4Addr;

use super::refresh::Settings;
use super::{Error, Record, Tier, ebpf, lock, netfilter, pods};
use crate::conntrack;

/// What is known of a pod that goes. Its link is gone already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Name that its host veth had.
    pub host_veth: String,
    /// Interface index that its host veth had; none if it was gone before anybody could ask.
    pub ifindex: Option<u32>,
    /// Its address, which by now may be another pod's; none if the state is lost.
    pub address: Option<Ipv4Addr>,
}

/// Forgets a pod of `bridge`; what is gone already is as good, and what another pod has is left.
pub fn remove_pod(bridge: &str, pod: &Departed) -> Result<(), Error> {
    // Where the record is lost, either tier may be in place.
    let tier = Record::read(bridge).map(|record| record.tier);
    if tier != Some(Tier::Netfilter) {
        ebpf::remove_pod(bridge, pod)?;
    }
    let is_by_maps_alone =
        matches!(tier, Some(Tier::Ebpf(_))) || tier.is_none() && pod.address.is_none();
    let mut gone = Vec::from_iter(pod.address);
    if !is_by_maps_alone {
        gone.extend(sweep_elements(bridge)?);
    }
    forget_connections(bridge, gone);
    Ok(())
}

/// Ends what connection tracking knows of pods that are gone, in both tiers: in one it translates, and in the other it
/// does so for Services and hostPorts. Without its netlink (`nf_conntrack_netlink`) its entries end in their time.
fn forget_connections(bridge: &str, mut gone: Vec<Ipv4Addr>) {
    let Ok(alive) = pods(bridge) else {
        return;
    };
    // Another pod may have the address by now.
    gone.retain(|address| alive.iter().all(|pod| pod.address != *address));
    gone.sort_unstable();
    gone.dedup();
    if let Err(error) = conntrack::forget(&gone) {
        tracing::warn!("connection tracking keeps its entries of {gone:?}: {error}");
    }
}

/// Takes everything of the datapath of `bridge` away, in both tiers: no pod is left, nor a filter on the
/// NIC. Only the record of the tier stays, which [`forget`] removes.
pub fn take_away(bridge: &str) -> Result<(), Error> {
    let lock = lock(bridge)?;
    let record = Record::read(bridge);
    ebpf::take_away(bridge)?;
    Settings::forget(bridge)?;
    let known = record
        .filter(|record| record.tier == Tier::Netfilter)
        .map(|record| record.rules);
    netfilter::take_away(known, bridge, &lock)
        .map_err(|source| Error::Netfilter { source, ebpf: None })
}

/// Forgets which tier `bridge` had, once nothing of it is left.
pub fn forget(bridge: &str) -> Result<(), Error> {
    Ok(Record::remove(bridge)?)
}

/// The bridges that have a datapath, or what is left of one.
pub fn bridges() -> Vec<String> {
    let recorded = Record::all().into_iter().map(|(bridge, _)| bridge);
    recorded.chain(ebpf::bridges()).collect()
}

/// What was known of pods that are gone.
#[derive(Debug, Default)]
pub struct Forgotten {
    /// Bridge and address of each such pod that was known.
    pub pods: Vec<(String, Ipv4Addr)>,
    /// What could not be looked at.
    pub failures: Vec<Error>,
}

/// Forgets the pods of all bridges whose links are gone, `host_veth` among them: all that can be done
/// for a pod of which nothing is known but that it is gone. Cheap, and the eBPF tier's alone: the
/// netfilter tier's elements do not say whose they are, and are [`sweep`]'s.
pub fn forget_dead(host_veth: &str) -> Forgotten {
    let mut forgotten = Forgotten::default();
    for bridge in ebpf::bridges() {
        let addresses = ebpf::forget_dead(&bridge, host_veth).map_err(Error::from);
        forgotten.note(&bridge, addresses);
    }
    forgotten
}

/// Forgets everything of pods that are gone, in all datapaths of the node.
pub fn sweep() -> Forgotten {
    let mut forgotten = Forgotten::default();
    for bridge in ebpf::bridges() {
        forgotten.note(&bridge, ebpf::sweep(&bridge).map_err(Error::from));
    }
    for (bridge, record) in Record::all() {
        if record.tier == Tier::Netfilter {
            forgotten.note(&bridge, sweep_elements(&bridge));
        }
    }
    forgotten
}

impl Forgotten {
    fn note(&mut self, bridge: &str, addresses: Result<Vec<Ipv4Addr>, Error>) {
        match addresses {
            Ok(addresses) => {
                forget_connections(bridge, addresses.clone());
                let pods = addresses.into_iter();
                self.pods
                    .extend(pods.map(|address| (bridge.to_owned(), address)));
            }
            Err(error) => self.failures.push(error),
        }
    }
}

fn sweep_elements(bridge: &str) -> Result<Vec<Ipv4Addr>, Error> {
    let lock = lock(bridge)?;
    let pods = pods(bridge)?;
    // Where it is in force, what of it is missing is mended by the same look.
    let uplink = Record::read(bridge)
        .filter(|record| record.tier == Tier::Netfilter)
        .and_then(|record| Some((record.rules, Settings::read(bridge)?.uplink(bridge))));
    let dead = match uplink {
        Some((rules, uplink)) => netfilter::mend(rules, &uplink, &pods, None, &lock),
        None => netfilter::retain(bridge, &pods, &lock),
    };
    dead.map_err(|source| Error::Netfilter { source, ebpf: None })
}
