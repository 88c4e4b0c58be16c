//! Every kind of traffic a pod takes part in, and the source address that the other side must see.
//!
//! What is expected comes from the address plan alone; what is seen comes from the far side alone.

mod nobody;
mod node;
mod services;

pub use nobody::late_packets;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::Type;

use crate::address_plan::{IMDS, WIRESERVER};
use crate::azure::{Azure, PLATFORM_REPORT_PORT};
use crate::exchange::{ask, get_logged, ping, ping_host};
use crate::host::{Host, REPORT_PORT};
use crate::icmp::Witness;
use crate::namespace::Namespace;
use crate::pod::Pod;
use crate::reporter::Reporter;
use crate::{Error, imds, wireserver};

/// The port of the node that must lead to [`REPORT_PORT`] of the first pod.
pub const HOST_PORT: u16 = 8080;
/// The port on which the node reports what it saw.
const KUBELET_PORT: u16 = 10250;

/// One kind of traffic.
#[derive(Debug)]
pub struct Row {
    /// What was tried.
    pub kind: String,
    /// Who started it.
    pub from: Ipv4Addr,
    /// Where to; port 0 for a ping.
    pub to: SocketAddrV4,
    /// What the far side must see.
    pub expected: Seen,
    /// What it saw, or why the exchange failed. A source means that the answer came back as well.
    pub seen: io::Result<Seen>,
}

/// What the far side sees of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// This source.
    From(Ipv4Addr),
    /// Nothing: there is nobody, and nothing of the packet comes back to the fabric.
    Nothing,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(source) => f.pad(&source.to_string()),
            Self::Nothing => f.pad("nothing"),
        }
    }
}

impl Row {
    /// Whether it went as it must.
    pub fn ok(&self) -> bool {
        self.seen.as_ref().is_ok_and(|seen| *seen == self.expected)
    }
}

/// Pods on two VMs, each with a reporter, and the node of the first.
#[derive(Debug)]
pub struct Scenario<'a> {
    azure: &'a Azure,
    pods: &'a [Pod<'a>],
    remote: &'a [Pod<'a>],
    _reporters: Vec<Reporter>,
}

impl<'a> Scenario<'a> {
    /// Starts the reporters, and makes the first VM a node with kube-proxy, a local address and a load balancer before it. `pods` are
    /// on VM 0, the first with [`HOST_PORT`] mapped; `remote` are on VM 1. Neither may be empty. To be called once.
    pub fn new(
        azure: &'a Azure,
        pods: &'a [Pod<'a>],
        remote: &'a [Pod<'a>],
    ) -> Result<Self, Error> {
        let failed = |source| Error::Setup {
            what: "start the reporters of the pods".into(),
            source,
        };
        let in_pod = |pod: &Pod<'_>| Reporter::start(pod.namespace(), &[pod.address], REPORT_PORT);
        let mut reporters = pods
            .iter()
            .chain(remote)
            .map(in_pod)
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed)?;
        let node = &azure.vms[0];
        reporters.push(
            Reporter::start(node.namespace(), &[node.nic.primary], KUBELET_PORT).map_err(failed)?,
        );
        reporters.push(node::start(node)?);
        services::start(azure, &pods[0], &remote[0])?;
        Ok(Self {
            azure,
            pods,
            remote,
            _reporters: reporters,
        })
    }

    /// All kinds, tried one after the other. With a single pod on VM 0 there is no row for the same node.
    pub fn rows(&self) -> Vec<Row> {
        let rows = [
            self.same_node(),
            Some(self.other_vm()),
            Some(self.peered_vnet()),
            Some(self.on_prem()),
            Some(self.internet_tcp()),
            Some(self.internet_udp()),
            Some(self.internet_ping()),
            Some(self.platform_udp()),
            Some(self.platform_http()),
            Some(self.metadata()),
            Some(self.node_to_pod()),
            Some(self.pod_to_node()),
            Some(self.other_node_to_pod()),
            Some(self.health_probe()),
            Some(self.host_port()),
            Some(self.inbound_tcp()),
            Some(self.inbound_udp()),
            Some(self.inbound_ping()),
            Some(self.node_to_internet()),
        ];
        rows.into_iter()
            .flatten()
            .chain(self.every_pod_to_internet())
            .chain(self.every_pod_to_other_vm())
            .chain(services::rows(self))
            .chain(node::rows(self))
            .chain(nobody::rows(self))
            .collect()
    }

    fn same_node(&self) -> Option<Row> {
        let neighbour = self.pods.get(1)?;
        Some(self.pod_tcp(
            "pod to pod, same node",
            report_of(neighbour),
            self.pod().address,
        ))
    }

    fn other_vm(&self) -> Row {
        self.pod_tcp(
            "pod to pod, other VM",
            report_of(&self.remote[0]),
            self.pod().address,
        )
    }

    fn peered_vnet(&self) -> Row {
        self.pod_tcp(
            "pod to peered VNet",
            report_of_host(&self.azure.peered),
            self.pod().address,
        )
    }

    fn on_prem(&self) -> Row {
        self.pod_tcp(
            "pod to on-premises",
            report_of_host(&self.azure.on_prem),
            self.pod().address,
        )
    }

    fn internet_tcp(&self) -> Row {
        self.pod_tcp(
            "pod to internet, TCP",
            report_of_host(&self.azure.internet),
            self.primary(),
        )
    }

    fn internet_udp(&self) -> Row {
        let to = SocketAddrV4::new(self.azure.internet.addresses[1], REPORT_PORT);
        let seen = ask(Type::DGRAM, self.pod().namespace(), None, to);
        row(
            "pod to internet, UDP",
            self.pod().address,
            to,
            self.primary(),
            seen,
        )
    }

    fn internet_ping(&self) -> Row {
        let internet = &self.azure.internet;
        let seen = ping_host(self.pod().namespace(), internet);
        row(
            "pod to internet, ping",
            self.pod().address,
            SocketAddrV4::new(internet.address(), 0),
            self.primary(),
            seen,
        )
    }

    fn platform_udp(&self) -> Row {
        let to = SocketAddrV4::new(WIRESERVER, PLATFORM_REPORT_PORT);
        let seen = ask(Type::DGRAM, self.pod().namespace(), None, to);
        row(
            "pod to 168.63.129.16, UDP",
            self.pod().address,
            to,
            self.pod().address,
            seen,
        )
    }

    fn platform_http(&self) -> Row {
        let seen = get_logged(
            self.pod().namespace(),
            WIRESERVER,
            wireserver::TARGET,
            || self.azure.wireserver_log(),
        );
        row(
            "pod to 168.63.129.16, HTTP",
            self.pod().address,
            SocketAddrV4::new(WIRESERVER, 80),
            self.pod().address,
            seen,
        )
    }

    fn metadata(&self) -> Row {
        let seen = get_logged(self.pod().namespace(), IMDS, imds::TARGET, || {
            self.azure.imds_log()
        });
        row(
            "pod to metadata (IMDS)",
            self.pod().address,
            SocketAddrV4::new(IMDS, 80),
            self.primary(),
            seen,
        )
    }

    fn node_to_pod(&self) -> Row {
        let node = self.azure.vms[0].namespace();
        tcp(
            "node to its pod",
            node,
            self.primary(),
            report_of(self.pod()),
            self.primary(),
        )
    }

    fn pod_to_node(&self) -> Row {
        self.pod_tcp(
            "pod to its node",
            SocketAddrV4::new(self.primary(), KUBELET_PORT),
            self.pod().address,
        )
    }

    fn other_node_to_pod(&self) -> Row {
        let other = &self.azure.vms[1];
        tcp(
            "other node to pod",
            other.namespace(),
            other.nic.primary,
            report_of(self.pod()),
            other.nic.primary,
        )
    }

    fn health_probe(&self) -> Row {
        let to = report_of(self.pod());
        let seen = ask(
            Type::STREAM,
            self.azure.fabric.namespace(),
            Some(WIRESERVER),
            to,
        );
        row("health probe to pod", WIRESERVER, to, WIRESERVER, seen)
    }

    fn host_port(&self) -> Row {
        self.internet_asks(
            "internet to hostPort",
            Type::STREAM,
            SocketAddrV4::new(self.primary(), HOST_PORT),
        )
    }

    fn inbound_tcp(&self) -> Row {
        self.internet_asks(
            "internet to pod, TCP, and reply",
            Type::STREAM,
            report_of(self.pod()),
        )
    }

    fn inbound_udp(&self) -> Row {
        self.internet_asks(
            "internet to pod, UDP, and reply",
            Type::DGRAM,
            report_of(self.pod()),
        )
    }

    fn inbound_ping(&self) -> Row {
        let (pod, internet) = (self.pod(), &self.azure.internet);
        let seen = Witness::start(pod.namespace())
            .and_then(|witness| ping(internet.namespace(), pod.address, &witness));
        row(
            "internet to pod, ping, and reply",
            internet.address(),
            SocketAddrV4::new(pod.address, 0),
            internet.address(),
            seen,
        )
    }

    fn node_to_internet(&self) -> Row {
        let node = self.azure.vms[0].namespace();
        tcp(
            "node to internet",
            node,
            self.primary(),
            report_of_host(&self.azure.internet),
            self.primary(),
        )
    }

    fn every_pod_to_internet(&self) -> Option<Row> {
        let kind = format!(
            "each of {} pods to internet",
            self.pods.len() + self.remote.len()
        );
        let to = SocketAddrV4::new(self.azure.internet.addresses[2], REPORT_PORT);
        let pods = self.pods.iter().chain(self.remote);
        summary(pods.map(|pod| tcp(&kind, pod.namespace(), pod.address, to, pod.vm.nic.primary)))
    }

    /// Each pod of the larger side calls one of the other.
    fn every_pod_to_other_vm(&self) -> Option<Row> {
        let (many, few) = if self.pods.len() < self.remote.len() {
            (self.remote, self.pods)
        } else {
            (self.pods, self.remote)
        };
        let kind = format!("each of {} pods to other VM", many.len());
        let pairs = many.iter().zip(few.iter().cycle());
        summary(pairs.map(|(from, to)| {
            tcp(
                &kind,
                from.namespace(),
                from.address,
                report_of(to),
                from.address,
            )
        }))
    }

    fn pod_tcp(&self, kind: &str, to: SocketAddrV4, expected: Ipv4Addr) -> Row {
        tcp(
            kind,
            self.pod().namespace(),
            self.pod().address,
            to,
            expected,
        )
    }

    fn internet_asks(&self, kind: &str, protocol: Type, to: SocketAddrV4) -> Row {
        let source = self.azure.internet.address();
        let seen = ask(protocol, self.azure.internet.namespace(), Some(source), to);
        row(kind, source, to, source, seen)
    }

    fn pod(&self) -> &Pod<'a> {
        &self.pods[0]
    }

    fn primary(&self) -> Ipv4Addr {
        self.azure.vms[0].nic.primary
    }
}

fn tcp(
    kind: &str,
    namespace: &Namespace,
    from: Ipv4Addr,
    to: SocketAddrV4,
    expected: Ipv4Addr,
) -> Row {
    row(
        kind,
        from,
        to,
        expected,
        ask(Type::STREAM, namespace, None, to),
    )
}

fn row(
    kind: &str,
    from: Ipv4Addr,
    to: SocketAddrV4,
    expected: Ipv4Addr,
    seen: io::Result<Ipv4Addr>,
) -> Row {
    Row {
        kind: kind.to_owned(),
        from,
        to,
        expected: Seen::From(expected),
        seen: seen.map(Seen::From),
    }
}

/// Somebody who asks.
struct Asker<'a> {
    name: &'static str,
    namespace: &'a Namespace,
    /// What a far side sees of it that nothing is translated for.
    address: Ipv4Addr,
}

impl Asker<'_> {
    /// A row of what the far side sees when it asks.
    fn asks(&self, what: &str, protocol: Type, to: SocketAddrV4, expected: Ipv4Addr) -> Row {
        let suffix = if protocol == Type::DGRAM { ", UDP" } else { "" };
        let kind = format!("{} to {what}{suffix}", self.name);
        let seen = ask(protocol, self.namespace, None, to);
        row(&kind, self.address, to, expected, seen)
    }
}

impl Scenario<'_> {
    fn internet(&self) -> Asker<'_> {
        let host = &self.azure.internet;
        asker("internet", host.namespace(), host.address())
    }

    fn other_node(&self) -> Asker<'_> {
        let vm = &self.azure.vms[1];
        asker("other VM", vm.namespace(), vm.nic.primary)
    }

    fn node(&self) -> Asker<'_> {
        let vm = &self.azure.vms[0];
        asker("node", vm.namespace(), vm.nic.primary)
    }

    fn first_pod(&self) -> Asker<'_> {
        asker("pod", self.pod().namespace(), self.pod().address)
    }

    /// A pod of the node beside the first, if there is one.
    fn neighbour(&self) -> Option<Asker<'_>> {
        let pod = self.pods.get(1)?;
        Some(asker("pod", pod.namespace(), pod.address))
    }

    fn remote_pod(&self) -> Asker<'_> {
        let pod = &self.remote[0];
        asker("pod of other VM", pod.namespace(), pod.address)
    }
}

fn asker<'a>(name: &'static str, namespace: &'a Namespace, address: Ipv4Addr) -> Asker<'a> {
    Asker {
        name,
        namespace,
        address,
    }
}

/// One row for many of a kind: the first that deviates, or else the last.
fn summary(rows: impl Iterator<Item = Row>) -> Option<Row> {
    let mut last = None;
    for row in rows {
        if !row.ok() {
            return Some(row);
        }
        last = Some(row);
    }
    last
}

fn report_of(pod: &Pod<'_>) -> SocketAddrV4 {
    SocketAddrV4::new(pod.address, REPORT_PORT)
}

fn report_of_host(host: &Host) -> SocketAddrV4 {
    SocketAddrV4::new(host.address(), REPORT_PORT)
}
