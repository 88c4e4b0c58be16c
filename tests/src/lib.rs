//! A simulated Azure, made of network namespaces and veths: VMs, the fabric that enforces what Azure enforces, its platform
//! services, and hosts outside. The demo, the tests and the bench all run on it. It needs root.
//!
//! ```no_run
//! # fn main() -> Result<(), azure_vnet_testbed::Error> {
//! use azure_vnet_testbed::{Azure, conflist::Conflist, pod::PodSpec};
//!
//! let azure = Azure::builder().vms(2).pool(40).build()?;
//! let list = Conflist::shipped();
//! let pod = azure.vms[0].add_pod(&list, &PodSpec::named("web"))?;
//! println!("{} {:?}", pod.address, azure.fabric.verdicts(0)?);
//! pod.delete()?;
//! # Ok(()) }
//! ```
//!
//! Everything goes away when the value is dropped, and also when the process is killed: see [`namespace`].

pub mod address_plan;
mod anti_spoofing;
mod azure;
pub mod conflist;
pub mod connection;
pub mod conntrack;
pub mod debian;
pub mod dhcp;
pub mod dns;
pub mod exchange;
mod fabric;
pub mod field;
pub mod frame;
pub mod host;
pub mod http;
pub mod icmp;
pub mod imds;
mod iproute;
pub mod kube_proxy;
pub mod libcni;
mod mounts;
pub mod namespace;
pub mod offload;
pub mod packet_socket;
pub mod pod;
pub mod process;
pub mod queue;
pub mod raw_program;
pub mod reporter;
mod service;
pub mod steady;
pub mod trace;
pub mod traffic;
mod vm;
pub mod wireserver;

pub use anti_spoofing::Verdicts;
pub use azure::{Azure, Builder, PLATFORM_REPORT_PORT, bin_dir};
pub use fabric::Fabric;
pub use mounts::{CONFIG_DIR, NETNS_DIR, PLUGIN_DIR};
pub use vm::Vm;

/// What went wrong with the simulated Azure itself, or with a pod on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces need root.
    #[error(
        "the simulated Azure is made of network namespaces: run this as root (with CAP_SYS_ADMIN and CAP_NET_ADMIN)"
    )]
    NotRoot,
    /// More was asked for than the subnet holds.
    #[error("{0}")]
    TooMany(String),
    /// A part could not be set up or reached.
    #[error("{what}")]
    Setup {
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A program failed.
    #[error(transparent)]
    Program(#[from] process::Error),
    /// A CNI plugin failed, or its answer makes no sense.
    #[error(transparent)]
    Plugin(#[from] libcni::Error),
}

impl Error {
    fn namespace(source: std::io::Error) -> Self {
        Self::Setup {
            what: "enter or create a namespace".into(),
            source,
        }
    }
}
