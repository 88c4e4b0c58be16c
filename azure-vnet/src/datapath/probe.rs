//! Looking without touching: what CHECK and STATUS want to know of the datapath.

use super::{Error, Pod, Record, Tier, Wanted, chain, ebpf, netfilter, ports_kept};
use crate::netlink::Netlink;
use crate::netlink::link::Link;
use crate::ports;

/// The links between a pod and the fabric, as they are now.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The NIC.
    pub nic: &'a Link,
    /// The bridge of the pods.
    pub bridge: &'a Link,
    /// The pod's host veth.
    pub port: &'a Link,
}

/// The datapath of a bridge, to be looked at for one pod or for many.
pub struct Inspection {
    bridge: String,
    tier: Option<Tier>,
    tables: Option<netfilter::Inspection>,
}

impl Inspection {
    /// Finds out which tier there is. What is the same for all pods is read once, here.
    pub fn of(bridge: &str) -> Result<Self, Error> {
        let record = Record::read(bridge);
        let tier = record.as_ref().map(|record| record.tier);
        let tables = match record {
            Some(Record {
                tier: Tier::Netfilter,
                rules,
                ..
            }) => Some(
                netfilter::Inspection::of(rules, bridge)
                    .map_err(|source| Error::Netfilter { source, ebpf: None })?,
            ),
            _ => None,
        };
        Ok(Self {
            bridge: bridge.to_owned(),
            tier,
            tables,
        })
    }

    /// What is missing or wrong for `pod`, one sentence each; none is as it should be.
    pub async fn defects(
        &self,
        netlink: &Netlink,
        way: Way<'_>,
        pod: &Pod,
    ) -> Result<Vec<String>, Error> {
        match (self.tier, &self.tables) {
            (Some(Tier::Ebpf(mechanism)), _) => {
                Ok(ebpf::defects(netlink, mechanism, way, pod).await?)
            }
            (_, Some(tables)) => Ok(tables.defects(pod)),
            _ => Ok(vec![format!("{} has no datapath", self.bridge)]),
        }
    }
}

/// What is missing or wrong in the datapath of `pod`, one sentence each; none is as it should be.
pub async fn defects(netlink: &Netlink, way: Way<'_>, pod: &Pod) -> Result<Vec<String>, Error> {
    let inspection = Inspection::of(&way.bridge.name)?;
    inspection.defects(netlink, way, pod).await
}

/// Whether the wanted tier could be set up, as far as can be told in a few system calls. `no_ports` is why there are none to
/// masquerade with, if so.
pub fn probe(wanted: Wanted, no_ports: Option<&ports::Error>) -> Result<(), Error> {
    let netfilter = |ebpf| netfilter::probe().map_err(|source| Error::Netfilter { source, ebpf });
    let mut bridges = Record::all().into_iter().map(|(bridge, _)| bridge);
    let no_ports = no_ports.filter(|_| !bridges.any(|it| ports_kept(wanted, &it).is_some()));
    let ebpf = || match no_ports {
        Some(error) => Err(error.clone().into()),
        None => ebpf::probe(),
    };
    match wanted {
        Wanted::Ebpf => Ok(ebpf()?),
        Wanted::Netfilter => netfilter(None),
        Wanted::Auto => ebpf().or_else(|error| netfilter(Some(chain(&error)))),
    }
}
