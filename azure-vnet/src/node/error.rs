//! Why the node's network could not be brought into shape.

use ipnet::Ipv4Net;

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
    #[error("the bridge {bridge} has the port {port}, which is neither {master} nor a pod's")]
    BridgeTaken {
        /// Name of the bridge.
        bridge: String,
        /// The port that is in the way.
        port: String,
        /// The NIC that was to become a port.
        master: String,
    },
    /// The NIC is not an Ethernet link.
    #[error("{name} has no MAC address: it cannot become a port of a bridge")]
    NotEthernet {
        /// Name of the link.
        name: String,
    },
    /// The bridge is ready but the node has no address where its pods' addresses are.
    #[error("{bridge} with the NIC {master} has no address in {subnet}")]
    NoAddress {
        /// Name of the bridge.
        bridge: String,
        /// Name of the NIC.
        master: String,
        /// The pods' subnet.
        subnet: Ipv4Net,
    },
    /// The bridge connects more than the NIC and pods: taking it away would cut that off.
    #[error(
        "the bridge {bridge} has the port {port}, which is neither its NIC nor a pod's; \
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
        "the NIC {name} of the bridge {bridge} is gone: the node's addresses have nowhere to go back to"
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
    /// The journal cannot be written; nothing was changed.
    #[error("cannot {operation} {path}")]
    Journal {
        /// What was tried.
        operation: &'static str,
        /// Path of the journal.
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
