//! How full is what can be full: the flow table, the ports of a destination, a pod's share (eBPF tier), and the kernel's own table of
//! connections. A pod that has nearly all of one is named, before connections fail.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::super::bridges::{self, Bridge};
use super::super::flows::{self, Flow, Kind, Protocol};
use crate::datapath::{Tier, view};
use crate::health::{Check, Finding};
use crate::{state, sysctl};

/// From here on it is worth a word, in percent.
const MUCH: u64 = 80;

/// What each bridge uses of what it has.
pub fn check(bridges: &[Bridge]) -> Vec<Finding> {
    let ebpf = |bridge: &&Bridge| matches!(bridge.tier, Some(Tier::Ebpf(_)));
    let findings = bridges
        .iter()
        .filter(ebpf)
        .map(|bridge| match flows::of_bridge(&bridge.name) {
            Ok(flows) => of_bridge(bridge, &flows),
            Err(failure) => {
                let found = format!("{}: the flows cannot be read: {failure}", bridge.name);
                vec![Finding::mended(Check::FlowTable, found)]
            }
        });
    findings.flatten().chain([conntrack()]).collect()
}

/// The netfilter tier masquerades with the kernel's table, and Services are in it in both: new connections of everybody are dropped
/// where it is full.
fn conntrack() -> Finding {
    let number = |name: &str| -> Option<u64> {
        let path = format!("net/netfilter/nf_conntrack_{name}");
        sysctl::read(&path).ok().flatten()?.parse().ok()
    };
    let (used, most) = (number("count").unwrap_or(0), number("max").unwrap_or(0));
    if is_much(used, most) {
        Finding::warning(
            Check::Conntrack,
            format!("{used} of the {most} connections that the kernel tracks at most are there"),
            format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}, and find out who opens so many",
                2 * most
            ),
        )
    } else {
        let found = format!("the kernel's table of connections is less than {MUCH} % full");
        Finding::ok(Check::Conntrack, found)
    }
}

fn of_bridge(bridge: &Bridge, flows: &[Flow]) -> Vec<Finding> {
    let name = &bridge.name;
    let mut findings = Vec::new();
    if let Ok(Some(size)) = view::flow_table_size(name) {
        let entries = |flow: &Flow| if flow.kind == Kind::Masqueraded { 2 } else { 1 };
        let used: u64 = flows.iter().map(entries).sum();
        let found = format!("{name}: {used} of {size} entries of the flow table are used");
        findings.push(if is_much(used, size.into()) {
            let fix = "azure-vnet flows --top 5 and azure-vnet pods name who opens so many";
            Finding::warning(Check::FlowTable, found, fix)
        } else {
            Finding::ok(Check::FlowTable, found)
        });
    }
    if let Some((first, last)) = bridge.ports {
        let reserved = bridge.reserved_ports.unwrap_or(0).into();
        let ports = (u64::from(last) + 1 - u64::from(first)).saturating_sub(reserved);
        findings.push(destination(name, flows, ports));
    }
    if let Ok(Some(uplink)) = view::uplink(name) {
        findings.push(share(name, flows, uplink.flows_per_pod.into()));
    }
    findings
}

fn destination(bridge: &str, flows: &[Flow], ports: u64) -> Finding {
    type Destination = (Protocol, Ipv4Addr, u16);
    let mut used: BTreeMap<Destination, (u64, BTreeMap<Ipv4Addr, u64>)> = BTreeMap::new();
    for flow in flows.iter().filter(|it| it.kind == Kind::Masqueraded) {
        let key = (flow.protocol, flow.remote, flow.remote_port);
        let (count, pods) = used.entry(key).or_default();
        *count += 1;
        *pods.entry(flow.pod).or_default() += 1;
    }
    let busiest = used.into_iter().max_by_key(|(_, (count, _))| *count);
    match busiest {
        Some(((protocol, remote, port), (count, pods))) if is_much(count, ports) => {
            let most = pods.into_iter().max_by_key(|(_, count)| *count);
            let most = most.map_or_else(String::new, |(pod, count)| {
                format!(", {count} of them by {}", name_of(pod))
            });
            Finding::warning(
                Check::DestinationPorts,
                format!(
                    "{bridge}: {count} of the {ports} ports towards {} {remote}:{port} are used{most}",
                    protocol.name()
                ),
                format!(
                    "see azure-vnet flows --to {remote} --top 5; have fewer connections there, or more ports (masquerade.ports)"
                ),
            )
        }
        _ => Finding::ok(
            Check::DestinationPorts,
            format!("{bridge}: no destination uses {MUCH} % of its {ports} ports"),
        ),
    }
}

fn share(bridge: &str, flows: &[Flow], limit: u64) -> Finding {
    let mut pods: BTreeMap<Ipv4Addr, u64> = BTreeMap::new();
    for flow in flows {
        *pods.entry(flow.pod).or_default() += 1;
    }
    let much = pods.into_iter().filter(|(_, count)| is_much(*count, limit));
    let much: Vec<String> = much
        .map(|(pod, count)| format!("{} has {count}", name_of(pod)))
        .collect();
    if much.is_empty() {
        let found = format!("{bridge}: no pod has {MUCH} % of the {limit} flows that it may have");
        return Finding::ok(Check::Shares, found);
    }
    Finding::warning(
        Check::Shares,
        format!(
            "{bridge}: of the {limit} flows that a pod may have, {}",
            much.join(", ")
        ),
        "see azure-vnet flows --pod POD --top 5; or raise masquerade.flowsPerPod",
    )
}

fn is_much(used: u64, of: u64) -> bool {
    of > 0 && used * 100 >= of * MUCH
}

fn name_of(address: Ipv4Addr) -> String {
    let pods = state::everything();
    let pod = pods.iter().find(|pod| pod.address == address);
    pod.map_or_else(|| address.to_string(), bridges::who)
}
