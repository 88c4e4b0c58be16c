//! The addresses of this node and who has them: pure, no clock and no files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::mac::Mac;

mod choice;
mod report;

pub use choice::{Master, Observed, Particular, Wanted};
pub use report::{LeaseReport, Report, SubnetReport};

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

/// An address in use. It stays so until DEL, even if the NIC loses it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(flatten)]
    pub key: Key,
    pub address: Ipv4Addr,
    pub subnet: Ipv4Net,
    /// As in [`Subnet`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<Mac>,
    /// Whether the original plugin gave it: its key is the container alone, and it may be long gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
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
        besides(*.of_node, *.of_pods)
    )]
    Exhausted {
        total: usize,
        in_use: usize,
        of_node: usize,
        of_pods: usize,
    },
    #[error(
        "master {name:?} has MAC {mac}, and no NIC of this VM with addresses for pods has that; those that do \
         are [{known}]"
    )]
    UnknownNic {
        name: String,
        mac: Mac,
        known: String,
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
    #[error(
        "{by} {wanted} is used on this node by a pod that is not recorded; find its link by `ip neigh` and \
         delete the pod"
    )]
    OnUnknownPod { by: &'static str, wanted: Ipv4Addr },
    #[error("this attachment already has {held}, so it cannot get {wanted}; DEL it first")]
    HoldsAnother { held: Ipv4Addr, wanted: String },
}

impl Error {
    /// Whether more addresses on the NICs would help.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Empty
            | Error::Exhausted { .. }
            | Error::UnknownNic { .. }
            | Error::UnknownSubnet { .. }
            | Error::UnknownAddress { .. } => true,
            Error::Taken { .. }
            | Error::OnNode { .. }
            | Error::OnUnknownPod { .. }
            | Error::HoldsAnother { .. } => false,
        }
    }
}

impl Key {
    pub fn new(network: &str, container_id: &str, ifname: &str) -> Self {
        Key {
            network: network.into(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    /// Any attachment of the container.
    pub fn of_container(container_id: &str) -> Self {
        Key::new("", container_id, "")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key {
            network,
            container_id,
            ifname,
        } = self;
        if network.is_empty() {
            return write!(f, "container {container_id:?} of the original plugin");
        }
        write!(
            f,
            "container {container_id:?}, interface {ifname:?}, network {network:?}"
        )
    }
}

impl Lease {
    /// A lease of which only the address is known, until the source says where it belongs.
    pub fn in_unknown_subnet(key: Key, address: Ipv4Addr) -> Self {
        Lease {
            key,
            address,
            subnet: address.into(),
            nic: None,
            imported: false,
        }
    }

    /// A lease that the original plugin gave.
    pub fn imported(key: Key, address: Ipv4Addr) -> Self {
        Lease {
            imported: true,
            ..Lease::in_unknown_subnet(key, address)
        }
    }

    /// No subnet of Azure's is one address.
    pub fn is_subnet_known(&self) -> bool {
        self.subnet.prefix_len() < Ipv4Net::from(self.address).prefix_len()
    }

    fn is_of(&self, key: &Key) -> bool {
        self.key == *key || (self.imported && self.key.container_id == key.container_id)
    }

    /// Takes over the subnet that turned out to hold the address.
    fn settle(&mut self, subnets: &[Subnet]) {
        let its = |subnet: &&Subnet| subnet.addresses.contains(&self.address);
        if let Some(subnet) = subnets.iter().find(its)
            && !self.is_subnet_known()
        {
            self.subnet = subnet.prefix;
            self.nic = subnet.nic;
        }
    }

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
        let may_reclaim = self.leases.iter().any(|lease| lease.imported);
        if may_reclaim && matches!(self.choose(wanted), Err(Error::Exhausted { .. })) {
            self.reclaim(&wanted.observed);
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

    /// Gives back what the original plugin left in use though the kernel knows of no such pod: it leaks addresses.
    pub fn reclaim(&mut self, observed: &Observed) -> Vec<Lease> {
        self.release_where(|lease| lease.imported && !observed.pods.contains(&lease.address))
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
}

/// What else is not free, and why. cloud-init gives the node every address of its NICs unless it is told not to.
fn besides(of_node: usize, of_pods: usize) -> String {
    let pods = match of_pods {
        0 => String::new(),
        count => format!(
            "; {count} by pods that are not recorded, as the kernel's neighbours and routes show"
        ),
    };
    let node = match of_node {
        0 => String::new(),
        count => format!(
            "; {count} are configured on this node's own links: take them off, and keep cloud-init from \
             putting them back"
        ),
    };
    pods + &node
}

#[cfg(test)]
mod tests;
