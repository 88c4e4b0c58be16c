//! Why there is no address, and what to do about it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Key, OutOfReach};
use crate::mac::Mac;

/// Why there is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "no NIC of this VM has a secondary address for pods; add ipconfigs to the NIC, one for each pod"
    )]
    Empty,
    #[error(
        "all {total} pod addresses are in use ({in_use} attachments{}){}; {}",
        besides(*.of_node, *.of_pods),
        beyond(out_of_reach.as_ref()),
        advice(*.gone)
    )]
    Exhausted {
        total: usize,
        in_use: usize,
        /// Of `in_use`: their pods are gone.
        gone: usize,
        of_node: usize,
        of_pods: usize,
        /// What keeps pods from further addresses.
        out_of_reach: Option<OutOfReach>,
    },
    #[error(transparent)]
    OutOfReach(#[from] OutOfReach),
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
            | Error::OutOfReach(_)
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

fn beyond(out_of_reach: Option<&OutOfReach>) -> String {
    out_of_reach.map_or_else(String::new, |reason| {
        format!(", and others cannot be used: {reason}")
    })
}

/// More addresses are no help to a node that does not give back those it has.
fn advice(gone: usize) -> String {
    match gone {
        0 => "add ipconfigs to the VM's NIC, or run fewer pods on this node".to_owned(),
        1 => {
            "1 of the attachments is of a pod that is gone: `azure-vnet gc` gives its address back"
                .to_owned()
        }
        gone => format!(
            "{gone} of the attachments are of pods that are gone: `azure-vnet gc` gives their addresses back"
        ),
    }
}
