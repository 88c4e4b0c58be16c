//! The eBPF tier: programs on the NIC and on every host veth, and their maps.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::{ProgramError, TcAttachType};
use azure_vnet_abi::programs;

use super::attach::{AttachError, Mechanism};
use super::bpffs::Pins;
use super::maps;
use super::object::{BUILD, Programs};
use super::{Counters, Pod, Uplink};

/// The tier in place.
pub struct Ebpf {
    mechanism: Mechanism,
}

impl Ebpf {
    /// The tier as an earlier call left it, if it is whole: the same build, both programs on the
    /// NIC. Whatever is missing is for [`Ebpf::set_up`] to mend, under the lock.
    pub fn reuse(uplink: &Uplink, mechanism: Mechanism) -> Option<Self> {
        let pins = Pins::of(&uplink.bridge);
        let mut programs = Programs::open(&pins).ok()?;
        attach_to_uplink(&mut programs, mechanism, &pins, uplink).ok()?;
        maps::configure(&pins, uplink).ok()?;
        Some(Self { mechanism })
    }

    /// Loads the programs, or replaces those of another build without losing a packet or a flow,
    /// and serves `pods`. The maps are filled before the first program runs.
    pub fn set_up(uplink: &Uplink, pods: &[Pod]) -> Result<Self, EbpfError> {
        let pins = Pins::of(&uplink.bridge);
        pins.create(BUILD).map_err(EbpfError::Bpffs)?;
        let mut programs = Programs::load(&pins)?;
        maps::configure(&pins, uplink)?;
        let this = Self {
            mechanism: Mechanism::of_this_kernel(),
        };
        for pod in pods {
            match this.add_pod(&uplink.bridge, pod) {
                // A DEL was faster.
                Err(_) if super::interface_index(&pod.host_veth).is_none() => {}
                result => result?,
            }
        }
        attach_to_uplink(&mut programs, this.mechanism, &pins, uplink)?;
        pins.forget_other_builds(BUILD);
        Ok(this)
    }

    /// Serves one more pod.
    pub fn add_pod(&self, bridge: &str, pod: &Pod) -> Result<(), EbpfError> {
        let pins = Pins::of(bridge);
        maps::add_pod(&pins, pod)?;
        self.mechanism.attach(
            &mut Programs::open(&pins)?.from_pod,
            &pod.host_veth,
            TcAttachType::Ingress,
            &pins.link(&pod.host_veth),
        )
    }

    /// How the programs are attached.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }
}

/// Forgets a pod. Its program goes with its veth; only the pin is ours to remove.
pub fn remove_pod(bridge: &str, host_veth: &str, address: Ipv4Addr) -> Result<(), EbpfError> {
    let pins = Pins::of(bridge);
    let _ = std::fs::remove_file(pins.link(host_veth));
    maps::remove_pod(&pins, address)
}

/// Takes everything away: another tier has taken over, or a set-up that failed half-way.
pub fn remove(uplink: &Uplink, pods: &[Pod]) {
    let pins = Pins::of(&uplink.bridge);
    let mechanism = Mechanism::of_this_kernel();
    for (name, direction) in [
        (programs::TO_UPLINK, TcAttachType::Egress),
        (programs::FROM_UPLINK, TcAttachType::Ingress),
    ] {
        mechanism.detach(&uplink.name, direction, &pins.link(name));
    }
    for pod in pods {
        let pin = pins.link(&pod.host_veth);
        mechanism.detach(&pod.host_veth, TcAttachType::Ingress, &pin);
    }
    pins.remove();
}

/// The packet counters.
pub fn counters(bridge: &str) -> Result<Counters, EbpfError> {
    maps::counters(&Pins::of(bridge))
}

fn attach_to_uplink(
    programs: &mut Programs,
    mechanism: Mechanism,
    pins: &Pins,
    uplink: &Uplink,
) -> Result<(), EbpfError> {
    // The way in first: a flow that is masqueraded on its way out needs it for the replies.
    mechanism.attach(
        &mut programs.from_uplink,
        &uplink.name,
        TcAttachType::Ingress,
        &pins.link(programs::FROM_UPLINK),
    )?;
    mechanism.attach(
        &mut programs.to_uplink,
        &uplink.name,
        TcAttachType::Egress,
        &pins.link(programs::TO_UPLINK),
    )
}

/// Why the eBPF tier cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// There is no BPF file system, and none could be mounted.
    #[error("the BPF file system at /sys/fs/bpf cannot be used")]
    Bpffs(#[source] std::io::Error),
    /// The kernel did not take the object's maps.
    #[error("the kernel does not take the eBPF maps")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program is missing, or the kernel's verifier refused it.
    #[error("eBPF program {name}")]
    Program {
        /// Which program.
        name: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// Something could not be pinned.
    #[error("cannot pin {}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: PinError,
    },
    /// A map could not be read or written.
    #[error("eBPF map {name}")]
    Map {
        /// Which map.
        name: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A pinned map is not what this version expects.
    #[error("the pinned map {} is of another version; remove it when no pod is running", path.display())]
    Incompatible {
        /// Which pin.
        path: PathBuf,
    },
    /// A program could not be attached.
    #[error("cannot attach to {interface} by {mechanism}")]
    Attach {
        /// To which interface.
        interface: String,
        /// How.
        mechanism: Mechanism,
        /// What the kernel said.
        #[source]
        why: AttachError,
    },
}

impl EbpfError {
    pub(super) fn load(source: aya::EbpfError) -> Self {
        Self::Load(Box::new(source))
    }

    pub(super) fn program(name: &'static str, source: ProgramError) -> Self {
        Self::Program {
            name,
            source: Box::new(source),
        }
    }

    pub(super) fn map(name: &'static str, source: MapError) -> Self {
        Self::Map {
            name,
            source: Box::new(source),
        }
    }
}
