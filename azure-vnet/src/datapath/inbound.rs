//! Connections that came in before the flow table was there, or the one that is: their replies leave with the pod's address, and
//! would be masqueraded where nobody knows of them. What connection tracking has seen, in the netfilter tier all, is put into the table.

use aya::maps::{HashMap, MapData};
use azure_vnet_abi::{Be16, Flow, FlowKey, FlowKind, Mac, TcpState, Timeouts, maps as names};

use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::{Pod, Uplink, maps, view};
use crate::conntrack::{self, Inbound};
use crate::masquerade::{Action, Packet};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Adopts those of `pods`; before a program sees a packet of them.
pub fn adopt(pins: &Pins, uplink: &Uplink, pods: &[Pod]) -> Result<(), EbpfError> {
    let mut flows: HashMap<MapData, FlowKey, Flow> = maps::open(pins, names::FLOWS)?;
    for pod in pods {
        let inbound = conntrack::inbound(pod.address).unwrap_or_else(|error| {
            tracing::warn!(
                "connections to {} that connection tracking knows are not adopted: {error}",
                pod.address
            );
            Vec::new()
        });
        let most = usize::try_from(uplink.flows_per_pod).unwrap_or(usize::MAX);
        for flow in inbound
            .into_iter()
            .filter(|flow| needs(uplink, flow))
            .take(most)
        {
            let (key, entry) = entry(uplink, pod, flow);
            flows
                .insert(key, entry, 0)
                .map_err(|source| EbpfError::map(names::FLOWS, source))?;
        }
    }
    Ok(())
}

/// Whether what the pod answers would not leave as it is.
fn needs(uplink: &Uplink, flow: &Inbound) -> bool {
    let reply = Packet {
        destination: *flow.from.ip(),
        protocol: flow.protocol,
        port: Some(flow.from.port()),
    };
    let as_pod = [Action::InRange, Action::Exempt];
    matches!(flow.protocol, TCP | UDP) && !as_pod.contains(&uplink.policy.action(&reply))
}

/// As [`FlowKind::INBOUND`] has it: by the reply.
fn entry(uplink: &Uplink, pod: &Pod, flow: Inbound) -> (FlowKey, Flow) {
    let timeouts = Timeouts::from(uplink.timeouts);
    let (seconds, tcp_state) = match flow.protocol {
        TCP => (
            timeouts.tcp_established,
            TcpState::ESTABLISHED | TcpState::HEARD,
        ),
        _ => (timeouts.udp, TcpState::HEARD),
    };
    let port = Be16::from_host(flow.to.port());
    let key = FlowKey::new(
        flow.protocol,
        pod.address.into(),
        port,
        (*flow.from.ip()).into(),
        Be16::from_host(flow.from.port()),
    );
    let timeout = (seconds + 1).saturating_mul(view::hz());
    let mut entry = Flow::new(
        FlowKind::INBOUND,
        pod.address.into(),
        port,
        pod.ifindex,
        Mac(pod.mac.0),
        view::jiffies(),
        timeout,
    );
    entry.tcp_state = tcp_state;
    (key, entry)
}
