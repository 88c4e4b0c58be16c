//! What has to be allocated.

use std::net::Ipv4Addr;

use super::{Cluster, Pool, SubnetId};

/// Addresses of a subnet that Azure keeps: the network's, the gateway's, two for DNS, and the broadcast address.
const RESERVED: u32 = 5;

/// A VM that will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm<'a> {
    /// Its pool.
    pub pool: &'a Pool,
    /// Its number in the pool, from 0.
    pub index: u16,
    /// Its own address, where that is fixed.
    pub address: Option<Ipv4Addr>,
}

impl Cluster {
    /// All VMs, pool by pool.
    pub fn vms(&self) -> impl Iterator<Item = Vm<'_>> {
        self.pools.iter().flat_map(|pool| {
            (0..pool.count).map(move |index| Vm {
                pool,
                index,
                address: pool
                    .first_address
                    .map(|first| Ipv4Addr::from(u32::from(first) + u32::from(index))),
            })
        })
    }

    /// Addresses that the NICs of all VMs in a subnet need together.
    pub fn needed_in(&self, subnet: &SubnetId) -> u32 {
        let of = |pool: &Pool| u32::from(pool.count) * u32::from(pool.addresses);
        let pools = self.pools.iter().filter(|pool| pool.subnet_id == *subnet);
        pools.map(of).sum()
    }

    /// Subnets beside that of the masters.
    pub fn other_subnets(&self) -> Vec<&SubnetId> {
        let mut others: Vec<&SubnetId> = Vec::new();
        for id in self.pools.iter().map(|pool| &pool.subnet_id) {
            if *id != self.subnet_id && !others.contains(&id) {
                others.push(id);
            }
        }
        others
    }

    /// Addresses that the masters' subnet has to give.
    pub fn usable(&self) -> u32 {
        (u32::MAX >> self.subnet.prefix_len()).saturating_sub(RESERVED - 1)
    }

    /// Whether the masters' subnet holds all that are needed in it. Others may have taken addresses of it already; only Azure knows.
    pub fn fits(&self) -> bool {
        self.needed_in(&self.subnet_id) <= self.usable()
    }
}
