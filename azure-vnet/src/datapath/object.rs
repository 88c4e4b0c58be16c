//! The embedded eBPF object: loading it, pinning its maps and programs, opening them again.

use aya::EbpfLoader;
use aya::programs::{ProgramInfo, SchedClassifier};
use azure_vnet_abi::{maps, programs};

use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::maps::check_pinned;

/// The eBPF object that this binary carries, built by `cargo xtask build-ebpf`. ELF is read in
/// place, so it has to be aligned.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("AZURE_VNET_BPF_OBJECT"));

/// Names the object: programs of another build are replaced.
pub const BUILD: &str = env!("AZURE_VNET_BPF_BUILD");

/// The programs on the NIC and on the bridge, loaded; that of the pods is opened for each of them.
pub struct Programs {
    pub to_pods: SchedClassifier,
    pub to_uplink: SchedClassifier,
    pub from_uplink: SchedClassifier,
}

impl Programs {
    /// Loads the object. Maps that are pinned are taken over with what they hold; all maps and
    /// programs are pinned afterwards.
    pub fn load(pins: &Pins) -> Result<Self, EbpfError> {
        let mut loader = EbpfLoader::new();
        for name in maps::ALL {
            check_pinned(pins, name)?;
            loader.map_pin_path(name, pins.map(name));
        }
        let mut object = loader.load(OBJECT).map_err(EbpfError::load)?;
        for name in programs::ALL {
            let program = object
                .program_mut(name)
                .ok_or_else(|| EbpfError::program(name, aya::programs::ProgramError::NotLoaded))?;
            let program: &mut SchedClassifier = program
                .try_into()
                .map_err(|source| EbpfError::program(name, source))?;
            program
                .load()
                .map_err(|source| EbpfError::program(name, source))?;
            let path = pins.programs(BUILD).join(name);
            let _ = std::fs::remove_file(&path);
            program
                .pin(&path)
                .map_err(|source| EbpfError::Pin { path, source })?;
        }
        Self::open(pins)
    }

    /// Opens the pinned programs of this build.
    pub fn open(pins: &Pins) -> Result<Self, EbpfError> {
        Ok(Self {
            to_pods: open(pins, programs::TO_PODS)?,
            to_uplink: open(pins, programs::TO_UPLINK)?,
            from_uplink: open(pins, programs::FROM_UPLINK)?,
        })
    }

    /// Opens the one that a pod's veth gets.
    pub fn open_from_pod(pins: &Pins) -> Result<SchedClassifier, EbpfError> {
        open(pins, programs::FROM_POD)
    }
}

/// By the name that we know: aya would otherwise find out by 17 trial loads whether this kernel has names (0.14.0,
/// `ProgramInfo::name_as_str`), half a millisecond of every ADD.
fn open(pins: &Pins, name: &'static str) -> Result<SchedClassifier, EbpfError> {
    ProgramInfo::from_pin(pins.programs(BUILD).join(name))
        .and_then(|info| SchedClassifier::from_program_info(info, name.into()))
        .map_err(|source| EbpfError::program(name, source))
}
