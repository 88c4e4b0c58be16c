//! What a node costs a packet of an established flow.
//!
//! The sender is in the figure of every way, so the same sender into a sink at the node's first device is taken off. What is left
//! is what happens between the pod's host veth and the fabric, or the NIC and the pod.

use std::net::{SocketAddrV4, UdpSocket};

use anyhow::{Context, Result};
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::{Azure, NETNS_DIR};

use crate::blast::Blast;
use crate::cpu::{NEAR, pinned};
use crate::node::Node;
use crate::servers::Servers;
use crate::sink::Sink;
use crate::wire::Wire;

/// System calls of a sample.
const CALLS: u32 = 500;

/// The VM that has no pods: what a packet costs before it comes to a node's own work.
pub struct Floor<'a> {
    azure: &'a Azure,
    vm: usize,
    sandbox: Namespace,
    socket: UdpSocket,
}

impl<'a> Floor<'a> {
    pub fn set_up(azure: &'a Azure, number: usize) -> Result<Self> {
        let vm = &azure.vms[number];
        let sandbox = vm.new_sandbox(&format!("{NETNS_DIR}/floor"))?;
        let ip = |namespace: &Namespace, lines: &str| -> Result<()> {
            let ip = namespace.program("ip")?.args(["-batch", "-"]).stdin(lines);
            ip.checked()?;
            Ok(())
        };
        ip(
            vm.namespace(),
            "link add floor address 02:f1:00:00:00:01 type veth peer name eth0 netns floor\nlink set floor up\n",
        )?;
        ip(
            &sandbox,
            "address add 172.22.0.2/24 dev eth0\nlink set eth0 up\n\
             neighbour add 172.22.0.1 lladdr 02:f1:00:00:00:01 nud permanent dev eth0\n\
             route add default via 172.22.0.1\n",
        )?;
        let socket = sandbox.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        Ok(Self {
            azure,
            vm: number,
            sandbox,
            socket,
        })
    }

    /// Nanoseconds of a packet that ends at the pod's host veth.
    pub fn out(&self, servers: &Servers) -> Result<f64> {
        let sink = Sink::at(self.azure.vms[self.vm].namespace(), "floor")?;
        let _ = &self.sandbox; // holds the namespace of the socket
        send(&sink, &Blast::new(&self.socket, servers.udp()))
    }

    /// Nanoseconds of a packet that ends at the NIC.
    pub fn back(&self, servers: &Servers) -> Result<f64> {
        let vm = &self.azure.vms[self.vm];
        let sink = Sink::at(vm.namespace(), "eth0")?;
        let to = SocketAddrV4::new(vm.nic.primary, 40_000);
        let wire = Wire::open(self.azure, self.vm)?;
        send(&sink, &wire.blast(vm.nic.mac, servers.udp(), to))
    }
}

/// Nanoseconds of a packet from the pod to the fabric, the sender's share included.
pub fn out(azure: &Azure, number: usize, node: &Node<'_>, servers: &Servers) -> Result<f64> {
    node.greet(servers)?;
    let sink = Sink::at(azure.fabric.namespace(), &format!("vm{number}"))?;
    send(&sink, &Blast::new(node.socket(), servers.udp()))
        .with_context(|| format!("out of {}", node.subject.variant))
}

/// Nanoseconds of a packet from outside to the pod, the sender's share included.
pub fn back(azure: &Azure, number: usize, node: &Node<'_>, servers: &Servers) -> Result<f64> {
    let to = node.greet(servers)?;
    let sink = Sink::at(node.pod(), "eth0")?;
    let wire = Wire::open(azure, number)?;
    send(&sink, &wire.blast(node.mac()?, servers.udp(), to))
        .with_context(|| format!("into {}", node.subject.variant))
}

fn send(sink: &Sink<'_>, blast: &Blast<'_>) -> Result<f64> {
    // Neighbours are known and caches warm before the clock runs.
    pinned(NEAR, || {
        blast.send(20)?;
        sink.all_of(|| blast.send(CALLS))
    })
}
