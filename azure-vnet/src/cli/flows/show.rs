//! Flows as they are printed: each, how many, or by destination.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

use super::super::table::Table;
use super::{Flow, Kind, Protocol};

/// Each of them.
#[derive(Serialize)]
pub struct Flows {
    pub flows: Vec<Flow>,
}

/// How many there are.
#[derive(Serialize)]
pub struct Count {
    flows: usize,
    by_protocol: BTreeMap<&'static str, usize>,
    by_state: BTreeMap<&'static str, usize>,
}

/// The destinations with most flows.
#[derive(Serialize)]
pub struct Top {
    destinations: Vec<Destination>,
}

#[derive(Serialize)]
struct Destination {
    /// `tcp`, `udp` or `icmp`.
    protocol: Protocol,
    /// The other end.
    remote: Ipv4Addr,
    /// Its port; 0 for ICMP.
    remote_port: u16,
    /// How many masqueraded flows it has.
    flows: usize,
    /// Of how many pods.
    pods: usize,
}

impl Count {
    pub fn of(flows: &[Flow]) -> Self {
        let mut count = Self {
            flows: flows.len(),
            by_protocol: BTreeMap::new(),
            by_state: BTreeMap::new(),
        };
        for flow in flows {
            *count.by_protocol.entry(flow.protocol.name()).or_default() += 1;
            *count.by_state.entry(flow.state.name()).or_default() += 1;
        }
        count
    }
}

impl Top {
    pub fn of(flows: &[Flow], most: usize) -> Self {
        let mut by_destination: BTreeMap<_, (usize, BTreeSet<Ipv4Addr>)> = BTreeMap::new();
        for flow in flows.iter().filter(|flow| flow.kind == Kind::Masqueraded) {
            let key = (flow.protocol, flow.remote, flow.remote_port);
            let (count, pods) = by_destination.entry(key).or_default();
            *count += 1;
            pods.insert(flow.pod);
        }
        let mut destinations: Vec<Destination> = by_destination
            .into_iter()
            .map(
                |((protocol, remote, remote_port), (flows, pods))| Destination {
                    protocol,
                    remote,
                    remote_port,
                    flows,
                    pods: pods.len(),
                },
            )
            .collect();
        // Stable: those with as many stay in the order of their addresses.
        destinations.sort_by_key(|destination| std::cmp::Reverse(destination.flows));
        destinations.truncate(most);
        Self { destinations }
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flows.is_empty() {
            return writeln!(out, "No such flow.");
        }
        let mut table = Table::new(&["", "pod", "remote", "seen as", "state", ">idle"]);
        for flow in &self.flows {
            let seen_as = match flow.kind {
                Kind::Masqueraded => end(flow.protocol, flow.seen_as, flow.seen_port),
                Kind::Inbound => "itself".to_owned(),
            };
            table.row([
                flow.protocol.name().to_owned(),
                end(flow.protocol, flow.pod, flow.pod_port),
                match flow.protocol {
                    Protocol::Icmp => flow.remote.to_string(),
                    protocol => end(protocol, flow.remote, flow.remote_port),
                },
                seen_as,
                flow.state.name().to_owned(),
                flow.idle_seconds.map_or_else(|| "-".into(), duration),
            ]);
        }
        write!(out, "{table}")
    }
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.flows)
    }
}

impl fmt::Display for Top {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.destinations.is_empty() {
            return writeln!(out, "No such flow.");
        }
        let mut table = Table::new(&[">flows", ">pods", "", "destination"]);
        for destination in &self.destinations {
            let Destination {
                protocol,
                remote,
                remote_port,
                ..
            } = destination;
            table.row([
                destination.flows.to_string(),
                destination.pods.to_string(),
                protocol.name().to_owned(),
                match protocol {
                    Protocol::Icmp => remote.to_string(),
                    _ => format!("{remote}:{remote_port}"),
                },
            ]);
        }
        write!(out, "{table}")
    }
}

fn end(protocol: Protocol, address: Ipv4Addr, port: u16) -> String {
    match protocol {
        Protocol::Icmp => format!("{address} id {port}"),
        _ => format!("{address}:{port}"),
    }
}

/// Short, as a column has room for: `9s`, `12m`, `3h`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let shown: Vec<String> = [0, 119, 120, 7199, 7200].map(duration).into();
        assert_eq!(shown, ["0s", "119s", "2m", "119m", "2h"]);
    }
}
