//! Whether there is room for one more flow: in the pod's share, among the ports to one destination, in the flow table.

use azure_vnet_abi::{Flow, FlowKey, FlowKind, Reason};

use super::super::Failure;
use super::{Explanation, reason};
use crate::datapath::{EbpfError, view};

/// What there is no room in, and how full it is.
pub fn lacking(asked: &Explanation) -> Result<Option<(Reason, String)>, Failure> {
    let failed = |error: EbpfError| Failure::of(&error);
    let bridge = &asked.bridge;
    let uplink = view::uplink(bridge).map_err(failed)?.unwrap_or_default();
    let flows = view::flows(bridge).map_err(failed)?;
    let share = view::share(bridge, asked.pod).map_err(failed)?.unwrap_or(0);
    let room = view::flow_table_size(bridge).map_err(failed)?.unwrap_or(0);
    let reserved = view::reserved_ports(bridge).map_err(failed)?.unwrap_or(0);
    let ports = u32::from(uplink.port_max) + 1 - u32::from(uplink.port_min);

    let share = Level::new(
        usize::try_from(share).unwrap_or(0),
        uplink.flows_per_pod,
        "flows of the pod",
    );
    let ports = Level::new(
        in_use(asked, &flows),
        ports.saturating_sub(reserved),
        "ports to this destination",
    );
    // A masqueraded flow has two entries.
    let table = Level::new(flows.len() + 1, room, "entries of the flow table");
    let levels = [
        (Reason::PodFlowLimit, share),
        (Reason::NoPortFound, ports),
        (Reason::FlowTableFull, table),
    ];
    let lacking = levels
        .into_iter()
        .find(|(_, level)| level.used >= level.most);
    Ok(lacking.map(|(reason, Level { used, most, what })| {
        let meaning = reason::meaning(reason);
        (reason, format!("{meaning} ({what}: {used} of {most})"))
    }))
}

struct Level {
    used: usize,
    most: usize,
    what: &'static str,
}

impl Level {
    fn new(used: usize, most: u32, what: &'static str) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self { used, most, what }
    }
}

/// Ports that live flows of all pods have towards the destination.
fn in_use(asked: &Explanation, flows: &[(FlowKey, Flow)]) -> usize {
    let now = view::jiffies();
    let is_there = |(key, flow): &&(FlowKey, Flow)| {
        let from = (key.protocol, key.source.into(), key.source_port.to_host());
        flow.kind == FlowKind::UNMASQUERADE
            && from == (asked.protocol.number(), asked.to, asked.to_port)
            && !flow.is_over(now)
    };
    flows.iter().filter(is_there).count()
}
