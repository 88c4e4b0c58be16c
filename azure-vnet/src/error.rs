//! Why a call failed, and the one place where that becomes a code of the CNI protocol.

use azure_vnet_cni::{CniError, code};
use azure_vnet_files::LockError;

use crate::{
    apply, check, config, datapath, legacy, lock, netlink, netns, node, plan, state, status,
};

/// The node's network cannot be brought into shape.
const NODE: u32 = code::PLUGIN;
/// The pod's network cannot be made or removed.
const POD: u32 = code::PLUGIN + 1;
/// The datapath cannot be set up.
const DATAPATH: u32 = code::PLUGIN + 2;

/// CHECK found a difference.
const DIFFERENCE: u32 = code::PLUGIN + 3;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be meant like this.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The protocol crate or the IPAM plugin has said it all.
    #[error("{}", .0.msg)]
    Cni(CniError),
    /// `CNI_NETNS` is not a namespace that can be used.
    #[error("CNI_NETNS cannot be used")]
    NetNs(#[from] netns::NetNsError),
    /// The node's network.
    #[error(transparent)]
    Node(#[from] node::NodeError),
    /// The lease has no address.
    #[error(transparent)]
    NoAddress(#[from] plan::NoAddress),
    /// The pod's network.
    #[error(transparent)]
    Apply(#[from] apply::ApplyError),
    /// The kernel's network configuration.
    #[error(transparent)]
    Netlink(#[from] netlink::NetlinkError),
    /// The datapath.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// What the original plugin made.
    #[error(transparent)]
    Legacy(#[from] legacy::LegacyError),
    /// What the plugin remembers.
    #[error(transparent)]
    State(#[from] state::Error),
    /// CHECK's answer.
    #[error(transparent)]
    Difference(#[from] check::Difference),
    /// STATUS's answer.
    #[error(transparent)]
    NotReady(#[from] status::NotReady),
    /// The asynchronous runtime.
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

impl From<CniError> for Error {
    fn from(error: CniError) -> Self {
        Self::Cni(error)
    }
}

impl Error {
    /// The error with its causes on one line.
    pub fn chain(&self) -> String {
        let error: &dyn std::error::Error = self;
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    }

    fn code(&self) -> u32 {
        match self {
            Self::Cni(error) => error.code,
            Self::Config(error) => error.code(),
            Self::Difference(check::Difference::NotListed { .. }) => code::INVALID_CONFIG,
            Self::Difference(_) => DIFFERENCE,
            Self::NotReady(error) => error.code(),
            Self::NetNs(_) => code::INVALID_ENVIRONMENT,
            Self::State(_) => code::IO,
            Self::Node(error) => node_code(error),
            Self::Apply(_) | Self::Netlink(_) | Self::NoAddress(_) | Self::Legacy(_) => POD,
            Self::Datapath(datapath::Error::Lock { source, .. }) => lock_code(source, DATAPATH),
            Self::Datapath(datapath::Error::Ebpf(datapath::EbpfError::Ports(_))) => {
                code::INVALID_CONFIG
            }
            Self::Datapath(_) => DATAPATH,
            Self::Runtime(_) => code::INTERNAL,
        }
    }
}

impl From<Error> for CniError {
    fn from(error: Error) -> Self {
        let code = error.code();
        match error {
            Error::Cni(error) => error,
            error => CniError::from_error(code, &error),
        }
    }
}

/// What the configuration names and the node does not have is the configuration's fault.
fn node_code(error: &node::NodeError) -> u32 {
    use node::NodeError as Node;
    match error {
        Node::NoSuchMaster { .. } | Node::UnsuitableMaster { .. } | Node::BadBridgeName { .. } => {
            code::INVALID_CONFIG
        }
        Node::Lock(error) => lock_code(error, NODE),
        _ => NODE,
    }
}

/// A lock that others held too long may be free the next time.
fn lock_code(error: &lock::Error, otherwise: u32) -> u32 {
    match error {
        lock::Error::Lock(LockError::Busy { .. }) => code::TRY_AGAIN,
        lock::Error::Lock(LockError::Io { .. }) | lock::Error::Folder(_) => otherwise,
    }
}
