//! The files that a plan is carried out with: the nodes' network configuration, and two ways to allocate the addresses.

use std::fmt::Write as _;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::{Cluster, Pool, Vm};

const NIC_API: &str = "2023-09-01";

/// How NICs are called: a pattern with `{pool}` and `{index}` in it.
#[derive(Clone, Debug)]
pub struct NicNames(String);

impl NicNames {
    /// Unless another pattern is given.
    pub const DEFAULT: &str = "k8s-{pool}-{index}-nic";

    /// Takes a pattern if it tells NICs apart and needs no quoting.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let plain = pattern.replace("{pool}", "").replace("{index}", "");
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !pattern.contains("{pool}")
            || !pattern.contains("{index}")
            || !plain.bytes().all(allowed)
        {
            return Err(format!(
                "\"{pattern}\" does not name NICs: letters, digits, '-', '_', '.', and both {{pool}} and {{index}}, as in \"{}\"",
                Self::DEFAULT
            ));
        }
        Ok(Self(pattern.to_owned()))
    }

    fn of(&self, vm: &Vm<'_>) -> String {
        let named = self.0.replace("{pool}", &vm.pool.name);
        named.replace("{index}", &vm.index.to_string())
    }
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// For every node's /etc/cni/net.d.
    pub conflist: String,
    /// A script of Azure CLI calls that adds the pods' addresses to NICs that exist.
    pub azure_cli: String,
    /// Azure Resource Manager's template of the NICs with all their addresses.
    pub template: String,
}

impl Files {
    /// The files of `cluster`, whose pods keep their address towards `ranges` as well as inside the virtual network.
    pub fn of(cluster: &Cluster, ranges: &[Ipv4Net], nics: &NicNames) -> Self {
        Self {
            conflist: pretty(&conflist(cluster, ranges)),
            azure_cli: azure_cli(cluster, nics),
            template: pretty(&template(cluster, nics)),
        }
    }
}

impl Cluster {
    /// The destinations towards which pods keep their address: the virtual network, and what it is connected with.
    pub fn ranges(&self, connected: &[Ipv4Net]) -> Vec<Ipv4Net> {
        let mut ranges = vec![self.vnet];
        for range in connected {
            if !ranges.contains(range) {
                ranges.push(*range);
            }
        }
        ranges
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// The configuration as shipped, with the ranges of this network in place of the default.
fn conflist(cluster: &Cluster, connected: &[Ipv4Net]) -> Value {
    let ranges: Vec<String> = cluster
        .ranges(connected)
        .iter()
        .map(ToString::to_string)
        .collect();
    json!({
        "cniVersion": "0.3.0",
        "name": "azure",
        "plugins": [
            {
                "type": "azure-vnet",
                "mode": "bridge",
                "bridge": "azure0",
                "ipam": { "type": "azure-vnet-ipam" },
                "capabilities": { "portMappings": true },
                "masquerade": { "nonMasqueradeCIDRs": ranges }
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }
        ]
    })
}

/// The VMs whose NICs are resources of their own. A scale set's are in its model, whose name only Azure knows.
fn own_nics(cluster: &Cluster) -> impl Iterator<Item = Vm<'_>> {
    cluster.vms().filter(|vm| !vm.pool.is_scale_set)
}

fn azure_cli(cluster: &Cluster, nics: &NicNames) -> String {
    let scale_sets = cluster.pools.iter().filter(|pool| pool.is_scale_set);
    let notes: Vec<String> = scale_sets
        .map(|pool| {
            let Pool {
                name, addresses, ..
            } = pool;
            format!(
                "# Not of {name}: the model of a scale set has to have its {addresses} ipconfigs.\n"
            )
        })
        .collect();
    let mut script = format!(
        "#!/bin/sh
# Adds the pods' addresses to the NICs of the cluster. The NICs have to exist, each with its own address.
# Azure takes some seconds for each address; the template next to this file does it in one deployment.
{notes}set -eu
group=\"${{1:-{group}}}\"
subnet='{subnet}'
add() {{ # NIC, number of addresses
    number=1
    while [ \"$number\" -le \"$2\" ]; do
        az network nic ip-config create --resource-group \"$group\" --nic-name \"$1\" \\
            --name \"pod$number\" --subnet \"$subnet\" --output none
        number=$((number + 1))
    done
}}
",
        group = cluster.subnet_id.resource_group(),
        subnet = cluster.subnet_id,
        notes = notes.concat(),
    );
    let mut subnet = &cluster.subnet_id;
    for vm in own_nics(cluster) {
        if vm.pool.subnet_id != *subnet {
            subnet = &vm.pool.subnet_id;
            let _ = writeln!(script, "subnet='{subnet}'");
        }
        let _ = writeln!(script, "add {} {}", nics.of(&vm), vm.pool.addresses - 1);
    }
    script
}

fn template(cluster: &Cluster, nics: &NicNames) -> Value {
    let resources: Vec<Value> = own_nics(cluster)
        .map(|vm| nic(&vm, &nics.of(&vm)))
        .collect();
    json!({
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": resources
    })
}

/// A NIC: its own address first, as its primary one, then the pods'.
fn nic(vm: &Vm<'_>, name: &str) -> Value {
    let subnet = json!({ "id": vm.pool.subnet_id.to_string() });
    let mut own =
        json!({ "subnet": subnet, "primary": true, "privateIPAllocationMethod": "Dynamic" });
    if let Some(address) = vm.address {
        own["privateIPAllocationMethod"] = json!("Static");
        own["privateIPAddress"] = json!(address.to_string());
    }
    let pods = (1..vm.pool.addresses).map(|number| {
        json!({
            "name": format!("pod{number}"),
            "properties": { "subnet": subnet, "primary": false, "privateIPAllocationMethod": "Dynamic" }
        })
    });
    let own = json!({ "name": "node", "properties": own });
    let addresses: Vec<Value> = std::iter::once(own).chain(pods).collect();
    json!({
        "type": "Microsoft.Network/networkInterfaces",
        "apiVersion": NIC_API,
        "name": name,
        "location": "[resourceGroup().location]",
        "properties": { "ipConfigurations": addresses }
    })
}
