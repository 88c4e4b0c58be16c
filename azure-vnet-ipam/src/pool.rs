//! The addresses of this node and who has them: pure, no clock and no files.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use azure_vnet_cni::pod_address;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::mac::Mac;

mod choice;
mod error;
mod lease;
mod reach;
mod report;

pub use choice::{Master, Observed, Particular, Wanted};
pub use error::Error;
pub use lease::{Key, Lease};
pub use reach::OutOfReach;
pub use report::{LeaseReport, Report, SubnetReport};

/// Azure keeps the first three hosts of every subnet: the gateway and two for DNS. The network and broadcast
/// addresses are nobody's. <https://learn.microsoft.com/azure/virtual-network/virtual-networks-faq>
const RESERVED_AT_START: u32 = 4;

/// One subnet of one NIC, with the addresses that pods may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub prefix: Ipv4Net,
    /// The NIC's MAC; none if the source does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<Mac>,
    /// Whether the NIC is the VM's primary one.
    pub primary: bool,
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// Every address of the node, free and in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    subnets: Vec<Subnet>,
    leases: Vec<Lease>,
    /// When an address was last given back, in releases counted by `releases`; absent means never used.
    released: BTreeMap<Ipv4Addr, u64>,
    releases: u64,
}

/// Azure's gateway of a subnet: its first host. It answers nothing but ARP, so it cannot be asked for.
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits() | 1)
}

/// Whether Azure keeps `address` for itself.
pub fn is_reserved(address: Ipv4Addr, subnet: Ipv4Net) -> bool {
    let host = address.to_bits().wrapping_sub(subnet.network().to_bits());
    host < RESERVED_AT_START || address == subnet.broadcast()
}

impl Pool {
    /// A pool of which only the leases are known.
    pub fn of_leases(leases: Vec<Lease>) -> Self {
        Pool {
            leases,
            ..Pool::default()
        }
    }

    /// Replaces what is known about the NICs. Leases stay, whatever has become of their addresses; returned are those
    /// that have lost theirs now.
    pub fn refresh(&mut self, subnets: Vec<Subnet>) -> Vec<Lease> {
        let before: BTreeSet<Ipv4Addr> = self.addresses().collect();
        self.subnets = subnets;
        for lease in &mut self.leases {
            lease.settle(&self.subnets);
        }
        let known: BTreeSet<Ipv4Addr> = self.addresses().collect();
        self.released.retain(|address, _| known.contains(address));
        let lost =
            |lease: &&Lease| before.contains(&lease.address) && !known.contains(&lease.address);
        self.leases.iter().filter(lost).cloned().collect()
    }

    /// Forgets addresses that no pod can have: the record may be of a version that believed a source that had them.
    pub fn forget_unfit(&mut self) {
        self.subnets
            .retain(|subnet| pod_address::unfit_subnet(subnet.prefix).is_none());
        for Subnet {
            prefix, addresses, ..
        } in &mut self.subnets
        {
            addresses.retain(|address| pod_address::unfit_in(*address, *prefix).is_none());
        }
    }

    /// Whether this is what is known about the NICs.
    pub fn is_as(&self, subnets: &[Subnet]) -> bool {
        self.subnets == subnets
    }

    /// The leases whose addresses the NICs do not have any more.
    pub fn lost(&self) -> impl Iterator<Item = &Lease> {
        let known: BTreeSet<Ipv4Addr> = self.addresses().collect();
        let lost = move |lease: &&Lease| !known.contains(&lease.address);
        self.leases.iter().filter(lost)
    }

    /// The lease of `key`.
    pub fn of(&self, key: &Key) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.key == *key)
    }

    /// The lease that `key` has already: ADD may be repeated after a crash of the runtime.
    pub fn held(&self, key: &Key, wanted: &Wanted) -> Result<Option<Lease>, Error> {
        let Some(lease) = self.of(key) else {
            return Ok(None);
        };
        let other = |wanted: String| Error::HoldsAnother {
            held: lease.address,
            wanted,
        };
        match (&wanted.address, wanted.subnet) {
            (Some(Particular { address, .. }), _) if *address != lease.address => {
                Err(other(address.to_string()))
            }
            (_, Some(subnet)) if subnet != lease.subnet => Err(other(subnet.to_string())),
            _ => match &wanted.master {
                Some(master)
                    if master.required && lease.nic.is_some_and(|nic| nic != master.mac) =>
                {
                    Err(other(format!("one of {}", master.name)))
                }
                _ => Ok(Some(lease.clone())),
            },
        }
    }

    /// The lease of `key`, a new one if it has none.
    pub fn lease(&mut self, key: &Key, wanted: &Wanted) -> Result<Lease, Error> {
        if let Some(lease) = self.held(key, wanted)? {
            return Ok(lease);
        }
        let (address, subnet) = self.choose(wanted)?;
        let lease = Lease {
            key: key.clone(),
            address,
            subnet: subnet.prefix,
            nic: subnet.nic,
            imported: false,
        };
        self.leases.push(lease.clone());
        Ok(lease)
    }

    /// Gives back the lease of `key`; whether there was one.
    pub fn release(&mut self, key: &Key) -> bool {
        !self.release_where(|lease| lease.is_of(key)).is_empty()
    }

    /// Gives back the leases of `network` whose attachments are not among `valid`: those leases.
    pub fn release_all_but(&mut self, network: &str, valid: &BTreeSet<Key>) -> Vec<Lease> {
        self.release_where(|lease| {
            let its = lease.key.network == network || lease.imported;
            its && !valid.iter().any(|key| lease.is_of(key))
        })
    }

    /// Gives back what the original plugin left in use though neither the kernel nor `living`, its own files and links, know
    /// of such a pod: it leaks addresses.
    pub fn reclaim(&mut self, observed: &Observed, living: &[Lease]) {
        let lives = |address| living.iter().any(|lease| lease.address == address);
        self.release_where(|lease| {
            lease.imported && !observed.pods.contains(&lease.address) && !lives(lease.address)
        });
    }

    fn release_where(&mut self, gone: impl Fn(&Lease) -> bool) -> Vec<Lease> {
        let leases = self.leases.extract_if(.., |lease| gone(lease));
        let leases: Vec<Lease> = leases.collect();
        for lease in &leases {
            self.releases += 1;
            self.released.insert(lease.address, self.releases);
        }
        leases
    }

    /// Every address that the NICs have for pods.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses_of(|_| true)
    }

    /// Every address for pods of the NICs that are meant. A NIC that the source does not name may be any.
    pub fn addresses_of(&self, is_meant: impl Fn(Mac) -> bool) -> impl Iterator<Item = Ipv4Addr> {
        let subnets = self.subnets.iter();
        subnets
            .filter(move |subnet| subnet.nic.is_none_or(&is_meant))
            .flat_map(|subnet| subnet.addresses.iter().copied())
    }
}

#[cfg(test)]
mod tests;
