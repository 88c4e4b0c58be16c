//! What a node costs a packet of an established flow.
//!
//! The sender is in the figure of every way, so the same sender into a sink at the node's first device is taken off, as it is at the same
//! moment. What is left is what happens between the pod's host veth and the fabric, or the NIC and the pod.

use std::net::{SocketAddrV4, UdpSocket};

use anyhow::{Context, Result};
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::{Azure, NETNS_DIR};

use crate::blast::Blast;
use crate::cpu::{NEAR, pinned};
use crate::node::Node;
use crate::series::Series;
use crate::servers::Servers;
use crate::sink::Sink;
use crate::wire::Wire;

/// System calls of a burst.
const CALLS: u32 = 20;
/// Bursts of a sample, of the sender alone and of the whole way.
const PAIRS: u32 = 25;

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

    /// A packet that ends at the pod's host veth.
    fn out(&self, servers: &Servers) -> Result<(Sink<'_>, Blast<'_>)> {
        let sink = Sink::at(self.azure.vms[self.vm].namespace(), "floor")?;
        let _ = &self.sandbox; // holds the namespace of the socket
        Ok((sink, Blast::new(&self.socket, servers.udp())))
    }
}

/// What a packet costs, in the medians of a sample.
pub struct Cost {
    /// Nanoseconds of the sender and the devices before the node.
    pub sender: f64,
    /// What the node adds, in multiples of what the sender takes at that moment.
    pub node: f64,
}

/// A packet from the pod to the fabric.
pub fn out(
    azure: &Azure,
    number: usize,
    node: &Node<'_>,
    servers: &Servers,
    floor: &Floor<'_>,
) -> Result<Cost> {
    node.greet(servers)?;
    let (floor_sink, floor_blast) = floor.out(servers)?;
    let sink = Sink::at(azure.fabric.namespace(), &format!("vm{number}"))?;
    let blast = Blast::new(node.socket(), servers.udp());
    in_turn((&floor_sink, &floor_blast), (&sink, &blast))
        .with_context(|| format!("out of {}", node.subject.variant))
}

/// A packet from outside to the pod; the sender alone ends at a NIC.
pub fn back(
    azure: &Azure,
    number: usize,
    node: &Node<'_>,
    servers: &Servers,
    floor: &Floor<'_>,
) -> Result<Cost> {
    let to = node.greet(servers)?;
    let vm = &azure.vms[floor.vm];
    let floor_sink = Sink::at(vm.namespace(), "eth0")?;
    let floor_wire = Wire::open(azure, floor.vm)?;
    let nowhere = SocketAddrV4::new(vm.nic.primary, 40_000);
    let floor_blast = floor_wire.blast(vm.nic.mac, servers.udp(), nowhere);
    let sink = Sink::at(node.pod(), "eth0")?;
    let wire = Wire::open(azure, number)?;
    let blast = wire.blast(node.mac()?, servers.udp(), to);
    in_turn((&floor_sink, &floor_blast), (&sink, &blast))
        .with_context(|| format!("into {}", node.subject.variant))
}

/// Short bursts, one of the sender alone and one of the whole way, and so on: a machine whose neighbours come and go is not equally fast for
/// long, but two bursts are a few milliseconds.
fn in_turn(alone: (&Sink<'_>, &Blast<'_>), whole: (&Sink<'_>, &Blast<'_>)) -> Result<Cost> {
    pinned(NEAR, || {
        // Neighbours are known and caches warm before the clock runs.
        alone.1.send(CALLS)?;
        whole.1.send(CALLS)?;
        let (mut senders, mut added) = (Series::default(), Series::default());
        let sent = u64::from(PAIRS) * u64::from(CALLS) * u64::from(Blast::BATCH);
        let bursts = || {
            for _ in 0..PAIRS {
                let sender = alone.1.send(CALLS)?;
                let time = whole.1.send(CALLS)?;
                senders.push(sender);
                added.push(time / sender - 1.0);
            }
            Ok(())
        };
        alone.0.all_of(sent, || whole.0.all_of(sent, bursts))?;
        Ok(Cost {
            sender: senders.median(),
            node: added.median(),
        })
    })
}
