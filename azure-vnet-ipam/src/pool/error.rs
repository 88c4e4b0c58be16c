//! Why there is no address, and what to do about it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Key;
use crate::mac::Mac;

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
