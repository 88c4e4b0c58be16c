//! Hanging programs on an interface: TCX links from Linux 6.6 on, `cls_bpf` filters before.
//!
//! Both are replaced in place: at no moment does a packet meet no program, or two.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use rtnetlink::packet_route::tc;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::ebpf::EbpfError;
use crate::netlink::filter::{Filter, Side};
use crate::netlink::link::Link;
use crate::netlink::{Netlink, NetlinkError};

/// Set to `1`, makes the plugin use `cls_bpf` where TCX is to be had: the way of older kernels,
/// for tests on newer ones.
pub const FORCE_CLS_BPF: &str = "AZURE_VNET_FORCE_CLS_BPF";

/// Filter priority and handle of our `cls_bpf` programs: fixed, so that they are found again.
const PRIORITY: u16 = 10;
const HANDLE: TcHandle = TcHandle::new(0, 1);
/// The same, as a list of filters has them.
pub const FILTER: Filter = Filter {
    priority: PRIORITY,
    handle: tc::TcHandle { major: 0, minor: 1 },
};

/// How long another call may take between attaching a link and pinning it. That is two system
/// calls, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// Links of the multi-program hook (Linux 6.6).
    #[serde(rename = "tcx")]
    Tcx,
    /// Filters of the `clsact` queueing discipline.
    #[serde(rename = "cls_bpf")]
    ClsBpf,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcx => "tcx",
            Self::ClsBpf => "cls_bpf",
        })
    }
}

impl Mechanism {
    /// What this kernel can do, unless the environment says otherwise.
    pub fn of_this_kernel() -> Self {
        let forced = std::env::var_os(FORCE_CLS_BPF).is_some_and(|value| value == "1");
        let tcx =
            KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 6, 0));
        if tcx && !forced {
            Self::Tcx
        } else {
            Self::ClsBpf
        }
    }

    /// Attaches `program` to `interface`, or puts it in the place of ours that is there. `pin`
    /// keeps a TCX link alive when this process ends.
    pub fn attach(
        self,
        program: &mut SchedClassifier,
        interface: &str,
        direction: TcAttachType,
        pin: &Path,
    ) -> Result<(), EbpfError> {
        let result = match self {
            Self::Tcx => attach_tcx(program, interface, direction, pin),
            Self::ClsBpf => attach_cls_bpf(program, interface, direction),
        };
        result.map_err(|why| EbpfError::Attach {
            interface: interface.to_owned(),
            mechanism: self,
            why,
        })
    }

    /// Whether the program called `name` hangs on `interface`. Nothing is changed.
    pub async fn is_attached(
        self,
        netlink: &Netlink,
        interface: &Link,
        direction: TcAttachType,
        name: &str,
    ) -> Result<bool, EbpfError> {
        let result = match self {
            Self::Tcx => is_in_tcx(&interface.name, direction, name),
            Self::ClsBpf => is_in_clsact(netlink, interface, direction).await,
        };
        result.map_err(|why| EbpfError::Inspect {
            interface: interface.name.clone(),
            why,
        })
    }

    /// Takes our program off `interface`; an interface that is gone took it along.
    pub fn detach(self, interface: &str, direction: TcAttachType, pin: &Path) {
        match self {
            Self::Tcx => {
                let _ = std::fs::remove_file(pin);
            }
            Self::ClsBpf => {
                if let Ok(link) = cls_bpf_link(interface, direction) {
                    drop(link);
                }
            }
        }
    }
}

/// Attaches without a lock. Another call may be attaching the same program to the same interface: it
/// pins its link in a moment, or ends and takes the link along.
fn attach_tcx(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
    pin: &Path,
) -> Result<(), AttachError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match try_attach_tcx(program, interface, direction, pin) {
            Err(AttachError::Program(error))
                if errno(&error) == Some(Errno::EXIST) && Instant::now() < end =>
            {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn try_attach_tcx(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
    pin: &Path,
) -> Result<(), AttachError> {
    if update_tcx(program, pin)? {
        return Ok(());
    }
    // Ours decides before others on the way in, so that they see whose packet it is, and after
    // others on the way out, so that it sees the packet that really leaves.
    let order = match direction {
        TcAttachType::Egress => LinkOrder::last(),
        _ => LinkOrder::first(),
    };
    let id = program.attach_with_options(interface, direction, TcAttachOptions::TcxOrder(order))?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    // A pin of a link that the interface took with it may be left.
    let _ = std::fs::remove_file(pin);
    link.pin(pin)?;
    Ok(())
}

/// Puts `program` into the pinned link, if there is one whose interface still lives.
fn update_tcx(program: &mut SchedClassifier, pin: &Path) -> Result<bool, AttachError> {
    let Ok(pinned) = PinnedLink::from_pin(pin) else {
        return Ok(false);
    };
    let link: SchedClassifierLink = FdLink::from(pinned).try_into()?;
    match program.attach_to_link(link) {
        Ok(_) => Ok(true),
        Err(error) if errno(&error) == Some(Errno::NOLINK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::SyscallError(error) => Errno::from_io_error(&error.io_error),
        _ => None,
    }
}

fn attach_cls_bpf(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
) -> Result<(), AttachError> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if is_exists(error.raw_os_error()) => {}
        result => result?,
    }
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let id = match program.attach_with_options(interface, direction, options) {
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if is_exists(error.raw_os_error()) =>
        {
            program.attach_to_link(cls_bpf_link(interface, direction)?)?
        }
        result => result?,
    };
    // Dropping the link would take the filter away; it is to stay until the interface goes.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn cls_bpf_link(
    interface: &str,
    direction: TcAttachType,
) -> Result<SchedClassifierLink, std::io::Error> {
    SchedClassifierLink::attached(interface, direction, PRIORITY, HANDLE, None)
}

/// The kernel is asked, not the pin: a pin outlives the link's interface.
fn is_in_tcx(interface: &str, direction: TcAttachType, name: &str) -> Result<bool, AttachError> {
    let (_, programs) = SchedClassifier::query_tcx(interface, direction)?;
    // By name, since after an upgrade the programs of the build before serve until the next ADD.
    Ok(programs
        .iter()
        .any(|program| program.name_as_str() == Some(name)))
}

async fn is_in_clsact(
    netlink: &Netlink,
    interface: &Link,
    direction: TcAttachType,
) -> Result<bool, AttachError> {
    let side = match direction {
        TcAttachType::Egress => Side::Egress,
        _ => Side::Ingress,
    };
    Ok(netlink.filters(interface, side).await?.contains(&FILTER))
}

fn is_exists(errno: Option<i32>) -> bool {
    errno == Some(Errno::EXIST.raw_os_error())
}

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refused.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel refused the queueing discipline.
    #[error(transparent)]
    Qdisc(#[from] TcError),
    /// The link is not one that can be pinned.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The link could not be pinned.
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
    /// The interface could not be asked for.
    #[error(transparent)]
    Interface(#[from] std::io::Error),
    /// The interface's filters could not be listed.
    #[error(transparent)]
    Filters(#[from] NetlinkError),
}
