//! GC: what belongs to attachments of this network that are in use no more goes, as in a DEL that
//! never came.
//!
//! A host veth of ours without a record is left alone, with a warning. Records are written before the
//! veth and removed after it, so there is one only where the whole state was lost; whose pod is behind
//! it, and of which network, is then known to nobody, and a pod that lives must not be cut off. When
//! its pod ends, DEL (which finds it by name) or the kernel (with the namespace) takes it away.

use std::collections::BTreeSet;

use azure_vnet_cni::Gc;

use crate::config;
use crate::datapath::{self, Depth};
use crate::del::{self, Failures};
use crate::error::Error;
use crate::lease;
use crate::legacy;
use crate::mending::mend_all_beside;
use crate::names;
use crate::netlink::Netlink;
use crate::state;
use crate::takeover;

/// Removes every attachment of this network but the valid ones. Nothing stops it half-way.
pub async fn gc(request: &Gc) -> Result<(), Error> {
    let mut failures = Failures::default();
    match Netlink::current() {
        Ok(host) => {
            takeover::complete_beside(&host).await;
            failures.append(collect(&host, request).await);
            del::forget(&host, datapath::sweep(), &mut failures).await;
            mend_all_beside(&host, &request.conf, Depth::Programs).await;
            state::sweep();
        }
        Err(error) => failures.note(error),
    }
    match config::ipam_of(&request.conf) {
        Ok(ipam) => {
            failures.collect(lease::collect(&ipam, &request.path, &request.conf));
        }
        Err(error) => failures.note(error),
    }
    failures.into_result()
}

async fn collect(host: &Netlink, request: &Gc) -> Failures {
    let network = request.conf.name();
    let valid = request.valid.iter();
    let valid: BTreeSet<String> = valid
        .map(|kept| names::host_veth(network, &kept.container_id, &kept.ifname))
        .collect();
    let mut failures = Failures::default();
    let known = failures.collect(state::of_network(network));
    for attachment in known.unwrap_or_default() {
        if valid.contains(&attachment.host_veth) {
            continue;
        }
        let (container, ifname) = (&attachment.container_id, &attachment.ifname);
        tracing::info!("GC: {container} {ifname} ({}) goes", attachment.address);
        failures.append(del::detach(host, &attachment.host_veth).await);
    }
    for endpoint in legacy::endpoints(network) {
        let mut valid = request.valid.iter();
        if !valid.any(|kept| endpoint.is(&kept.container_id, &kept.ifname)) {
            tracing::info!("GC: {} of the original azure-vnet goes", endpoint.host_veth);
            failures.append(del::detach_legacy(host, &endpoint).await);
        }
    }
    match host.links().await {
        Ok(links) => {
            let ours = links.iter().filter(|link| names::is_ours(&link.name));
            for link in
                ours.filter(|link| !valid.contains(&link.name) && !state::is_known(&link.name))
            {
                tracing::warn!(
                    "GC: nothing is known of the pod behind {0}; if there is none, `ip link delete {0}`",
                    link.name
                );
            }
        }
        Err(error) => failures.note(error),
    }
    failures
}
