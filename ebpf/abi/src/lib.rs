//! What the eBPF programs and user space share: map keys and values, the reasons that are
//! counted, and the names of programs and maps.
//!
//! Pinned maps outlive every process, so a struct here is a stored format: [`ABI_VERSION`] is part
//! of the pin path and must change with any layout. Nothing in here decides anything.

#![no_std]

mod event;
mod flow;
mod fragment;
mod layout;
mod names;
mod net;
mod nic;
mod pod;
mod policy;
mod reason;
mod reserved;
mod search;
mod uplink;

pub use event::{EVENT_BYTES, Event};
pub use flow::{Flow, FlowFlags, FlowKey, FlowKind, Queued, TcpState};
pub use fragment::{Fragment, FragmentKey};
pub use layout::LAYOUT;
pub use names::{
    MAX_FLOWS, MAX_FRAGMENTS, MAX_NICS, MAX_PODS, MAX_PREFIXES, MAX_RULES, MAX_SEARCHES, maps,
    programs,
};
pub use net::{Be16, Be32, Mac};
pub use nic::Nic;
pub use pod::{Direct, Pod, Port, Share};
pub use policy::{Action, Judgement, PolicyKey, PolicyState, RuleKey};
pub use reason::Reason;
pub use reserved::ReservedPorts;
pub use search::{Destination, Search};
pub use uplink::{Secret, Timeouts, Uplink};

/// Version of every layout in this crate; the `v<n>` of the pin path.
pub const ABI_VERSION: u32 = 9;
