//! What nobody needs any more, or two places say differently.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use azure_vnet_abi::ABI_VERSION;
use azure_vnet_ipam::{Report, SubnetReport};
use ipnet::Ipv4Net;

use super::super::pool::{self, Exhausted};
use super::super::{Failure, bridges};
use crate::datapath::{Record, Tier, view};
use crate::health::{ANY_CALL, Check, Finding};
use crate::names;
use crate::netlink::Netlink;
use crate::netlink::link::Link;
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
            findings.extend(free(&report));
            findings.extend(leases(&report, &attachments));
            findings.push(on_node(netlink, links, &report).await);
        }
        Ok(None) => {}
        Err(error) => findings.push(Finding::problem(Check::Pool, error, "see the error")),
    }
    findings
}

/// Host veths without a record: their state was lost, and gc leaves them alone, as their pods may live.
fn unknown_links(links: &[Link], attachments: &[Attachment]) -> Finding {
    let is_known = |link: &&Link| attachments.iter().any(|pod| pod.host_veth == link.name);
    let (ports, others): (Vec<&Link>, Vec<&Link>) = links
        .iter()
        .filter(|link| names::is_ours(&link.name) && !is_known(link))
        .partition(|link| link.master.is_some());
    let named = |links: &[&Link]| {
        let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        names.join(", ")
    };
    if !ports.is_empty() {
        return Finding::warning(
            Check::Links,
            format!(
                "the records of the pods behind {} are lost; their network is not",
                named(&ports)
            ),
            "delete these pods when it suits: their controllers make them anew",
        );
    }
    if others.is_empty() {
        return Finding::ok(Check::Links, "every link of a pod has its record");
    }
    let commands: Vec<String> = others
        .iter()
        .map(|link| format!("ip link delete {}", link.name))
        .collect();
    Finding::warning(
        Check::Links,
        format!(
            "of no pod that is known, and in no bridge: {}",
            named(&others)
        ),
        format!(
            "{}, if the runtime does not have these pods either",
            commands.join("; ")
        ),
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
            return Finding::problem(Check::Maps, found, ANY_CALL);
        }
    };
    let entries = known
        .iter()
        .filter(|(_, pod)| !indexes.contains(&pod.ifindex));
    dead.extend(entries.map(|(address, _)| format!("the map entry {address}")));
    if dead.is_empty() {
        return Finding::ok(
            Check::Maps,
            format!("{bridge}: nothing of pods that are gone"),
        );
    }
    Finding::warning(
        Check::Maps,
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
        return Finding::ok(Check::Versions, "no pins of another version");
    }
    let commands: Vec<String> = others
        .iter()
        .map(|other| format!("rm -r {}", root.join(other).display()))
        .collect();
    Finding::warning(
        Check::Versions,
        format!(
            "pins of another version under {}: {}",
            root.display(),
            others.join(", ")
        ),
        format!(
            "{}, if they are still there after the next ADD, which takes over from them",
            commands.join("; ")
        ),
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
            Check::Leases,
            format!("in use by attachments that nobody knows (of a DEL that never came, or of another plugin): {}", leaked.join(", ")),
            "if the runtime does not have these containers either, it calls GC or DEL for them; else remove them there",
        ));
    }
    if !without.is_empty() {
        findings.push(Finding::problem(
            Check::Leases,
            format!(
                "pods whose addresses are not recorded, so that others may get them: {}",
                without.join(", ")
            ),
            "delete these pods; their controllers make them anew",
        ));
    }
    if !withdrawn.is_empty() {
        findings.push(Finding::problem(
            Check::Leases,
            format!(
                "the NIC does not have these addresses of pods any more: {}",
                withdrawn.join(", ")
            ),
            "add the ipconfigs to the NIC again, or delete the pods",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            Check::Leases,
            "every address in use has its pod, and every pod its address",
        ));
    }
    findings
}

/// An address for the next pod.
fn free(report: &Report) -> Vec<Finding> {
    let reasons = report.subnets.iter().filter_map(|it| it.problem.as_ref());
    let unusable = |reason: &String| {
        Finding::warning(
            Check::Pool,
            format!("no pod gets them: {reason}"),
            "see there",
        )
    };
    let mut findings: Vec<Finding> = reasons.map(unusable).collect();
    if let Some(Exhausted { gone, unusable }) = pool::exhausted(report) {
        let found = format!(
            "no address is free for the next pod; {gone} are of pods that are gone, {unusable} cannot be used"
        );
        findings.push(match (gone, unusable) {
            // As many pods as were planned.
            (0, 0) => {
                let fix = "add ipconfigs to the NIC, or run fewer pods";
                Finding::warning(Check::Pool, "every address for pods is in use", fix)
            }
            (0, _) => Finding::problem(
                Check::Pool,
                found,
                "do what the warnings of pool and addresses say",
            ),
            _ => Finding::problem(Check::Pool, found, GC),
        });
    }
    if findings.is_empty() {
        let count = |of: fn(&SubnetReport) -> usize| report.subnets.iter().map(of).sum::<usize>();
        let found = format!(
            "{} of {} addresses are free for pods",
            count(|it| it.free),
            count(|it| it.total)
        );
        findings.push(Finding::ok(Check::Pool, found));
    }
    findings
}

/// Addresses for pods that the node has itself (cloud-init puts all of a NIC's there): no pod gets one, and one that has it is
/// not reached.
async fn on_node(netlink: &Netlink, links: &[Link], report: &Report) -> Finding {
    let there = match netlink.ipv4_nets().await {
        Ok(there) => there,
        Err(error) => {
            let found = Failure::of(&error).to_string();
            return Finding::warning(Check::Addresses, found, "try again");
        }
    };
    let leased: BTreeSet<Ipv4Addr> = report.leases.iter().map(|it| it.address).collect();
    let is_of_pods =
        |address: &Ipv4Addr| report.on_node.contains(address) || leased.contains(address);
    let both: Vec<&(u32, Ipv4Net)> = there
        .iter()
        .filter(|(_, net)| is_of_pods(&net.addr()))
        .collect();
    if both.is_empty() {
        return Finding::ok(
            Check::Addresses,
            "no address for pods is one of the node's own",
        );
    }
    let named: Vec<String> = both.iter().map(|(_, net)| net.addr().to_string()).collect();
    let commands = both.iter().map(|(index, net)| {
        let link = links.iter().find(|link| link.index == *index);
        let link = link.map_or("LINK", |link| link.name.as_str());
        format!("ip address delete {net} dev {link}")
    });
    let commands: Vec<String> = commands.collect();
    let fix = format!(
        "{}, and keep whoever put it there from doing so: `azure-vnet install` tells cloud-init",
        commands.join("; ")
    );
    let named = named.join(", ");
    if both.iter().any(|(_, net)| leased.contains(&net.addr())) {
        let found = format!("addresses of pods that are on the node's own links, too: {named}");
        return Finding::problem(Check::Addresses, found, fix);
    }
    let found = format!(
        "addresses for pods that no pod gets, as they are on the node's own links: {named}"
    );
    Finding::warning(Check::Addresses, found, fix)
}

/// The original plugin's state, which DEL and teardown work off but do not delete.
pub fn original() -> Finding {
    const FILES: [&str; 2] = ["/var/run/azure-vnet.json", "/var/run/azure-vnet-ipam.json"];
    let found: Vec<&str> = FILES
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    if found.is_empty() {
        return Finding::ok(Check::Original, "no state of the original azure-vnet");
    }
    Finding::warning(
        Check::Original,
        format!(
            "state of the original azure-vnet: {}; DEL removes what it made for a pod, teardown what it made for the NIC",
            found.join(", ")
        ),
        format!(
            "rm {}, after the node was drained and azure-vnet teardown has run (docs/operations.md)",
            found.join(" ")
        ),
    )
}
