//! A VM of the simulated Azure on which pods reach the fabric in one of the ways that are compared.

mod bare;
mod by_hand;
mod flows;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use azure_vnet_testbed::address_plan::Mac;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, CONFIG_DIR, Vm};
use serde_json::{Value, json};

pub use by_hand::batch;

use crate::servers::Servers;
use crate::variant::{Subject, Variant};
use crate::wire;

/// The pod's port of the flow that is measured.
const PORT: u16 = 40_000;
/// The bridge of our own variants.
const BRIDGE: &str = "azure0";

/// A node with its pods, and a flow that has been answered.
pub struct Node<'a> {
    pub subject: Subject,
    /// Live flows that it really has beside the measured one.
    pub flows: u32,
    vm: &'a Vm,
    pods: Vec<Attached<'a>>,
    socket: UdpSocket,
}

/// A pod, however it came to the node.
enum Attached<'a> {
    ByPlugin(Box<Pod<'a>>),
    ByHand(Namespace),
    /// None.
    OfNode(&'a Vm),
}

impl Attached<'_> {
    fn namespace(&self) -> &Namespace {
        match self {
            Self::ByPlugin(pod) => pod.namespace(),
            Self::ByHand(namespace) => namespace,
            Self::OfNode(vm) => vm.namespace(),
        }
    }
}

impl<'a> Node<'a> {
    /// Sets the VM number `number` up and makes the flow.
    pub fn set_up(
        azure: &'a Azure,
        number: usize,
        subject: Subject,
        servers: &Servers,
    ) -> Result<Self> {
        let vm = &azure.vms[number];
        let pods = match subject.variant {
            Variant::Plain | Variant::Iptables => by_hand::bridged(azure, number, subject)?,
            Variant::Flowtable => by_hand::with_flowtable(vm, subject)?,
            Variant::Reference => with_plugins(vm, subject, &reference())?,
            Variant::Bare => bare::with_redirects(vm)?,
            Variant::Host => vec![Attached::OfNode(vm)],
            Variant::Netfilter | Variant::Shaped => with_plugins(vm, subject, &ours(subject))?,
            Variant::Ebpf { .. } => {
                // Where runtimes have it: without it there may be a plugin that shapes.
                let path = format!("{CONFIG_DIR}/10-bench.conflist");
                vm.write_file(&path, &ours(subject).to_json())?;
                with_plugins(vm, subject, &ours(subject))?
            }
        };
        let pod = pods.first().context("no pod")?;
        let socket = pod
            .namespace()
            .run(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut node = Self {
            subject,
            flows: 0,
            vm,
            pods,
            socket,
        };
        let seen = node.greet(servers)?;
        node.flows = flows::fill(&node, servers, seen)?;
        Ok(node)
    }

    /// The pod that is measured.
    pub fn pod(&self) -> &Namespace {
        self.pods[0].namespace()
    }

    /// The flow's socket in the pod.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends one packet on the flow and waits for the answer, which holds the source that the far side saw: where its packets go.
    pub fn greet(&self, servers: &Servers) -> Result<SocketAddrV4> {
        let what = || {
            format!(
                "no answer from outside to a pod of {}",
                self.subject.variant
            )
        };
        self.socket.send_to(b"hello", servers.udp())?;
        let mut answer = [0; 64];
        let length = self.socket.recv(&mut answer).with_context(what)?;
        let seen = String::from_utf8_lossy(&answer[..length]).into_owned();
        seen.parse()
            .with_context(|| format!("strange answer {seen:?}"))
    }

    /// Where the fabric sends the pod's packets.
    pub fn mac(&self) -> Result<Mac> {
        if self.subject.variant != Variant::Plain {
            return Ok(self.vm.nic.mac);
        }
        let ip = self.pod().program("ip")?;
        let listing = ip.args(["-j", "link", "show", "dev", "eth0"]).checked()?;
        let listing: Value = serde_json::from_str(&listing)?;
        let text = listing[0]["address"].as_str().unwrap_or_default();
        wire::mac(text).with_context(|| format!("{text:?} is no MAC address"))
    }

    /// The address that the pod's own interface has.
    fn address(&self) -> Result<Ipv4Addr> {
        let ip = self.pod().program("ip")?;
        let listing = ip
            .args(["-j", "-4", "address", "show", "dev", "eth0"])
            .checked()?;
        let listing: Value = serde_json::from_str(&listing)?;
        let address = listing[0]["addr_info"][0]["local"].as_str();
        address
            .and_then(|address| address.parse().ok())
            .context("the pod has no address")
    }
}

fn with_plugins<'a>(vm: &'a Vm, subject: Subject, list: &Conflist) -> Result<Vec<Attached<'a>>> {
    let add = |number| {
        let spec = PodSpec {
            loopback: false,
            ..PodSpec::named(&format!("pod{number}"))
        };
        let pod = vm.add_pod(list, &spec);
        let what = || format!("ADD of pod {number} of {}", subject.variant);
        Ok(Attached::ByPlugin(Box::new(pod.with_context(what)?)))
    };
    (0..subject.scale.pods).map(add).collect()
}

fn ours(subject: Subject) -> Conflist {
    let (datapath, fast) = match subject.variant {
        Variant::Ebpf { fast, .. } => ("ebpf", fast),
        Variant::Shaped => ("ebpf", true),
        _ => ("netfilter", true),
    };
    let masquerade = json!({
        "datapath": datapath, "fastPath": fast, "nonMasqueradeCIDRs": subject.scale.prefixes(),
    });
    list(&json!({
        "type": "azure-vnet", "mode": "bridge", "bridge": BRIDGE,
        "ipam": { "type": "azure-vnet-ipam" }, "masquerade": masquerade,
    }))
}

/// Pods of their own range, as that plugin has them: their addresses are the node's business alone.
fn reference() -> Conflist {
    let ranges = json!([[{ "subnet": "172.20.0.0/23" }]]);
    let routes = json!([{ "dst": "0.0.0.0/0" }]);
    list(&json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
        "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
    }))
}

#[expect(clippy::expect_used, reason = "made of constants")]
fn list(plugin: &Value) -> Conflist {
    let list = json!({ "cniVersion": "0.3.1", "name": "bench", "plugins": [plugin] });
    Conflist::parse(&list.to_string()).expect("a list of one plugin with a type")
}
