//! An attachment and the address that it has.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::Subnet;
use crate::mac::Mac;

/// An attachment. Not the container alone: it may have one interface in each of several networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub(super) network: String,
    pub(super) container_id: String,
    pub(super) ifname: String,
}

/// An address in use. It stays so until DEL, even if the NIC loses it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Recorded", into = "Recorded")]
pub struct Lease {
    pub key: Key,
    pub address: Ipv4Addr,
    pub subnet: Ipv4Net,
    /// As in [`Subnet`].
    pub nic: Option<Mac>,
    /// Whether the original plugin gave it: its key is the container alone, and it may be long gone.
    pub imported: bool,
}

/// A lease as it is recorded, its key among the rest. Not by `flatten`: that reads every field twice, half a
/// millisecond of an ADD beside 200 pods.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    network: String,
    container_id: String,
    ifname: String,
    address: Ipv4Addr,
    subnet: Ipv4Net,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nic: Option<Mac>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    imported: bool,
}

impl From<Recorded> for Lease {
    fn from(recorded: Recorded) -> Self {
        Lease {
            key: Key {
                network: recorded.network,
                container_id: recorded.container_id,
                ifname: recorded.ifname,
            },
            address: recorded.address,
            subnet: recorded.subnet,
            nic: recorded.nic,
            imported: recorded.imported,
        }
    }
}

impl From<Lease> for Recorded {
    fn from(lease: Lease) -> Self {
        Recorded {
            network: lease.key.network,
            container_id: lease.key.container_id,
            ifname: lease.key.ifname,
            address: lease.address,
            subnet: lease.subnet,
            nic: lease.nic,
            imported: lease.imported,
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

    pub(super) fn is_of(&self, key: &Key) -> bool {
        self.key == *key || (self.imported && self.key.container_id == key.container_id)
    }

    /// Takes over the subnet that turned out to hold the address.
    pub(super) fn settle(&mut self, subnets: &[Subnet]) {
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
