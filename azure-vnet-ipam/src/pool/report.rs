//! The pool as others may see it: for the operator's command line.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Lease, Pool, Wanted};

/// The addresses of a node and who has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The subnets with addresses for pods.
    pub subnets: Vec<SubnetReport>,
    /// The addresses in use.
    pub leases: Vec<LeaseReport>,
    /// Addresses for pods that a link of the node has, so that no pod can have them.
    pub on_node: Vec<Ipv4Addr>,
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
    /// How many of them pods have, recorded or not.
    pub in_use: usize,
    /// How many of them no pod can have, as a link of the node has them, or the node has no NIC that they are for.
    pub unusable: usize,
    /// How many the next pods can have.
    pub free: usize,
    /// What keeps pods from every one of them; none if nothing does.
    pub problem: Option<String>,
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
    /// Whether the pod is gone, and no DEL has come for it: `azure-vnet gc` gives the address back.
    pub gone: bool,
}

impl Pool {
    /// What is known, with the time of the source's last answer.
    pub fn report(&self, wanted: &Wanted, fetched_at: u64) -> Report {
        let observed = &wanted.observed;
        let known: BTreeSet<Ipv4Addr> = self.addresses().collect();
        let books = self.books(observed);
        let subnets = self.subnets.iter().map(|subnet| {
            let total = subnet.addresses.len();
            let of_pods = |address: &&Ipv4Addr| books.is_of_pod(**address);
            let in_use = subnet.addresses.iter().filter(of_pods).count();
            let problem = subnet.out_of_reach(wanted);
            let free = match problem {
                None => books.free(subnet).count(),
                Some(_) => 0,
            };
            SubnetReport {
                subnet: subnet.prefix,
                total,
                in_use,
                unusable: total - in_use - free,
                free,
                problem: problem.map(|reason| reason.to_string()),
            }
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
                gone: observed.gone.contains(key),
            });
        let on_node = known.intersection(&observed.node);
        Report {
            subnets: subnets.collect(),
            leases: leases.collect(),
            on_node: on_node.copied().collect(),
            fetched_at,
        }
    }
}
