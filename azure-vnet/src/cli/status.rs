//! `azure-vnet status`: what is in place on this node.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use crate::datapath::{self, Record, Tier};
use crate::state;

#[derive(Serialize)]
struct Status {
    bridges: Vec<Bridge>,
}

#[derive(Serialize)]
struct Bridge {
    name: String,
    tier: Tier,
    /// Why it is not eBPF, if that was tried.
    why: Option<String>,
    pods: usize,
    /// Packets by reason; only the eBPF tier counts.
    counters: Vec<Counter>,
}

#[derive(Serialize)]
struct Counter {
    reason: &'static str,
    dropped: bool,
    packets: u64,
}

/// Prints the status; fails if something that should be there cannot be read.
pub fn run(json: bool) -> ExitCode {
    let status = Status {
        bridges: Record::all()
            .into_iter()
            .map(|(name, record)| bridge(name, record))
            .collect(),
    };
    let text = if json {
        serde_json::to_string(&status).unwrap_or_default()
    } else {
        status.to_string()
    };
    match super::writeln_stdout(text.trim_end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn bridge(name: String, record: Record) -> Bridge {
    let counters = match record.tier {
        Tier::Ebpf(_) => datapath::counters(&name).unwrap_or_else(|error| {
            tracing::warn!("no counters of {name}: {error}");
            Vec::new()
        }),
        Tier::Netfilter => Vec::new(),
    };
    Bridge {
        pods: state::attachments(&name).len(),
        tier: record.tier,
        why: record.why,
        counters: counters
            .into_iter()
            .map(|(reason, packets)| Counter {
                reason: reason.name(),
                dropped: !reason.passes(),
                packets,
            })
            .collect(),
        name,
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bridges.is_empty() {
            writeln!(formatter, "No pod has been attached since the node booted.")?;
        }
        for bridge in &self.bridges {
            let Bridge {
                name, tier, pods, ..
            } = bridge;
            writeln!(formatter, "{name}: {tier}, {pods} pods")?;
            if let Some(why) = &bridge.why {
                writeln!(formatter, "  eBPF cannot be used: {why}")?;
            }
            for counter in bridge.counters.iter().filter(|counter| counter.packets > 0) {
                let mark = if counter.dropped { "  dropped" } else { "" };
                writeln!(
                    formatter,
                    "  {:<22}{:>12}{mark}",
                    counter.reason, counter.packets
                )?;
            }
        }
        Ok(())
    }
}
