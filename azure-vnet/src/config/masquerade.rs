//! The `masquerade` object: who sees a pod's own address, and who the node's.
//!
//! | key | default | |
//! |---|---|---|
//! | `datapath` | `"auto"` | `"ebpf"`, `"netfilter"`; `"off"`: nothing is masqueraded and nothing closed |
//! | `nonMasqueradeCIDRs` | `["10.0.0.0/8"]` | Ranges that see the pod's address. The pool's own subnet is always one |
//! | `masqLinkLocal` | `true` | 169.254.0.0/16 sees the node's address; `false` makes it a range |
//! | `preset` | `"classic"` | Rules for the platform addresses, by name: see [`Preset`] |
//! | `rules` | `[]` | Exceptions, see below |
//! | `ports` | `"auto"` | Ports to masquerade with, such as `"10240-29999"` |
//! | `timeouts` | `{"tcpOpening": 120, "tcpEstablished": 7440, "tcpClosing": 120, "udp": 120, "icmp": 60}` | Seconds without a packet after which a flow is over (eBPF tier) |
//! | `flowsPerPod` | `131072` | How many flows one pod may have (eBPF tier), up to 262144 |
//! | `fastPath` | `true` | Established flows go past bridge, routing and netfilter where nobody there needs them |
//!
//! A rule is an object of `to` (a prefix, or one address), `action` (`"exempt"`: the pod's address;
//! `"masquerade"`: the node's; `"drop"`: the packet does not leave) and optionally `proto` (`"tcp"`,
//! `"udp"`, `"icmp"` or a protocol number) and `port` (a number, or a range such as `"8000-8999"`; without
//! `proto` of TCP and UDP alike).
//!
//! Of all ranges and rules that match a packet, the one with the longest prefix decides. For the same
//! prefix a rule with a port comes before one with a protocol only, that before one with neither, and
//! that before a range; of equals the first in the list, and the list before the preset.
//!
//! # ip-masq-agent
//! Files `/etc/config/ip-masq*` are read when there are any. Their `nonMasqueradeCIDRs` are united with
//! those that stand here; if none stand here, they replace the default, so that an empty list in a
//! file leaves the pool's subnet as the only range. Their `masqLinkLocal` (false unless a file sets it) is
//! OR-ed with the one here, and replaces the default likewise. `preset` and `rules` go on top.

use std::ops::RangeInclusive;

use azure_vnet_abi::{MAX_FLOWS, Uplink};
use ipnet::Ipv4Net;
use serde_json::Value;

use super::sent::SentMasquerade;
use crate::datapath::Wanted;
use crate::masquerade::{MOST_PREFIXES, MOST_RULE_ENTRIES, MOST_RULES, Preset, Source, Timeouts};
use crate::ports::{self, Ports};

mod rule;
mod timeouts;

/// The `masquerade` object, checked.
#[derive(Clone, Debug)]
pub struct Masquerade {
    /// Which tier.
    pub datapath: Wanted,
    /// Ports that masqueraded flows are sent from.
    pub ports: Ports,
    /// When idle flows end.
    pub timeouts: Timeouts,
    /// How many flows a pod may have.
    pub flows_per_pod: u32,
    /// Whether established flows pass bridge and netfilter by.
    pub fast_path: bool,
    /// What the policy is made of.
    pub policy: Source,
}

impl Masquerade {
    /// First and last port to masquerade with on this node, as it is now; why there are none is the eBPF tier's concern alone.
    pub fn port_range(&self) -> Result<(u16, u16), ports::Error> {
        let local = ports::local_range();
        match self.policy {
            Source::Off => Ok(self.ports.choose_unused(&local)),
            Source::On { .. } => self.ports.choose(&local),
        }
    }
}

/// What is wrong with the object, all of it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Problems(Vec<String>);

/// Reads the object; every problem names its path.
pub fn read(sent: SentMasquerade) -> Result<Masquerade, Problems> {
    let mut problems = Problems(Vec::new());
    let (datapath, off) = datapath(sent.datapath.as_deref(), &mut problems);
    let ranges = sent
        .non_masquerade_cidrs
        .map(|value| ranges(&value, &mut problems));
    let preset = preset(sent.preset.as_deref(), &mut problems);
    let mut rules = sent
        .rules
        .map(|value| rule::read(&value, &mut problems))
        .unwrap_or_default();
    rules.extend(preset.rules());
    let ports = Ports::read(sent.ports.as_deref())
        .map_err(|error| problems.note("ports", &error))
        .unwrap_or(Ports::Auto);
    let timeouts = sent
        .timeouts
        .map(|value| timeouts::read(&value, &mut problems))
        .unwrap_or_default();
    let flows_per_pod = sent
        .flows_per_pod
        .map_or(Uplink::DEFAULT_FLOWS_PER_POD, |value| {
            flows_per_pod(&value, &mut problems)
        });
    problems.limit(
        "nonMasqueradeCIDRs",
        ranges.as_ref().map_or(0, Vec::len),
        MOST_PREFIXES / 4,
    );
    problems.limit("rules", rules.len(), MOST_RULES);
    // What is too much is not compiled.
    if !problems.0.is_empty() {
        return Err(problems);
    }
    let policy = if off {
        Source::Off
    } else {
        Source::On {
            ranges,
            link_local: sent.masq_link_local,
            rules,
        }
    };
    let entries = policy
        .policy(Ipv4Net::default(), None)
        .compile()
        .rule_entries();
    if entries > MOST_RULE_ENTRIES {
        problems.note("rules", format!("their ports take {entries} entries of the kernel's map, and {MOST_RULE_ENTRIES} are the most: use fewer or rounder ranges of ports"));
    }
    if !problems.0.is_empty() {
        return Err(problems);
    }
    Ok(Masquerade {
        datapath,
        ports,
        timeouts,
        flows_per_pod,
        fast_path: sent.fast_path.unwrap_or(true),
        policy,
    })
}

impl Problems {
    fn note(&mut self, path: &str, what: impl std::fmt::Display) {
        self.0.push(format!("masquerade.{path}: {what}"));
    }

    fn limit(&mut self, path: &str, count: usize, most: usize) {
        if count > most {
            self.note(path, format!("{count} entries, and {most} are the most"));
        }
    }
}

fn datapath(sent: Option<&str>, problems: &mut Problems) -> (Wanted, bool) {
    match sent {
        None | Some("auto") => (Wanted::Auto, false),
        Some("ebpf") => (Wanted::Ebpf, false),
        Some("netfilter") => (Wanted::Netfilter, false),
        Some("off") => (Wanted::Auto, true),
        Some(other) => {
            let known = "one of \"auto\", \"ebpf\", \"netfilter\", \"off\"";
            problems.note("datapath", format!("\"{other}\": {known}"));
            (Wanted::Auto, false)
        }
    }
}

fn preset(sent: Option<&str>, problems: &mut Problems) -> Preset {
    let Some(name) = sent else {
        return Preset::default();
    };
    Preset::named(name).unwrap_or_else(|| {
        let known = Preset::NAMES.map(|(known, _)| format!("\"{known}\""));
        problems.note("preset", format!("\"{name}\": one of {}", known.join(", ")));
        Preset::default()
    })
}

/// From one to all that the flow table has room for.
fn flows_per_pod(value: &Value, problems: &mut Problems) -> u32 {
    const MOST: u32 = MAX_FLOWS / 2;
    number(value, 1..=MOST).unwrap_or_else(|| {
        problems.note(
            "flowsPerPod",
            format!("{value} is not a number from 1 to {MOST}"),
        );
        Uplink::DEFAULT_FLOWS_PER_POD
    })
}

/// A whole number within `limits`.
fn number(value: &Value, limits: RangeInclusive<u32>) -> Option<u32> {
    let number = u32::try_from(value.as_u64()?).ok()?;
    limits.contains(&number).then_some(number)
}

fn ranges(value: &Value, problems: &mut Problems) -> Vec<Ipv4Net> {
    let Some(items) = value.as_array() else {
        problems.note("nonMasqueradeCIDRs", format!("{value} is not a list"));
        return Vec::new();
    };
    let mut ranges = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("nonMasqueradeCIDRs[{index}]");
        ranges.extend(prefix(item, &path, problems));
    }
    ranges
}

/// A prefix; an address alone means itself.
fn prefix(value: &Value, path: &str, problems: &mut Problems) -> Option<Ipv4Net> {
    let read = match value.as_str() {
        Some(text) => crate::masquerade::agent::range(text),
        None => Err(format!("{value} is not a text such as \"10.0.0.0/8\"")),
    };
    read.map_err(|what| problems.note(path, what)).ok()
}
