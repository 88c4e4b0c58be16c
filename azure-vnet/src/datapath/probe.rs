//! Looking without touching: what CHECK and STATUS want to know of the datapath.

use super::{Error, Pod, Record, Tier, Wanted, chain, ebpf, netfilter};
use crate::netlink::Netlink;
use crate::netlink::link::Link;

/// The links between a pod and the fabric, as they are now.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The NIC.
    pub nic: &'a Link,
    /// The bridge that the NIC is a port of.
    pub bridge: &'a Link,
    /// The pod's host veth.
    pub port: &'a Link,
}

/// What is missing or wrong in the datapath of `pod`, one sentence each; none is as it should be.
pub async fn defects(netlink: &Netlink, way: Way<'_>, pod: &Pod) -> Result<Vec<String>, Error> {
    let bridge = &way.bridge.name;
    match Record::read(bridge).map(|record| record.tier) {
        Some(Tier::Ebpf(mechanism)) => Ok(ebpf::defects(netlink, mechanism, way, pod).await?),
        Some(Tier::Netfilter) => netfilter::defects(bridge, pod)
            .map_err(|source| Error::Netfilter { source, ebpf: None }),
        None => Ok(vec![format!("{bridge} has no datapath")]),
    }
}

/// Whether the wanted tier could be set up, as far as can be told in a few system calls.
pub fn probe(wanted: Wanted) -> Result<(), Error> {
    let netfilter = |ebpf| netfilter::probe().map_err(|source| Error::Netfilter { source, ebpf });
    match wanted {
        Wanted::Ebpf => Ok(ebpf::probe()?),
        Wanted::Netfilter => netfilter(None),
        Wanted::Auto => ebpf::probe().or_else(|error| netfilter(Some(chain(&error)))),
    }
}
