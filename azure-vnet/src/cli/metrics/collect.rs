//! What the metrics are made from.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use azure_vnet_abi::ABI_VERSION;

use super::super::flows::{self, Flow, Kind as FlowKind, Protocol};
use super::super::{output, pool};
use super::exposition::{Kind, Metrics, READABLE};
use crate::datapath::{self, Record, Tier, view};
use crate::health::{Check, Finding, Verdict};
use crate::state;

/// Everything, now, with what the checks found. What cannot be read is left out and said so in the metrics.
pub fn all(findings: &[Finding]) -> Metrics {
    let mut metrics = Metrics::default();
    let abi = ABI_VERSION.to_string();
    metrics
        .metric(
            "azure_vnet_info",
            Kind::Gauge,
            "Version of the plugin and of its maps' layouts.",
        )
        .sample([("version", env!("CARGO_PKG_VERSION")), ("abi", &abi)], 1);
    for (bridge, record) in Record::all() {
        bridge_metrics(&mut metrics, &bridge, &record);
    }
    pool_metrics(&mut metrics);
    check_metrics(&mut metrics, findings);
    metrics
}

/// The worst that each check has found. One that was not asked, because something before it is broken, has no sample.
fn check_metrics(metrics: &mut Metrics, findings: &[Finding]) {
    for check in Check::ALL {
        let found = findings.iter().filter(|it| it.check == *check);
        let Some(worst) = found.map(|it| it.verdict).max() else {
            continue;
        };
        let value = match worst {
            Verdict::Ok => 0,
            Verdict::Warning => 1,
            Verdict::Problem => 2,
        };
        metrics
            .metric(
                "azure_vnet_check",
                Kind::Gauge,
                "What azure-vnet doctor finds: 0 fine, 1 a warning, 2 a problem (docs/checks.md).",
            )
            .sample([("check", check.name())], value);
    }
}

fn bridge_metrics(metrics: &mut Metrics, bridge: &str, record: &Record) {
    let (tier, mechanism) = match record.tier {
        Tier::Ebpf(mechanism) => ("ebpf", mechanism.to_string()),
        Tier::Netfilter => ("netfilter", String::new()),
    };
    metrics
        .metric(
            "azure_vnet_datapath",
            Kind::Gauge,
            "1 for the tier that is in place.",
        )
        .sample(
            [
                ("bridge", bridge),
                ("tier", tier),
                ("mechanism", &mechanism),
            ],
            1,
        );
    metrics
        .metric("azure_vnet_pods", Kind::Gauge, "Attached pods.")
        .sample(
            [("bridge", bridge)],
            number(state::attachments(bridge).map_or(0, |pods| pods.len())),
        );
    if let Tier::Ebpf(_) = record.tier {
        let counted = counters(metrics, bridge);
        readable(metrics, "counters", bridge, &counted);
    }
    let found = flows::of_bridge(bridge).map_err(|failure| failure.to_string());
    let found = found.map(|flows| flow_metrics(metrics, bridge, &flows));
    readable(metrics, "flows", bridge, &found);
}

fn counters(metrics: &mut Metrics, bridge: &str) -> Result<(), String> {
    let counters = datapath::counters(bridge).map_err(|error| error.to_string())?;
    for (reason, packets) in counters {
        let verdict = if reason.passes() { "pass" } else { "drop" };
        let labels = [
            ("bridge", bridge),
            ("reason", reason.name()),
            ("verdict", verdict),
        ];
        metrics
            .metric(
                "azure_vnet_packets_total",
                Kind::Counter,
                "Packets by what became of them.",
            )
            .sample(labels, packets);
    }
    let uplink = view::uplink(bridge).map_err(|error| error.to_string())?;
    if let Some(uplink) = uplink {
        let ports = u64::from(uplink.port_max) + 1 - u64::from(uplink.port_min);
        let reserved = view::reserved_ports(bridge).map_err(|error| error.to_string())?;
        let ports = ports - u64::from(reserved.unwrap_or(0)).min(ports);
        metrics
            .metric(
                "azure_vnet_ports",
                Kind::Gauge,
                "Ports to masquerade with: as many flows can one destination have.",
            )
            .sample([("bridge", bridge)], ports);
        metrics
            .metric(
                "azure_vnet_flows_per_pod_limit",
                Kind::Gauge,
                "Flows that one pod may have.",
            )
            .sample([("bridge", bridge)], uplink.flows_per_pod.into());
    }
    let size = view::flow_table_size(bridge).map_err(|error| error.to_string())?;
    if let Some(size) = size {
        metrics
            .metric(
                "azure_vnet_flow_table_size",
                Kind::Gauge,
                "Entries that the flow table can hold: two for each masqueraded flow, one for each inbound.",
            )
            .sample([("bridge", bridge)], size.into());
    }
    Ok(())
}

fn flow_metrics(metrics: &mut Metrics, bridge: &str, flows: &[Flow]) {
    let mut groups: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    let mut destinations: HashMap<(Protocol, Ipv4Addr, u16), u64> = HashMap::new();
    let mut pods: HashMap<Ipv4Addr, u64> = HashMap::new();
    for flow in flows {
        let kind = match flow.kind {
            FlowKind::Masqueraded => "masqueraded",
            FlowKind::Inbound => "inbound",
        };
        *groups
            .entry((flow.protocol.name(), kind, flow.state.name()))
            .or_default() += 1;
        *pods.entry(flow.pod).or_default() += 1;
        if flow.kind == FlowKind::Masqueraded {
            let destination = (flow.protocol, flow.remote, flow.remote_port);
            *destinations.entry(destination).or_default() += 1;
        }
    }
    for ((protocol, kind, state), count) in groups {
        let labels = [
            ("bridge", bridge),
            ("protocol", protocol),
            ("kind", kind),
            ("state", state),
        ];
        metrics
            .metric("azure_vnet_flows", Kind::Gauge, "Flows in the flow table.")
            .sample(labels, count);
    }
    metrics
        .metric(
            "azure_vnet_flows_of_busiest_destination",
            Kind::Gauge,
            "Masqueraded flows to the one destination that has most; it cannot have more than there are ports.",
        )
        .sample([("bridge", bridge)], destinations.into_values().max().unwrap_or(0));
    metrics
        .metric(
            "azure_vnet_flows_of_busiest_pod",
            Kind::Gauge,
            "Flows of the one pod that has most; in the eBPF tier it cannot have more than azure_vnet_flows_per_pod_limit.",
        )
        .sample([("bridge", bridge)], pods.into_values().max().unwrap_or(0));
}

fn pool_metrics(metrics: &mut Metrics) {
    let report = match pool::read() {
        Ok(Some(report)) => report,
        Ok(None) => return,
        Err(error) => return readable(metrics, "pool", "", &Err(error)),
    };
    for subnet in &report.subnets {
        let name = subnet.subnet.to_string();
        let states = [
            ("in_use", subnet.in_use),
            ("unusable", subnet.unusable),
            ("free", subnet.free),
        ];
        for (state, count) in states {
            metrics
                .metric(
                    "azure_vnet_pool_addresses",
                    Kind::Gauge,
                    "Addresses for pods.",
                )
                .sample([("subnet", &name), ("state", state)], number(count));
        }
    }
    metrics
        .metric(
            "azure_vnet_pool_fetched_timestamp_seconds",
            Kind::Gauge,
            "When the source of the addresses last answered, in seconds since 1970.",
        )
        .sample([], report.fetched_at);
    readable(metrics, "pool", "", &Ok(()));
}

fn readable(metrics: &mut Metrics, part: &str, bridge: &str, result: &Result<(), String>) {
    if let Err(why) = result {
        output::complain(&format!("metrics: {part} {bridge}: {why}"));
    }
    metrics
        .metric(
            READABLE,
            Kind::Gauge,
            "1 for what could be read, 0 for what could not.",
        )
        .sample([("part", part), ("bridge", bridge)], result.is_ok().into());
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
