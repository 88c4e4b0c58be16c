//! The addresses of this node and who has them: pure, no clock and no files.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Azure keeps the first three hosts of every subnet: the gateway and two for DNS. The network and broadcast
/// addresses are nobody's. <https://learn.microsoft.com/azure/virtual-network/virtual-networks-faq>
const RESERVED_AT_START: u32 = 4;

/// An attachment. Not the container alone: it may have one interface in each of several networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    network: String,
    container_id: String,
    ifname: String,
}

/// What the configuration asks for; usually nothing in particular.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub subnet: Option<Ipv4Net>,
    pub address: Option<Ipv4Addr>,
}

/// One subnet of one NIC, with the addresses that pods may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub prefix: Ipv4Net,
    /// Whether the NIC is the VM's primary one.
    pub primary: bool,
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// An address in use. It stays so until DEL, even if the NIC loses it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(flatten)]
    pub key: Key,
    pub address: Ipv4Addr,
    pub subnet: Ipv4Net,
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

/// Why there is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "no NIC of this VM has a secondary address for pods; add ipconfigs to the NIC, one for each pod"
    )]
    Empty,
    #[error(
        "all {total} pod addresses are in use ({in_use} attachments); add ipconfigs to the VM's NIC, or \
         run fewer pods on this node"
    )]
    Exhausted { total: usize, in_use: usize },
    #[error("ipam.subnet {wanted} is not a subnet of this VM's NICs, which are in [{known}]")]
    UnknownSubnet { wanted: Ipv4Net, known: String },
    #[error(
        "ipam.ipAddress {wanted} is not a secondary address of this VM's NICs; add an ipconfig with it"
    )]
    UnknownAddress { wanted: Ipv4Addr },
    #[error(
        "ipam.ipAddress {wanted} is in use by container {container_id:?}, interface {ifname:?}, network \
         {network:?}"
    )]
    Taken {
        wanted: Ipv4Addr,
        container_id: String,
        ifname: String,
        network: String,
    },
    #[error("this attachment already has {held}, so it cannot get {wanted}; DEL it first")]
    HoldsAnother { held: Ipv4Addr, wanted: String },
}

impl Key {
    pub fn new(network: &str, container_id: &str, ifname: &str) -> Self {
        Key {
            network: network.into(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }
}

impl Lease {
    /// The address with its subnet's prefix length.
    pub fn address_in_subnet(&self) -> Ipv4Net {
        // The length is that of another Ipv4Net, so the fallback is never taken.
        Ipv4Net::new(self.address, self.subnet.prefix_len()).unwrap_or(self.address.into())
    }
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
    /// Replaces what is known about the NICs. Leases stay, whatever has become of their addresses.
    pub fn refresh(&mut self, subnets: Vec<Subnet>) {
        self.subnets = subnets;
        let known: BTreeSet<Ipv4Addr> = self.addresses().collect();
        self.released.retain(|address, _| known.contains(address));
    }

    /// The lease that `key` has already: ADD may be repeated after a crash of the runtime.
    pub fn held(&self, key: &Key, wanted: &Wanted) -> Result<Option<Lease>, Error> {
        let Some(lease) = self.leases.iter().find(|lease| lease.key == *key) else {
            return Ok(None);
        };
        let other = |wanted: String| Error::HoldsAnother {
            held: lease.address,
            wanted,
        };
        match (wanted.address, wanted.subnet) {
            (Some(address), _) if address != lease.address => Err(other(address.to_string())),
            (_, Some(subnet)) if subnet != lease.subnet => Err(other(subnet.to_string())),
            _ => Ok(Some(lease.clone())),
        }
    }

    /// The lease of `key`, a new one if it has none.
    pub fn lease(&mut self, key: &Key, wanted: &Wanted) -> Result<Lease, Error> {
        if let Some(lease) = self.held(key, wanted)? {
            return Ok(lease);
        }
        let candidates = self.candidates(wanted)?;
        let (address, subnet) = match wanted.address {
            Some(wanted) => self.particular(&candidates, wanted)?,
            None => self.least_recently_used(&candidates)?,
        };
        let lease = Lease {
            key: key.clone(),
            address,
            subnet,
        };
        self.leases.push(lease.clone());
        Ok(lease)
    }

    /// Gives back the lease of `key`; whether there was one.
    pub fn release(&mut self, key: &Key) -> bool {
        let Some(index) = self.leases.iter().position(|lease| lease.key == *key) else {
            return false;
        };
        let lease = self.leases.swap_remove(index);
        self.releases += 1;
        self.released.insert(lease.address, self.releases);
        true
    }

    /// No address is in use any more: the node was booted, and its pods are gone.
    pub fn release_all(&mut self) {
        self.leases.clear();
        self.released.clear();
        self.releases = 0;
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.subnets
            .iter()
            .flat_map(|subnet| subnet.addresses.iter().copied())
    }

    /// The subnets to choose from, best first: the primary NIC's, then those with most free addresses.
    fn candidates(&self, wanted: &Wanted) -> Result<Vec<&Subnet>, Error> {
        let mut candidates: Vec<&Subnet> = self.subnets.iter().collect();
        if let Some(wanted) = wanted.subnet {
            candidates.retain(|subnet| subnet.prefix == wanted);
            if candidates.is_empty() {
                let known: Vec<String> = self
                    .subnets
                    .iter()
                    .map(|subnet| subnet.prefix.to_string())
                    .collect();
                let known = known.join(", ");
                return Err(Error::UnknownSubnet { wanted, known });
            }
        }
        candidates.sort_by_key(|subnet| Reverse((subnet.primary, self.free(subnet).count())));
        Ok(candidates)
    }

    fn free<'a>(&'a self, subnet: &'a Subnet) -> impl Iterator<Item = Ipv4Addr> + 'a {
        let in_use: BTreeSet<Ipv4Addr> = self.leases.iter().map(|lease| lease.address).collect();
        let addresses = subnet.addresses.iter().copied();
        addresses.filter(move |address| !in_use.contains(address))
    }

    fn particular(
        &self,
        candidates: &[&Subnet],
        wanted: Ipv4Addr,
    ) -> Result<(Ipv4Addr, Ipv4Net), Error> {
        if let Some(Lease { key, .. }) = self.leases.iter().find(|lease| lease.address == wanted) {
            return Err(Error::Taken {
                wanted,
                container_id: key.container_id.clone(),
                ifname: key.ifname.clone(),
                network: key.network.clone(),
            });
        }
        let mut subnets = candidates.iter();
        subnets
            .find(|subnet| subnet.addresses.contains(&wanted))
            .map(|subnet| (wanted, subnet.prefix))
            .ok_or(Error::UnknownAddress { wanted })
    }

    /// The address that has been free for longest, so that late packets for its last owner have died out.
    fn least_recently_used(&self, candidates: &[&Subnet]) -> Result<(Ipv4Addr, Ipv4Net), Error> {
        let age = |address: &Ipv4Addr| (self.released.get(address).copied(), *address);
        let mut oldest = candidates.iter().filter_map(|subnet| {
            let address = self.free(subnet).min_by_key(age)?;
            Some((address, subnet.prefix))
        });
        if let Some(found) = oldest.next() {
            return Ok(found);
        }
        match candidates.iter().map(|subnet| subnet.addresses.len()).sum() {
            0 => Err(Error::Empty),
            total => Err(Error::Exhausted {
                total,
                in_use: self.leases.len(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
