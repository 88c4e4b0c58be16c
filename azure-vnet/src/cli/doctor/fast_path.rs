//! Whom the fast path passes by, or may not pass by.

use super::super::Failure;
use super::super::bridges::Bridge;
use crate::datapath::{self, Tier};
use crate::health::{Check, Finding};
use crate::netlink::Netlink;
use crate::netlink::link::Link;

/// A program that netfilter asks about packets.
pub fn check_queues() -> Finding {
    if datapath::is_anybody_asked() {
        return Finding::warning(
            Check::Queues,
            "netfilter asks a program about packets (NFQUEUE): no new flow takes the fast path",
            "nothing, if that program has to see every packet; else stop it, and azure-vnet gc",
        );
    }
    Finding::ok(Check::Queues, "netfilter asks no program about packets")
}

/// Whom packets of fast flows pass by on their way to pods, since he came after the last call that looked.
pub async fn check(netlink: &Netlink, bridges: &[Bridge], links: &[Link]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ebpf = |bridge: &&Bridge| matches!(bridge.tier, Some(Tier::Ebpf(_)));
    for Bridge { name, .. } in bridges.iter().filter(ebpf) {
        let found = match datapath::passed_by(netlink, name, links).await {
            Ok(found) if found.is_empty() => {
                let found = format!("{name}: nobody at a pod's veth is passed by");
                findings.push(Finding::ok(Check::PassedBy, found));
                continue;
            }
            Ok(found) => found,
            Err(error) => vec![Failure::of(&error).to_string()],
        };
        findings.extend(found.into_iter().map(|who| {
            let found = format!("{name}: replies on the fast path pass by {who}");
            Finding::warning(Check::PassedBy, found, "azure-vnet gc")
        }));
    }
    findings
}
