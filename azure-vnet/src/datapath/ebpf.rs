//! The eBPF tier: programs on the NIC, on the bridge and on every host veth, and their maps.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::{ProgramError, ProgramType, TcAttachType};
use aya::sys::is_program_supported;
use azure_vnet_abi::{maps as maps_abi, programs};

use super::attach::{AttachError, Mechanism};
use super::bpffs::{self, Pins};
use super::chained;
use super::inbound;
use super::maps;
use super::object::{BUILD, Programs};
use super::predecessors::Predecessors;
use super::{Counters, Departed, Elsewhere, Pod, Uplink, Way, policy, reserve};
use crate::names;
use crate::netlink::Netlink;
use crate::ports;

/// The tier in place.
pub struct Ebpf {
    mechanism: Mechanism,
    /// Whether the policy in force is the wanted one.
    pub has_policy: bool,
}

impl Ebpf {
    /// The tier as an earlier call left it, if it is whole: the same build, every map, the programs on the
    /// NIC and on the bridge. Whatever is missing is for [`Ebpf::set_up`] to mend, under the lock.
    pub fn reuse(uplink: &Uplink, mechanism: Mechanism) -> Option<Self> {
        let pins = Pins::of(&uplink.bridge);
        // Of another range other ports are reserved, which have to be known first.
        let is_whole = pins.are_only_of(BUILD) && pins.have_all_maps();
        if !is_whole || !maps::has_ports(&pins, uplink).ok()? {
            return None;
        }
        let mut programs = Programs::open(&pins).ok()?;
        attach(&mut programs, mechanism, &pins, uplink).ok()?;
        maps::configure(&pins, uplink).ok()?;
        Some(Self {
            mechanism,
            has_policy: policy::is_current(&pins, &uplink.policy).ok()?,
        })
    }

    /// The tier, if what an earlier call left is whole.
    pub fn at(mechanism: Mechanism) -> Self {
        Self {
            mechanism,
            has_policy: true,
        }
    }

    /// Loads the programs, or replaces those of another build or another version without losing a packet
    /// or a flow, and serves `pods`. The maps are filled before the first program runs.
    pub fn set_up(uplink: &Uplink, pods: &[Pod]) -> Result<Self, EbpfError> {
        uplink.port_range()?;
        let pins = Pins::of(&uplink.bridge);
        pins.create(BUILD).map_err(EbpfError::Bpffs)?;
        let predecessors = Predecessors::of(&pins);
        let has_lost_maps = !pins.have_all_maps();
        policy::forget_halves(&pins)?;
        predecessors.hand_over_maps(&pins)?;
        let has_no_flows = !pins.map(maps_abi::FLOWS).exists();
        let mut programs = Programs::load(&pins)?;
        reserve::install(uplink)?;
        maps::configure(&pins, uplink)?;
        policy::install(&pins, uplink)?;
        predecessors.hand_over_links(&pins, pods)?;
        let this = Self::at(Mechanism::of_this_kernel());
        for pod in pods {
            match this.add_pod(&uplink.bridge, pod) {
                // A DEL was faster, and may have been between our list and our entry.
                Err(_) if !super::is_link(pod.ifindex) => drop(maps::forget_dead(&pins)?),
                result => result?,
            }
        }
        if has_no_flows {
            inbound::adopt(&pins, uplink, pods)?;
        }
        attach(&mut programs, this.mechanism, &pins, uplink)?;
        if has_lost_maps || !predecessors.is_empty() {
            maps::adopt_flows(&pins)?;
        }
        pins.forget_other_builds(BUILD);
        predecessors.forget(&pins);
        Ok(this)
    }

    /// Serves one more pod.
    pub fn add_pod(&self, bridge: &str, pod: &Pod) -> Result<(), EbpfError> {
        let pins = Pins::of(bridge);
        maps::add_pod(&pins, pod)?;
        let pin = pins.link(&pod.host_veth);
        let mechanism = self.mechanism_for(pod, &pin);
        let program = &mut Programs::open_from_pod(&pins)?;
        mechanism.attach(program, &pod.host_veth, TcAttachType::Ingress, &pin)?;
        if mechanism == Mechanism::Tcx {
            // The list has another plugin since, or another build attached it so.
            Mechanism::ClsBpf.detach(&pod.host_veth, TcAttachType::Ingress, &pin);
        }
        Ok(())
    }

    /// How `from_pod` is attached to a pod's veth. A TCX link makes every ADD and DEL wait for RCU with the RTNL lock held (9 and
    /// 13 ms), so it is taken only where a chained plugin may want the place that a filter needs.
    fn mechanism_for(&self, pod: &Pod, pin: &Path) -> Mechanism {
        // One that is there is replaced in place.
        if self.mechanism == Mechanism::Tcx
            && !pin.exists()
            && chained::ingress_is_ours(&pod.network)
        {
            return Mechanism::ClsBpf;
        }
        self.mechanism
    }

    /// How the programs are attached.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }
}

/// Whether programs, maps and links are pinned as this build pins them. What only the kernel knows (a filter that somebody deleted)
/// is for whoever asks the kernel.
pub fn is_pinned(bridge: &str, mechanism: Mechanism) -> bool {
    let pins = Pins::of(bridge);
    let links = [
        programs::FROM_UPLINK,
        programs::TO_UPLINK,
        programs::TO_PODS,
    ];
    pins.are_only_of(BUILD)
        && pins.have_all_maps()
        && (mechanism == Mechanism::ClsBpf || links.iter().all(|name| pins.link(name).exists()))
}

/// The pods of these that the maps do not know.
pub fn unknown<'a>(bridge: &str, pods: &'a [Pod]) -> Result<Vec<&'a Pod>, EbpfError> {
    maps::unknown(&Pins::of(bridge), pods)
}

/// Whether what is masqueraded is what `uplink` says.
pub fn has_policy(uplink: &Uplink) -> Result<bool, EbpfError> {
    policy::is_current(&Pins::of(&uplink.bridge), &uplink.policy)
}

/// Makes it so; under the bridge's lock.
pub fn set_policy(uplink: &Uplink) -> Result<(), EbpfError> {
    policy::install(&Pins::of(&uplink.bridge), uplink)
}

/// Tells the programs which addresses are other NICs'. Without pins there is nobody to tell.
pub fn set_nics(bridge: &str, elsewhere: &[Elsewhere]) -> Result<(), EbpfError> {
    maps::set_nics(&Pins::of(bridge), elsewhere)
}

/// Forgets a pod. Its program goes with its veth; only the pin is ours to remove.
pub fn remove_pod(bridge: &str, pod: &Departed) -> Result<(), EbpfError> {
    let pins = Pins::of(bridge);
    // To look for a pod's flows is to read the whole table.
    if maps::remove_pod(&pins, pod)? {
        maps::forget_flows(&pins, pod)?;
    }
    pins.remove_link(&pod.host_veth)
}

/// Forgets the pods whose links are gone, `host_veth` among them; returns their addresses.
pub fn forget_dead(bridge: &str, host_veth: &str) -> Result<Vec<Ipv4Addr>, EbpfError> {
    let pins = Pins::of(bridge);
    pins.remove_link(host_veth)?;
    maps::forget_dead(&pins)
}

/// Forgets everything of pods whose links are gone: entries, flows, pins. Returns their addresses.
pub fn sweep(bridge: &str) -> Result<Vec<Ipv4Addr>, EbpfError> {
    let pins = Pins::of(bridge);
    let of_pods = pins.links().into_iter().filter(|name| names::is_ours(name));
    for name in of_pods.filter(|name| matches!(super::interface_index(name), Ok(None))) {
        pins.remove_link(&name)?;
    }
    let addresses = maps::forget_dead(&pins)?;
    maps::forget_dead_flows(&pins)?;
    Ok(addresses)
}

/// The bridges that this tier has pins of.
pub fn bridges() -> Vec<String> {
    Pins::bridges()
}

/// What of this tier is missing for `pod`.
pub async fn defects(
    netlink: &Netlink,
    mechanism: Mechanism,
    way: Way<'_>,
    pod: &Pod,
) -> Result<Vec<String>, EbpfError> {
    let mut defects = Vec::new();
    for (link, direction, name) in [
        (way.nic, TcAttachType::Ingress, programs::FROM_UPLINK),
        (way.nic, TcAttachType::Egress, programs::TO_UPLINK),
        (way.bridge, TcAttachType::Egress, programs::TO_PODS),
        (way.port, TcAttachType::Ingress, programs::FROM_POD),
    ] {
        let mut attached = mechanism
            .is_attached(netlink, link, direction, name)
            .await?;
        if !attached && name == programs::FROM_POD {
            let filter = Mechanism::ClsBpf.is_attached(netlink, link, direction, name);
            attached = filter.await?;
        }
        if !attached {
            let link = &link.name;
            defects.push(format!(
                "the eBPF program {name} is not attached to {link} ({mechanism})"
            ));
        }
    }
    for map in maps::lacking(&Pins::of(&way.bridge.name), pod)? {
        let Pod {
            address, host_veth, ..
        } = pod;
        defects.push(format!(
            "the eBPF map {map} does not have {address} behind {host_veth}"
        ));
    }
    Ok(defects)
}

/// Whether this tier could be set up, as far as can be told without setting anything up.
pub fn probe() -> Result<(), EbpfError> {
    bpffs::is_available().map_err(EbpfError::Bpffs)?;
    match is_program_supported(ProgramType::SchedClassifier) {
        Ok(true) => Ok(()),
        Ok(false) => Err(EbpfError::Unsupported),
        Err(source) => Err(EbpfError::program(programs::TO_UPLINK, source)),
    }
}

/// Takes everything away: another tier has taken over, or a set-up that failed half-way.
pub fn remove(uplink: &Uplink, pods: &[Pod]) {
    let pins = Pins::of(&uplink.bridge);
    let mechanism = Mechanism::of_this_kernel();
    for (link, direction, name) in places(uplink) {
        mechanism.detach(link, direction, &pins.link(name));
    }
    for pod in pods {
        let pin = pins.link(&pod.host_veth);
        for mechanism in [mechanism, Mechanism::ClsBpf] {
            mechanism.detach(&pod.host_veth, TcAttachType::Ingress, &pin);
        }
    }
    if let Err(error) = take_away(&uplink.bridge) {
        tracing::warn!("{}", super::chain(&error));
    }
}

/// Takes everything away that any version of this tier made for a bridge without pods: pins, and with
/// them TCX links. The filters of the NIC are the kernel's, not the file system's.
pub fn take_away(bridge: &str) -> Result<(), EbpfError> {
    Pins::remove_all(bridge)
}

/// The packet counters.
pub fn counters(bridge: &str) -> Result<Counters, EbpfError> {
    maps::counters(&Pins::of(bridge))
}

/// Where the programs are that serve all pods. In the order in which they are attached: a flow that is masqueraded on its way
/// out needs the way in for the replies.
fn places(uplink: &Uplink) -> [(&str, TcAttachType, &'static str); 3] {
    let (nic, bridge) = (uplink.name.as_str(), uplink.bridge.as_str());
    [
        (bridge, TcAttachType::Egress, programs::TO_PODS),
        (nic, TcAttachType::Ingress, programs::FROM_UPLINK),
        (nic, TcAttachType::Egress, programs::TO_UPLINK),
    ]
}

fn attach(
    programs: &mut Programs,
    mechanism: Mechanism,
    pins: &Pins,
    uplink: &Uplink,
) -> Result<(), EbpfError> {
    let programs = [
        &mut programs.to_pods,
        &mut programs.from_uplink,
        &mut programs.to_uplink,
    ];
    for (program, (link, direction, name)) in programs.into_iter().zip(places(uplink)) {
        mechanism.attach(program, link, direction, &pins.link(name))?;
    }
    Ok(())
}

/// Why the eBPF tier cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// There is no BPF file system, and none could be mounted.
    #[error("the BPF file system at /sys/fs/bpf cannot be used")]
    Bpffs(#[source] std::io::Error),
    /// The node leaves no ports to masquerade with.
    #[error("no ports to masquerade with")]
    Ports(#[from] ports::Error),
    /// The kernel has no TC programs.
    #[error("the kernel has no eBPF programs for traffic control (CONFIG_NET_CLS_BPF)")]
    Unsupported,
    /// The pin of a pod that is gone could not be removed.
    #[error("cannot remove {}", path.display())]
    Unpin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel did not take the object's maps.
    #[error("the kernel does not take the eBPF maps")]
    Load(#[source] Box<aya::EbpfError>),
    /// There is no secret to choose ports with.
    #[error("the kernel's random source (getrandom) cannot be read")]
    Random(#[source] std::io::Error),
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
    /// What an earlier version has pinned could not be taken over.
    #[error("cannot take over {}", path.display())]
    TakeOver {
        /// Which pin of it.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
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
    /// What is attached could not be seen.
    #[error("cannot see what is attached to {interface}")]
    Inspect {
        /// To which interface.
        interface: String,
        /// What the kernel said.
        #[source]
        why: AttachError,
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
