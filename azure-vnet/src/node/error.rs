//! Why the node's network could not be brought into shape.

use std::io;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::legacy::LegacyError;
use crate::live;
use crate::lock;
use crate::netlink::NetlinkError;
use crate::sysctl::SysctlError;

/// Why the node's network could not be brought into shape, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The wanted NIC does not exist.
    #[error("there is no link called {name}, which the configuration names as master")]
    NoSuchMaster {
        /// Name from the configuration.
        name: String,
    },
    /// The link cannot be the NIC.
    #[error("{name} cannot be the master: it is {why}")]
    UnsuitableMaster {
        /// Name of the link.
        name: String,
        /// What it is instead of a NIC.
        why: String,
    },
    /// No link owns an address in the pods' subnet.
    #[error(
        "no link of this node that can be the master has an address in {subnet}; \
         name the NIC with \"master\" if it has none there"
    )]
    NoMaster {
        /// The pods' subnet.
        subnet: Ipv4Net,
    },
    /// The bridge's name is not one that Linux takes.
    #[error("{name:?} is not a valid name for a bridge (1 to 15 bytes, no space, '/' or ':')")]
    BadBridgeName {
        /// Name from the configuration.
        name: String,
    },
    /// Something else has the bridge's name.
    #[error("the link {name} exists and is not a bridge; choose another name with \"bridge\"")]
    NotABridge {
        /// Name of the link.
        name: String,
    },
    /// The bridge connects something else already.
    #[error(
        "the bridge {bridge} has the port {port}, which is no pod's; choose another name with \"bridge\""
    )]
    BridgeTaken {
        /// Name of the bridge.
        bridge: String,
        /// The port that is in the way.
        port: String,
    },
    /// The bridge is for another NIC.
    #[error(
        "the bridge {bridge} is for the NIC {nic}, and the pod's address is of {master}: give {master} a network of its own, \
         with \"master\" and another \"bridge\""
    )]
    BridgeOfAnotherNic {
        /// Name of the bridge.
        bridge: String,
        /// Its NIC.
        nic: String,
        /// The NIC that was to get it.
        master: String,
    },
    /// The NIC is not an Ethernet link.
    #[error("{name} has no MAC address: it is no Ethernet link")]
    NotEthernet {
        /// Name of the link.
        name: String,
    },
    /// The bridge is ready but the node has no address where its pods' addresses are.
    #[error(
        "the NIC {master} of {bridge} has no address in {subnet}: it has none yet (DHCP), or not that of the pods' subnet"
    )]
    NoAddress {
        /// Name of the bridge.
        bridge: String,
        /// Name of the NIC.
        master: String,
        /// The pods' subnet.
        subnet: Ipv4Net,
    },
    /// The bridge connects more than pods: taking it away would cut that off.
    #[error(
        "the bridge {bridge} has the port {port}, which is no pod's; \
         take that out first (ip link set {port} nomaster), or use --force"
    )]
    InUse {
        /// Name of the bridge.
        bridge: String,
        /// The port that is in the way.
        port: String,
    },
    /// There is nothing to give the node's addresses back to.
    #[error(
        "the NIC {name} is gone, whose addresses are on the bridge {bridge} of azure-vnet v0.1"
    )]
    NoNic {
        /// Name of the NIC.
        name: String,
        /// Name of the bridge.
        bridge: String,
    },
    /// Other calls kept the node's network locked.
    #[error("cannot change the node's network")]
    Lock(#[from] lock::Error),
    /// What is known of the bridge, or of the settings before it, cannot be written down or read.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// Path of the file.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused a change.
    #[error("cannot configure the node's network")]
    Netlink(#[from] NetlinkError),
    /// A kernel setting could not be changed.
    #[error("cannot configure the node's network")]
    Sysctl(#[from] SysctlError),
    /// Which pods there are is not known.
    #[error("cannot tell which pods there are")]
    Pods(#[from] live::Error),
    /// What the original plugin made cannot be removed.
    #[error(transparent)]
    Legacy(#[from] LegacyError),
    /// A step failed and so did taking back the ones before it. The next call continues.
    #[error(
        "cannot configure the node's network, nor put it back ({cause}); the next call continues"
    )]
    Stranded {
        /// Why the move stopped.
        cause: Box<NodeError>,
        /// Why it could not be undone.
        #[source]
        undo: Box<NodeError>,
    },
}

impl NodeError {
    /// The error of a file that the node's network needs.
    pub fn file(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            operation,
            path: path.display().to_string(),
            source,
        }
    }
}
