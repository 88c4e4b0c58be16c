//! What has to be allocated.

use std::net::Ipv4Addr;

use super::{Cluster, Pool};

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

    /// Addresses that the NICs of all VMs need together.
    pub fn needed(&self) -> u32 {
        let of = |pool: &Pool| u32::from(pool.count) * u32::from(pool.addresses);
        self.pools.iter().map(of).sum()
    }

    /// Addresses that the subnet has to give.
    pub fn usable(&self) -> u32 {
        (u32::MAX >> self.subnet.prefix_len()).saturating_sub(RESERVED - 1)
    }

    /// Whether the subnet holds them all. Others may have taken addresses of it already; only Azure knows.
    pub fn fits(&self) -> bool {
        self.needed() <= self.usable()
    }
}
