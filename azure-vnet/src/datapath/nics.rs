//! The node's other NICs, as the datapath of each bridge has to know them: what comes to its NIC with the address of another
//! leaves by that one. Told by every call, because a NIC may get an address, or a bridge, later than this one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Error, Record, Rules, Tier, ebpf, lock, netfilter};
use crate::netlink::MacAddress;

/// The NIC of a bridge, and the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nics {
    /// Name of the NIC.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<Ipv4Net>,
    /// Those of the others.
    pub elsewhere: Vec<Elsewhere>,
}

/// An address of another NIC of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The address.
    pub address: Ipv4Addr,
    /// Name of that NIC.
    pub nic: String,
    /// Its interface index.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: MacAddress,
}

/// By the names of the bridges.
pub type Addresses = BTreeMap<String, Nics>;

/// Tells the datapaths of all bridges. What fails is logged: nothing else depends on it.
pub fn tell_nics(addresses: &Addresses) {
    for (bridge, record) in Record::all() {
        if let Some(nics) = addresses.get(&bridge)
            && let Err(error) = tell(&bridge, &record, nics)
        {
            tracing::warn!(
                "{bridge} does not know the other NICs' addresses: {}",
                super::chain(&error)
            );
        }
    }
}

fn tell(bridge: &str, record: &Record, nics: &Nics) -> Result<(), Error> {
    match record.tier {
        Tier::Ebpf(_) => Ok(ebpf::set_nics(bridge, &nics.elsewhere)?),
        Tier::Netfilter if record.rules != Rules::Nft => {
            if !nics.elsewhere.is_empty() {
                tracing::warn!(
                    "{bridge}: what has another NIC's address leaves by the wrong one, {} cannot change that",
                    record.rules
                );
            }
            Ok(())
        }
        // On nearly every node.
        Tier::Netfilter if !netfilter::nics::is_needed(bridge, nics) => Ok(()),
        Tier::Netfilter => {
            let lock = lock(bridge)?;
            netfilter::nics::install(bridge, nics, &lock)
                .map_err(|source| Error::Netfilter { source, ebpf: None })
        }
    }
}
