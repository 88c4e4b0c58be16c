//! The addresses of this node and who has them: pure, no clock and no files.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
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

/// What is asked for; usually nothing in particular.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub subnet: Option<Ipv4Net>,
    pub address: Option<Particular>,
    /// What the node itself answers for: a pod with such an address would never see a packet.
    pub not: BTreeSet<Ipv4Addr>,
}

/// One address and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Particular {
    pub address: Ipv4Addr,
    /// Where it is asked for, so that an error can say what to change.
    pub by: &'static str,
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
        "all {total} pod addresses are in use ({in_use} attachments{}); add ipconfigs to the VM's NIC, or \
         run fewer pods on this node",
        and_of_node(*.of_node)
    )]
    Exhausted {
        total: usize,
        in_use: usize,
        of_node: usize,
    },
    #[error("ipam.subnet {wanted} is not a subnet of this VM's NICs, which are in [{known}]")]
    UnknownSubnet { wanted: Ipv4Net, known: String },
    #[error("{by} {wanted} is not a secondary address of this VM's NICs; add an ipconfig with it")]
    UnknownAddress { by: &'static str, wanted: Ipv4Addr },
    #[error("{by} {wanted} is in use by {key}")]
    Taken {
        by: &'static str,
        wanted: Ipv4Addr,
        key: Key,
    },
    #[error("{by} {wanted} is an address of this node itself; take it off the node's links")]
    OnNode { by: &'static str, wanted: Ipv4Addr },
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

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key {
            network,
            container_id,
            ifname,
        } = self;
        write!(
            f,
            "container {container_id:?}, interface {ifname:?}, network {network:?}"
        )
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
            _ => Ok(Some(lease.clone())),
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
            subnet,
        };
        self.leases.push(lease.clone());
        Ok(lease)
    }

    /// The address that an attachment without one would get now.
    pub fn choose(&self, wanted: &Wanted) -> Result<(Ipv4Addr, Ipv4Net), Error> {
        let candidates = self.candidates(wanted)?;
        match &wanted.address {
            Some(particular) => self.particular(&candidates, particular, &wanted.not),
            None => self.least_recently_used(&candidates, &wanted.not),
        }
    }

    /// Gives back the lease of `key`; whether there was one.
    pub fn release(&mut self, key: &Key) -> bool {
        !self.release_where(|lease| lease.key == *key).is_empty()
    }

    /// Gives back the leases of `network` whose attachments are not among `valid`: those leases.
    pub fn release_all_but(&mut self, network: &str, valid: &BTreeSet<Key>) -> Vec<Lease> {
        self.release_where(|lease| lease.key.network == network && !valid.contains(&lease.key))
    }

    /// No address is in use any more: the node was booted, and its pods are gone.
    pub fn release_all(&mut self) {
        self.leases.clear();
        self.released.clear();
        self.releases = 0;
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
        &Particular {
            address: wanted,
            by,
        }: &Particular,
        not: &BTreeSet<Ipv4Addr>,
    ) -> Result<(Ipv4Addr, Ipv4Net), Error> {
        if let Some(lease) = self.leases.iter().find(|lease| lease.address == wanted) {
            let key = lease.key.clone();
            return Err(Error::Taken { by, wanted, key });
        }
        if not.contains(&wanted) {
            return Err(Error::OnNode { by, wanted });
        }
        let mut subnets = candidates.iter();
        subnets
            .find(|subnet| subnet.addresses.contains(&wanted))
            .map(|subnet| (wanted, subnet.prefix))
            .ok_or(Error::UnknownAddress { by, wanted })
    }

    /// The address that has been free for longest, so that late packets for its last owner have died out.
    fn least_recently_used(
        &self,
        candidates: &[&Subnet],
        not: &BTreeSet<Ipv4Addr>,
    ) -> Result<(Ipv4Addr, Ipv4Net), Error> {
        let age = |address: &Ipv4Addr| (self.released.get(address).copied(), *address);
        let mut oldest = candidates.iter().filter_map(|subnet| {
            let free = self.free(subnet).filter(|address| !not.contains(address));
            Some((free.min_by_key(age)?, subnet.prefix))
        });
        if let Some(found) = oldest.next() {
            return Ok(found);
        }
        let of_node = candidates.iter().flat_map(|subnet| self.free(subnet));
        match candidates.iter().map(|subnet| subnet.addresses.len()).sum() {
            0 => Err(Error::Empty),
            total => Err(Error::Exhausted {
                total,
                in_use: self.leases.len(),
                // Whatever is free and still was not chosen.
                of_node: of_node.count(),
            }),
        }
    }
}

/// cloud-init gives the node every address of its NICs unless it is told not to.
fn and_of_node(of_node: usize) -> String {
    match of_node {
        0 => String::new(),
        count => format!(
            "; {count} are configured on this node's own links: take them off, and keep cloud-init from \
             putting them back"
        ),
    }
}

#[cfg(test)]
mod tests;
