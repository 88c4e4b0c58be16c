//! What nobody needs any more, or two places say differently.

use std::collections::BTreeSet;
use std::path::Path;

use azure_vnet_abi::ABI_VERSION;
use azure_vnet_ipam::Report;
use ipnet::Ipv4Net;

use super::super::{Failure, bridges, pool};
use super::Finding;
use crate::datapath::{Record, Tier, view};
use crate::names;
use crate::netlink::link::Link;
use crate::netlink::{Netlink, address};
use crate::state::{self, Attachment};

const GC: &str = "azure-vnet gc";

pub async fn check(netlink: &Netlink, links: &[Link]) -> Vec<Finding> {
    let attachments = state::everything();
    let mut findings = vec![unknown_links(links, &attachments)];
    findings.extend(
        Record::all()
            .iter()
            .filter(|(_, record)| matches!(record.tier, Tier::Ebpf(_)))
            .map(|(bridge, _)| pins(bridge, links)),
    );
    findings.push(versions());
    match pool::read() {
        Ok(Some(report)) => {
            findings.extend(leases(&report, &attachments));
            findings.extend(usable(&report));
            findings.push(on_node(netlink, links, &report).await);
        }
        Ok(None) => {}
        Err(error) => findings.push(Finding::problem("pool", error, "see the error")),
    }
    findings.push(original());
    findings
}

/// Host veths without a record: their state was lost, and gc leaves them alone, as their pods may live.
fn unknown_links(links: &[Link], attachments: &[Attachment]) -> Finding {
    let is_known = |name: &str| attachments.iter().any(|pod| pod.host_veth == name);
    let unknown: Vec<&str> = links
        .iter()
        .map(|link| link.name.as_str())
        .filter(|name| names::is_ours(name) && !is_known(name))
        .collect();
    if unknown.is_empty() {
        return Finding::ok("links", "every link of a pod has its record");
    }
    Finding::warning(
        "links",
        format!("nothing is known of the pods behind {}", unknown.join(", ")),
        "the DEL of such a pod takes its link away; if there is no such pod: ip link delete LINK",
    )
}

/// Pins and map entries of pods whose links are gone.
fn pins(bridge: &str, links: &[Link]) -> Finding {
    let names: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
    let indexes: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
    let pins = view::pinned_links(bridge);
    let dead_pins = pins
        .iter()
        .filter(|name| names::is_ours(name) && !names.contains(name.as_str()));
    let mut dead: Vec<String> = dead_pins.map(|name| format!("the pin {name}")).collect();
    let known = match view::pods(bridge) {
        Ok(pods) => pods,
        Err(error) => {
            let found = format!("{bridge}: {}", Failure::of(&error));
            return Finding::problem(
                "maps",
                found,
                "the next ADD makes maps that cannot be read anew",
            );
        }
    };
    let entries = known
        .iter()
        .filter(|(_, pod)| !indexes.contains(&pod.ifindex));
    dead.extend(entries.map(|(address, _)| format!("the map entry {address}")));
    if dead.is_empty() {
        return Finding::ok("maps", format!("{bridge}: nothing of pods that are gone"));
    }
    Finding::warning(
        "maps",
        format!("{bridge}: of pods that are gone: {}", dead.join(", ")),
        GC,
    )
}

/// Pins of other versions of the maps' layouts: until the next ADD, or of a bridge that gets none.
fn versions() -> Finding {
    let root = Path::new("/sys/fs/bpf/azure-vnet");
    let current = format!("v{ABI_VERSION}");
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let others = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let others: Vec<String> = others.filter(|name| *name != current).collect();
    if others.is_empty() {
        return Finding::ok("versions", "no pins of another version");
    }
    Finding::warning(
        "versions",
        format!(
            "pins of another version under {}: {}",
            root.display(),
            others.join(", ")
        ),
        "the next ADD takes over from them and removes them; remove what stays after it: rm -r",
    )
}

/// Addresses and attachments that do not have each other.
fn leases(report: &Report, attachments: &[Attachment]) -> Vec<Finding> {
    let same = |container_id: &str, ifname: &str, pod: &Attachment| {
        pod.container_id == container_id && pod.ifname == ifname
    };
    let leaked = report.leases.iter().filter(|lease| {
        !attachments
            .iter()
            .any(|pod| same(&lease.container_id, &lease.ifname, pod))
    });
    let leaked: Vec<String> = leaked.map(|lease| lease.address.to_string()).collect();
    let without = attachments.iter().filter(|pod| {
        !report
            .leases
            .iter()
            .any(|lease| same(&lease.container_id, &lease.ifname, pod))
    });
    let without: Vec<String> = without.map(bridges::who).collect();
    let withdrawn = report.leases.iter().filter(|lease| !lease.on_nic);
    let withdrawn: Vec<String> = withdrawn.map(|lease| lease.address.to_string()).collect();
    let mut findings = Vec::new();
    if !leaked.is_empty() {
        findings.push(Finding::warning(
            "leases",
            format!("in use by attachments that nobody knows (of a DEL that never came, or of another plugin): {}", leaked.join(", ")),
            "if the runtime does not have these containers either, it calls GC or DEL for them; else remove them there",
        ));
    }
    if !without.is_empty() {
        findings.push(Finding::problem(
            "leases",
            format!(
                "pods whose addresses are not recorded, so that others may get them: {}",
                without.join(", ")
            ),
            "delete these pods; their controllers make them anew",
        ));
    }
    if !withdrawn.is_empty() {
        findings.push(Finding::problem(
            "leases",
            format!(
                "the NIC does not have these addresses of pods any more: {}",
                withdrawn.join(", ")
            ),
            "add the ipconfigs to the NIC again, or delete the pods",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "leases",
            "every address in use has its pod, and every pod its address",
        ));
    }
    findings
}

/// Whether pods can have what the NICs have for them.
fn usable(report: &Report) -> Vec<Finding> {
    let reasons = report.subnets.iter().filter_map(|it| it.problem.as_ref());
    let warning = |reason: &String| {
        Finding::warning("pool", format!("no pod gets them: {reason}"), "see there")
    };
    let mut findings: Vec<Finding> = reasons.map(warning).collect();
    if findings.is_empty() {
        let free: usize = report.subnets.iter().map(|subnet| subnet.free).sum();
        findings.push(Finding::ok(
            "pool",
            format!("{free} addresses are free for pods"),
        ));
    }
    findings
}

/// Addresses for pods that the node has itself (cloud-init puts all of a NIC's there): no pod gets one, and one that has it is
/// not reached.
async fn on_node(netlink: &Netlink, links: &[Link], report: &Report) -> Finding {
    let addresses = match netlink.ipv4_addresses().await {
        Ok(addresses) => addresses,
        Err(error) => {
            return Finding::warning("addresses", Failure::of(&error).to_string(), "try again");
        }
    };
    let name_of = |index: u32| links.iter().find(|link| link.index == index);
    let both: Vec<(Ipv4Net, &str)> = addresses
        .iter()
        .filter_map(|message| {
            let net = address::ipv4_net(message)?;
            let link = name_of(message.header.index)?;
            report
                .on_node
                .contains(&net.addr())
                .then_some((net, link.name.as_str()))
        })
        .collect();
    let Some((net, link)) = both.first() else {
        return Finding::ok("addresses", "no address for pods is one of the node's own");
    };
    let listed: Vec<String> = both.iter().map(|(net, _)| net.addr().to_string()).collect();
    let listed = listed.join(", ");
    let more = match both.len() {
        1 => "",
        _ => " (so each of them)",
    };
    let fix = format!(
        "ip address delete {net} dev {link}{more}, and keep whoever put it there from doing so: `azure-vnet install` tells cloud-init"
    );
    let mut leases = report.leases.iter();
    if leases.any(|lease| both.iter().any(|(net, _)| net.addr() == lease.address)) {
        let found = format!("addresses of pods that are on the node's own links, too: {listed}");
        return Finding::problem("addresses", found, fix);
    }
    let found = format!(
        "addresses for pods that no pod gets, as they are on the node's own links: {listed}"
    );
    Finding::warning("addresses", found, fix)
}

/// The original plugin's state, which DEL and teardown work off but do not delete.
fn original() -> Finding {
    const FILES: [&str; 2] = ["/var/run/azure-vnet.json", "/var/run/azure-vnet-ipam.json"];
    let found: Vec<&str> = FILES
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    if found.is_empty() {
        return Finding::ok("original", "no state of the original azure-vnet");
    }
    Finding::warning(
        "original",
        format!(
            "state of the original azure-vnet: {}; DEL removes what it made for a pod, teardown what it made for the NIC",
            found.join(", ")
        ),
        "drain the node, run azure-vnet teardown (docs/operations.md), then remove these files",
    )
}
