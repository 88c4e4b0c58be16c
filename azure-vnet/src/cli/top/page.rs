//! The page: what two looks come to.

use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

use super::super::bridges;
use super::super::flows::Protocol;
use super::super::table::Table;
use super::look::{Look, Traffic};

/// How many destinations are shown.
const DESTINATIONS: usize = 5;
/// A pod's name is cut here, so that the page fits 80 columns.
const NAME: usize = 24;

/// What the pods of a node do.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The bridges, each with its flows.
    bridges: Vec<Network>,
    /// The addresses, by subnet.
    pool: Vec<Addresses>,
    /// The pods; those with most traffic first.
    pods: Vec<Pod>,
    /// What is dropped, by reason; what rises most first.
    drops: Vec<Drops>,
    /// The destinations with most masqueraded flows.
    destinations: Vec<Destination>,
}

#[derive(Debug, Serialize)]
struct Network {
    /// Its name.
    bridge: String,
    /// What masquerades.
    tier: String,
    /// Flows of all its pods.
    flows: u64,
    /// How full its flow table is, in percent; null in the netfilter tier.
    table_percent: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Addresses {
    /// The subnet.
    subnet: String,
    /// How many addresses pods have.
    in_use: usize,
    /// How many the next pods can have.
    free: usize,
}

#[derive(Debug, Serialize)]
struct Pod {
    /// What people call it.
    name: String,
    /// Its address.
    address: Ipv4Addr,
    /// Bytes a second that it sends, as its link counts; null for a link that is gone, or new.
    sent: Option<u64>,
    /// Bytes a second that it gets.
    got: Option<u64>,
    /// Packets a second both ways.
    packets: Option<u64>,
    /// Its flows.
    flows: u64,
    /// How much of its share of the flow table that is, in percent; null in the netfilter tier.
    share_percent: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Drops {
    /// The bridge.
    bridge: String,
    /// Why.
    reason: &'static str,
    /// Packets a second.
    rate: u64,
    /// Packets since the maps were made.
    packets: u64,
}

#[derive(Debug, Serialize)]
struct Destination {
    /// `tcp`, `udp` or `icmp`.
    protocol: Protocol,
    /// The other end.
    remote: Ipv4Addr,
    /// Its port; 0 for ICMP.
    remote_port: u16,
    /// Masqueraded flows.
    flows: u64,
    /// How much of the ports that one destination may have that is, in percent; null in the netfilter tier.
    ports_percent: Option<u64>,
}

impl Page {
    /// What has happened between two looks.
    pub fn between(before: &Look, now: &Look) -> Self {
        let elapsed = now.when.duration_since(before.when).as_millis().max(1);
        let rate = |before: u64, now: u64| {
            let more = u128::from(now.saturating_sub(before)) * 1000 / elapsed;
            u64::try_from(more).unwrap_or(u64::MAX)
        };
        let bridges = now.bridges.iter().map(|it| Network {
            bridge: it.name.clone(),
            tier: it.tier.to_string(),
            flows: it.of_pods.values().sum(),
            table_percent: it.table.map(|(used, size)| percent(used, size)),
        });
        let subnets = now.pool.iter().flat_map(|pool| &pool.subnets);
        let subnets = subnets.map(|it| Addresses {
            subnet: it.subnet.to_string(),
            in_use: it.in_use,
            free: it.free,
        });
        let drops = now.drops.iter().filter(|(_, packets)| **packets > 0);
        let drops = drops.map(|((bridge, reason), packets)| Drops {
            bridge: bridge.clone(),
            reason,
            rate: rate(
                before
                    .drops
                    .get(&(bridge.clone(), *reason))
                    .copied()
                    .unwrap_or(*packets),
                *packets,
            ),
            packets: *packets,
        });
        let mut page = Self {
            bridges: bridges.collect(),
            pool: subnets.collect(),
            pods: pods(before, now, &rate),
            drops: drops.collect(),
            destinations: destinations(now),
        };
        page.drops
            .sort_by_key(|it| std::cmp::Reverse((it.rate, it.packets)));
        page
    }
}

fn pods(before: &Look, now: &Look, rate: &dyn Fn(u64, u64) -> u64) -> Vec<Pod> {
    let pods = now.pods.iter().map(|(pod, traffic)| {
        let was = before
            .pods
            .iter()
            .find(|(it, _)| it.host_veth == pod.host_veth)
            .and_then(|(_, traffic)| *traffic);
        let both = was.zip(*traffic);
        let of = |what: fn(&Traffic) -> u64| both.map(|(was, is)| rate(what(&was), what(&is)));
        let bridge = now.bridges.iter().find(|it| it.name == pod.bridge);
        let flows = bridge.and_then(|it| it.of_pods.get(&pod.address)).copied();
        let flows = flows.unwrap_or(0);
        let share = bridge.and_then(|it| it.share);
        Pod {
            name: bridges::label(pod),
            address: pod.address,
            sent: of(|it| it.sent),
            got: of(|it| it.got),
            packets: of(|it| it.packets),
            flows,
            share_percent: share.map(|share| percent(flows, share)),
        }
    });
    let mut pods: Vec<Pod> = pods.collect();
    pods.sort_by_key(|it| {
        let bytes = it.sent.unwrap_or(0).saturating_add(it.got.unwrap_or(0));
        (std::cmp::Reverse(bytes), it.address)
    });
    pods
}

fn destinations(now: &Look) -> Vec<Destination> {
    let all = now.bridges.iter().flat_map(|bridge| {
        let of_bridge = bridge.of_destinations.iter();
        of_bridge.map(|((protocol, remote, port), flows)| Destination {
            protocol: *protocol,
            remote: *remote,
            remote_port: *port,
            flows: *flows,
            ports_percent: bridge.ports.map(|ports| percent(*flows, ports)),
        })
    });
    let mut all: Vec<Destination> = all.collect();
    all.sort_by_key(|it| std::cmp::Reverse(it.flows));
    all.truncate(DESTINATIONS);
    all
}

fn percent(used: u64, of: u64) -> u64 {
    (used * 100).checked_div(of).unwrap_or(0)
}

impl fmt::Display for Page {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bridges.is_empty() {
            return writeln!(out, "not set up yet, as no pod was attached since boot");
        }
        for it in &self.bridges {
            let table = it
                .table_percent
                .map(|full| format!(", flow table {full} % full"));
            let (bridge, tier, flows) = (&it.bridge, &it.tier, it.flows);
            let table = table.unwrap_or_default();
            writeln!(out, "{bridge}: {tier}, {flows} flows{table}")?;
        }
        for it in &self.pool {
            let Addresses {
                subnet,
                in_use,
                free,
            } = it;
            writeln!(out, "pool {subnet}: {in_use} addresses in use, {free} free")?;
        }
        let mut table = Table::new(&[
            "pod",
            "address",
            ">sent/s",
            ">got/s",
            ">packets/s",
            ">flows",
            ">share",
        ]);
        for it in &self.pods {
            table.row([
                it.name.chars().take(NAME).collect(),
                it.address.to_string(),
                it.sent.map_or_else(unknown, bytes),
                it.got.map_or_else(unknown, bytes),
                it.packets.map_or_else(unknown, |it| it.to_string()),
                it.flows.to_string(),
                it.share_percent
                    .map_or_else(unknown, |it| format!("{it} %")),
            ]);
        }
        write!(out, "\n{table}")?;
        if !self.drops.is_empty() {
            let mut table = Table::new(&["dropped", "bridge", ">packets/s", ">packets"]);
            for it in &self.drops {
                let (rate, packets) = (it.rate.to_string(), it.packets.to_string());
                table.row([it.reason.to_owned(), it.bridge.clone(), rate, packets]);
            }
            write!(out, "\n{table}")?;
        }
        if !self.destinations.is_empty() {
            let mut table = Table::new(&["destination", ">flows", ">ports"]);
            for it in &self.destinations {
                table.row([
                    format!("{} {}:{}", it.protocol.name(), it.remote, it.remote_port),
                    it.flows.to_string(),
                    it.ports_percent
                        .map_or_else(unknown, |it| format!("{it} %")),
                ]);
            }
            write!(out, "\n{table}")?;
        }
        Ok(())
    }
}

fn unknown() -> String {
    "-".to_owned()
}

/// In the unit that leaves at most four digits.
fn bytes(count: u64) -> String {
    let mut count = count;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if count < 10_000 {
            break;
        }
        (count, unit) = (count / 1000, larger);
    }
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes_stay_short() {
        for (count, text) in [
            (0, "0 B"),
            (9_999, "9999 B"),
            (10_000, "10 kB"),
            (12_345_678, "12 MB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
