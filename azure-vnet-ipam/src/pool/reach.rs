//! Addresses that Azure lists and this node cannot use.

use ipnet::Ipv4Net;

use super::{Subnet, Wanted};
use crate::mac::Mac;

/// Why pods cannot have a subnet's addresses though the source lists them, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfReach {
    #[error(
        "the pod addresses in {subnet} are of the NIC with MAC {nic}, and no link of this node has that: bring the NIC \
         back, or correct the list if it is another VM's"
    )]
    NoNic { nic: Mac, subnet: Ipv4Net },
    #[error(
        "the pod addresses in {subnet} are of the NIC with MAC {nic}, which has no address of its own there for packets \
         to leave with: configure its first ipconfig on the node (DHCP), or name another NIC as master"
    )]
    NoAddress { nic: Mac, subnet: Ipv4Net },
}

impl Subnet {
    /// What keeps pods from using this subnet here. Nothing is known of a NIC that the source does not name.
    pub(super) fn out_of_reach(&self, wanted: &Wanted) -> Option<OutOfReach> {
        let (nic, subnet) = (self.nic?, self.prefix);
        let observed = &wanted.observed;
        // Where the kernel's lists cannot be read, that is no reason to refuse a pod.
        let links = observed.links.as_ref()?;
        if !links.contains(&nic) {
            return Some(OutOfReach::NoNic { nic, subnet });
        }
        let has_address = observed.node.iter().any(|own| subnet.contains(own));
        let needs_one = wanted.is_routed && !observed.node.is_empty() && !has_address;
        needs_one.then_some(OutOfReach::NoAddress { nic, subnet })
    }
}
