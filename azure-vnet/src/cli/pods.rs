//! `azure-vnet pods`: who is attached, where, and with how many flows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

use super::flows::{self, Flow};
use super::output::Output;
use super::table::Table;
use super::{Failure, Outcome, bridges};
use crate::netlink::{MacAddress, Netlink};
use crate::state;

#[derive(Serialize)]
struct Pods {
    pods: Vec<Pod>,
}

#[derive(Serialize)]
struct Pod {
    /// The pod's address.
    address: Ipv4Addr,
    /// `namespace/name`, where the runtime has said it.
    name: Option<String>,
    /// The container.
    container_id: String,
    /// The interface's name in the container.
    ifname: String,
    /// The network's name.
    network: String,
    /// The bridge that the pod is attached to.
    bridge: String,
    /// The link on the node.
    host_veth: String,
    /// The MAC that the pod was given.
    mac: MacAddress,
    /// `CNI_NETNS` of the ADD.
    netns: String,
    /// `up`, `down`, or `gone`: then `azure-vnet gc` cleans up.
    link: &'static str,
    /// Live flows of the pod; none where they cannot be counted.
    flows: Option<usize>,
    #[serde(skip)]
    label: String,
}

/// Prints the pods; a problem if the link of one is not as it has to be.
pub async fn run(output: Output) -> Result<Outcome, Failure> {
    let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
    let links = netlink.links().await.map_err(|error| Failure::of(&error))?;
    let attachments = state::everything();
    let of_ours: BTreeSet<&str> = attachments.iter().map(|pod| pod.bridge.as_str()).collect();
    let mut counted: BTreeMap<&str, Vec<Flow>> = BTreeMap::new();
    for bridge in of_ours {
        if let Ok(flows) = flows::of_bridge(bridge) {
            counted.insert(bridge, flows);
        }
    }
    let pods: Vec<Pod> = attachments
        .iter()
        .map(|attachment| {
            let link = links.iter().find(|link| link.name == attachment.host_veth);
            let flows = counted.get(attachment.bridge.as_str()).map(|flows| {
                let live = |flow: &&Flow| flow.pod == attachment.address && flow.is_live();
                flows.iter().filter(live).count()
            });
            Pod {
                address: attachment.address,
                name: attachment.pod.clone(),
                container_id: attachment.container_id.clone(),
                ifname: attachment.ifname.clone(),
                network: attachment.network.clone(),
                bridge: attachment.bridge.clone(),
                host_veth: attachment.host_veth.clone(),
                mac: attachment.mac,
                netns: attachment.netns.clone(),
                link: match link {
                    None => "gone",
                    Some(link) if link.is_up() => "up",
                    Some(_) => "down",
                },
                flows,
                label: bridges::label(attachment),
            }
        })
        .collect();
    let fine = pods.iter().all(|pod| pod.link == "up");
    output.show(&Pods { pods })?;
    Ok(if fine {
        Outcome::Fine
    } else {
        Outcome::Problem
    })
}

impl fmt::Display for Pods {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pods.is_empty() {
            return writeln!(out, "No pod is attached.");
        }
        let mut table = Table::new(&["address", "pod", "interface", "link", "", ">flows"]);
        for pod in &self.pods {
            table.row([
                pod.address.to_string(),
                pod.label.clone(),
                pod.ifname.clone(),
                pod.host_veth.clone(),
                pod.link.to_owned(),
                pod.flows
                    .map_or_else(|| "-".into(), |flows| flows.to_string()),
            ]);
        }
        write!(out, "{table}")
    }
}
