//! The cluster definition of Azure Container Service engine (`apiVersion: vlabs`), as far as addresses go: what is wrong with it,
//! and what has to be allocated before its pods can run.
//!
//! Each VM's NIC needs one address for itself and one for each pod that may run there, as secondary ipconfigs; the plugin hands
//! out what is there and cannot ask Azure for more. So this is counted before the cluster is made.

mod allocation;
mod check;
mod document;
mod files;
mod subnet_id;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::Ipv4Addr;

use azure_vnet_cni::json;
use ipnet::Ipv4Net;
use serde_json::Value;

pub use allocation::Vm;
pub use files::{Files, NicNames};
pub use subnet_id::SubnetId;

/// Pods on a VM where the definition says nothing (requirements of the plugin).
pub const DEFAULT_MAX_PODS: u16 = 30;
/// Pods on a VM at most: Azure gives a NIC 256 addresses.
pub const MOST_PODS: u16 = 250;

/// A definition without a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The address space of the virtual network.
    pub vnet: Ipv4Net,
    /// The masters' subnet, in which their VMs and pods get addresses. Agents may be in another of the virtual network, whose size
    /// the definition does not say.
    pub subnet: Ipv4Net,
    /// What Azure calls that subnet.
    pub subnet_id: SubnetId,
    /// Masters first, then the agents' pools in their order.
    pub pools: Vec<Pool>,
}

/// VMs that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// `master`, or the agent pool's name.
    pub name: String,
    /// How many VMs.
    pub count: u16,
    /// How many pods may run on each.
    pub max_pods: u16,
    /// How many addresses each NIC gets: one more than pods, unless `ipAddressCount` asks for more.
    pub addresses: u16,
    /// The first VM's own address, where it is fixed; the others' follow it.
    pub first_address: Option<Ipv4Addr>,
    /// What Azure calls the VMs' subnet.
    pub subnet_id: SubnetId,
    /// Whether they are a scale set, whose model has the NICs' addresses.
    pub is_scale_set: bool,
}

/// One fault of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a JSON path: `$.properties.masterProfile.count`.
    pub path: String,
    /// What is wrong there, and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.what)
    }
}

/// Reads a definition. All faults come at once, in the order of the document.
pub fn read(text: &str) -> Result<Cluster, Vec<Problem>> {
    let value: Value = json::from_slice(text.as_bytes()).map_err(|error| {
        vec![Problem {
            path: "$".to_owned(),
            what: format!("this is not JSON: {error}"),
        }]
    })?;
    check::check(&value)
}
