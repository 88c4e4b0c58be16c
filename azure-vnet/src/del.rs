//! DEL: everything that an ADD made goes, whatever is left of it.
//!
//! Nothing stops it half-way: what fails is collected and reported when all has been tried. The
//! address goes back last, so that nobody has it while anything here still knows it.

use std::net::Ipv4Addr;

use azure_vnet_cni::Del;

use crate::apply::{self, Removal};
use crate::config;
use crate::datapath::{self, Departed, Depth, Forgotten};
use crate::error::Error;
use crate::lease;
use crate::legacy::{self, Endpoint};
use crate::mending::mend_all_beside;
use crate::names;
use crate::netlink::{MacAddress, Netlink, gone_is_fine, link, neighbour};
use crate::plan;
use crate::state;
use crate::takeover;

/// Detaches the container. Its namespace is not needed, nor is the record, nor the configuration that
/// the ADD had: the veth is found by its name, and says the rest.
pub async fn del(request: &Del) -> Result<(), Error> {
    let host_veth = names::host_veth(request.conf.name(), &request.container_id, &request.ifname);
    let mut failures = Failures::default();
    match Netlink::current() {
        Ok(host) => {
            takeover::complete_beside(&host).await;
            failures.append(detach(&host, &host_veth).await);
            let theirs = legacy::endpoints(request.conf.name()).into_iter();
            let is_meant = |it: &Endpoint| it.is(&request.container_id, &request.ifname);
            for endpoint in theirs.filter(is_meant) {
                failures.append(detach_legacy(&host, &endpoint).await);
            }
            mend_all_beside(&host, &request.conf, Depth::Ports).await;
        }
        Err(error) => failures.note(error),
    }
    match config::ipam_of(&request.conf) {
        Ok(ipam) => {
            failures.collect(lease::release(&ipam, &request.path, &request.conf));
        }
        Err(error) => failures.note(error),
    }
    failures.into_result()
}

/// Takes an attachment off the node: the link, what the datapath knows of it, and, when nothing else
/// is left, the record.
pub async fn detach(host: &Netlink, host_veth: &str) -> Failures {
    let mut failures = Failures::default();
    let known = Known::gather(host, host_veth, &mut failures).await;
    for error in apply::remove(host, &known.removal(host_veth)).await {
        failures.note(error);
    }
    match &known.bridge {
        Some(bridge) => {
            failures.collect(datapath::remove_pod(bridge, &known.departed(host_veth)));
        }
        None => forget(host, datapath::forget_dead(host_veth), &mut failures).await,
    }
    if failures.is_empty() {
        failures.collect(state::forget(host_veth));
    }
    failures
}

/// Takes a pod of the original plugin off the node.
pub async fn detach_legacy(host: &Netlink, endpoint: &Endpoint) -> Failures {
    let mut failures = Failures::default();
    let link = failures.collect(host.link(&endpoint.host_veth).await);
    for error in legacy::remove(host, endpoint).await {
        failures.note(error);
    }
    let departed = Departed {
        host_veth: endpoint.host_veth.clone(),
        ifindex: link.flatten().map(|link| link.index),
        address: endpoint.ipv4(),
    };
    failures.collect(datapath::remove_pod(&endpoint.bridge, &departed));
    failures
}

/// The datapath's part of pods that are gone has been taken away; takes away what else the node knew
/// of them.
pub async fn forget(host: &Netlink, forgotten: Forgotten, failures: &mut Failures) {
    for error in forgotten.failures {
        failures.note(error);
    }
    for (bridge, address) in forgotten.pods {
        if let Some(Some(link)) = failures.collect(host.link(&bridge).await) {
            let entry = neighbour::delete(link.index, &bridge, address.into());
            failures.collect(gone_is_fine(host.run(entry).await));
        }
    }
}

/// What is known of an attachment: from its record, or else from its link.
struct Known {
    bridge: Option<String>,
    ifindex: Option<u32>,
    address: Option<Ipv4Addr>,
    mac: Option<MacAddress>,
}

impl Known {
    async fn gather(host: &Netlink, host_veth: &str, failures: &mut Failures) -> Self {
        if let Some(record) = state::find(host_veth) {
            return Self {
                bridge: Some(record.bridge),
                ifindex: failures.collect(link::index_of(host_veth)).flatten(),
                address: Some(record.address),
                mac: Some(record.mac),
            };
        }
        let link = failures.collect(host.link(host_veth).await).flatten();
        let ifindex = link.as_ref().map(|link| link.index);
        let master = link.as_ref().and_then(|link| link.master);
        let bridge = match master {
            Some(index) => failures.collect(host.link_at(index).await).flatten(),
            None => None,
        };
        let address = link.and_then(|link| plan::address_behind(link.mac?));
        Self {
            bridge: bridge.map(|bridge| bridge.name),
            ifindex,
            address,
            mac: address.map(plan::pod_mac),
        }
    }

    fn removal(&self, host_veth: &str) -> Removal {
        Removal {
            host_veth: host_veth.to_owned(),
            bridge: self.bridge.clone(),
            addresses: self.address.into_iter().map(Into::into).collect(),
            mac: self.mac,
        }
    }

    fn departed(&self, host_veth: &str) -> Departed {
        Departed {
            host_veth: host_veth.to_owned(),
            ifindex: self.ifindex,
            address: self.address,
        }
    }
}

/// What went wrong so far.
#[derive(Debug, Default)]
pub struct Failures(Vec<Error>);

impl Failures {
    /// Gives what a step gave, or notes that it failed.
    pub fn collect<T>(&mut self, result: Result<T, impl Into<Error>>) -> Option<T> {
        result.map_err(|error| self.note(error)).ok()
    }

    /// Notes a failure.
    pub fn note(&mut self, error: impl Into<Error>) {
        self.0.push(error.into());
    }

    /// Takes over the failures of a part.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first failure is the answer, as a runtime takes only one; the others are logged.
    pub fn into_result(self) -> Result<(), Error> {
        let mut failures = self.0.into_iter();
        let first = failures.next();
        for error in failures {
            tracing::warn!("{}", error.chain());
        }
        first.map_or(Ok(()), Err)
    }
}
