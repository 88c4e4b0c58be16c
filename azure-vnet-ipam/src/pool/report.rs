//! The pool as others may see it: for the operator's command line.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Lease, Pool};

/// The addresses of a node and who has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The subnets with addresses for pods.
    pub subnets: Vec<SubnetReport>,
    /// The addresses in use.
    pub leases: Vec<LeaseReport>,
    /// When the source of the addresses last answered, in seconds since 1970; 0 if it never has.
    pub fetched_at: u64,
}

/// One subnet of one NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubnetReport {
    /// The subnet.
    pub subnet: Ipv4Net,
    /// How many addresses the NIC has there for pods.
    pub total: usize,
    /// How many of them pods have.
    pub in_use: usize,
}

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseReport {
    /// The address.
    pub address: Ipv4Addr,
    /// The network's name.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface's name in the container.
    pub ifname: String,
    /// Whether the NIC still has the address.
    pub on_nic: bool,
}

impl Pool {
    /// What is known, with the time of the source's last answer.
    pub fn report(&self, fetched_at: u64) -> Report {
        let known: BTreeSet<Ipv4Addr> = self.addresses().collect();
        let in_use: BTreeSet<Ipv4Addr> = self.leases.iter().map(|lease| lease.address).collect();
        let subnets = self.subnets.iter().map(|subnet| SubnetReport {
            subnet: subnet.prefix,
            total: subnet.addresses.len(),
            in_use: subnet.addresses.intersection(&in_use).count(),
        });
        let leases = self
            .leases
            .iter()
            .map(|Lease { key, address, .. }| LeaseReport {
                address: *address,
                network: key.network.clone(),
                container_id: key.container_id.clone(),
                ifname: key.ifname.clone(),
                on_nic: known.contains(address),
            });
        Report {
            subnets: subnets.collect(),
            leases: leases.collect(),
            fetched_at,
        }
    }
}
