//! A node with two pods, a port of its bridge that is nobody's, and taps wherever a frame may come.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::{Mac, PEERED};
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::packet_socket::{Tap, packet_socket};
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, Vm};
use serde_json::{Value, json};
use socket2::Socket;

use super::Way;
use super::frame::{Frame, is_icmp, source_of, udp};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Out of range, and closed by a rule of the policy.
pub const CLOSED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

/// The source address with which a packet was seen at each place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Where the bridge hands it to the node.
    pub router: Option<Ipv4Addr>,
    /// At the second pod.
    pub neighbour: Option<Ipv4Addr>,
    /// At the fabric.
    pub fabric: Option<Ipv4Addr>,
}

impl Seen {
    pub const NOWHERE: Self = Self {
        router: None,
        neighbour: None,
        fabric: None,
    };

    pub fn by_router(source: Ipv4Addr) -> Self {
        Self {
            router: Some(source),
            ..Self::NOWHERE
        }
    }

    pub fn and_fabric(self, source: Ipv4Addr) -> Self {
        Self {
            fabric: Some(source),
            ..self
        }
    }

    pub fn and_neighbour(self, source: Ipv4Addr) -> Self {
        Self {
            neighbour: Some(source),
            ..self
        }
    }
}

/// Somebody who sends.
pub struct Sender {
    pub address: Ipv4Addr,
    pub mac: Mac,
    socket: Socket,
    /// What comes to it.
    pub tap: Tap,
}

pub struct Field<'a> {
    pub vm: &'a Vm,
    pub pod: Sender,
    pub neighbour: Sender,
    /// At a port of the bridge that we know nothing of.
    pub stranger: Sender,
    router: Tap,
    fabric: Tap,
    _pods: [Pod<'a>; 2],
    _stranger: Namespace,
}

/// A simulated Azure whose VM goes this way.
pub fn azure(way: Way) -> Azure {
    let mut azure = Azure::builder().build().unwrap();
    if !way.hidden().is_empty() {
        azure.vms[0].replace_programs(way.hidden()).unwrap();
    }
    azure
}

impl<'a> Field<'a> {
    pub fn new(azure: &'a Azure) -> Self {
        let vm = &azure.vms[0];
        let masquerade = json!({
            "datapath": "netfilter", "rules": [{ "to": format!("{CLOSED}/32"), "action": "drop" }],
        });
        let list = Conflist::shipped().with_setting("azure-vnet", "masquerade", &masquerade);
        let pods =
            ["pod", "neighbour"].map(|name| vm.add_pod(&list, &PodSpec::named(name)).unwrap());
        let (stranger, sender) = stranger(vm);
        let field = Self {
            vm,
            pod: Sender::new(pods[0].namespace(), pods[0].address),
            neighbour: Sender::new(pods[1].namespace(), pods[1].address),
            stranger: sender,
            router: tap(vm.namespace(), Some("azure0")),
            fabric: tap(azure.fabric.namespace(), None),
            _pods: pods,
            _stranger: stranger,
        };
        // The node learns the gateway's MAC.
        field.fence(&field.pod, &mut Vec::new());
        field.wait_for_stranger();
        field
    }

    /// A port takes part from some time after it is up.
    fn wait_for_stranger(&self) {
        let key = key();
        let packet = udp(self.stranger.address, PEERED, &key);
        let frame = Frame::ipv4(self.stranger.mac, packet);
        let deadline = Instant::now() + LIMIT;
        while !holds(&self.router.frames().unwrap(), &key) {
            assert!(Instant::now() < deadline, "the stranger's port is not up");
            self.stranger.send(&frame);
            sleep(Duration::from_millis(5));
        }
    }

    /// Sends a frame that holds `key`, and says where it was seen; waits for what is expected, and otherwise until what was
    /// sent behind it has come.
    pub fn seen(&self, from: &Sender, key: &[u8], frame: &Frame, expected: Seen) -> Seen {
        self.watched(from, key, || from.send(frame), expected)
    }

    /// The same of what somebody else sends.
    pub fn seen_of(&self, key: &[u8], send: impl FnOnce(), expected: Seen) -> Seen {
        self.watched(&self.pod, key, send, expected)
    }

    fn watched(&self, from: &Sender, key: &[u8], send: impl FnOnce(), expected: Seen) -> Seen {
        let places = [&self.router, &self.neighbour.tap, &self.fabric];
        for place in places {
            place.frames().unwrap();
        }
        send();
        let mut frames = [Vec::new(), Vec::new(), Vec::new()];
        self.fence(from, &mut frames[2]);
        let deadline = Instant::now() + LIMIT;
        loop {
            for (place, frames) in places.iter().zip(&mut frames) {
                frames.extend(place.frames().unwrap());
            }
            let [router, neighbour, fabric] = frames.each_ref().map(|frames| {
                let ours = frames.iter().find(|frame| {
                    !is_icmp(frame) && frame.windows(key.len()).any(|bytes| bytes == key)
                });
                ours.and_then(|frame| source_of(frame))
            });
            let seen = Seen {
                router,
                neighbour,
                fabric,
            };
            if seen == expected || Instant::now() > deadline {
                return seen;
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a packet that passes is at the fabric; what else came there is kept.
    pub fn fence(&self, from: &Sender, kept: &mut Vec<Vec<u8>>) {
        let key = key();
        // Without a wall a stranger's does not pass.
        let from = if from.address == self.stranger.address {
            &self.pod
        } else {
            from
        };
        let packet = udp(from.address, PEERED, &key);
        from.send(&Frame::ipv4(from.mac, packet));
        let deadline = Instant::now() + LIMIT;
        loop {
            let frames = self.fabric.frames().unwrap();
            let is_there = holds(&frames, &key);
            kept.extend(frames);
            if is_there {
                return;
            }
            assert!(Instant::now() < deadline, "the fence did not come");
            sleep(Duration::from_millis(1));
        }
    }

    /// As a person types it on the node.
    pub fn run(&self, line: &str) -> String {
        run(self.vm.namespace(), line)
    }

    /// What the router gets of ARP, and what comes back to the sender.
    pub fn arp(&self, from: &Sender, frame: &Frame) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        for place in [&self.router, &from.tap] {
            place.frames().unwrap();
        }
        from.send(frame);
        self.fence(from, &mut Vec::new());
        sleep(Duration::from_millis(20));
        [&self.router, &from.tap]
            .map(|place| {
                let mut frames = place.frames().unwrap();
                frames.retain(|frame| super::frame::is_arp(frame));
                frames
            })
            .into()
    }
}

impl Sender {
    fn new(namespace: &Namespace, address: Ipv4Addr) -> Self {
        let socket = namespace.run(|| packet_socket("eth0")).unwrap().unwrap();
        let text = run(namespace, "ip -j link show eth0");
        let links: Value = serde_json::from_str(&text).unwrap();
        let bytes = links[0]["address"].as_str().unwrap().split(':');
        let bytes: Vec<u8> = bytes
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        Self {
            address,
            mac: Mac(bytes.try_into().unwrap()),
            socket,
            tap: tap(namespace, Some("eth0")),
        }
    }

    pub fn send(&self, frame: &Frame) {
        self.socket.send(&frame.bytes()).unwrap();
    }
}

fn holds(frames: &[Vec<u8>], key: &[u8]) -> bool {
    let mut bytes = frames.iter().flat_map(|frame| frame.windows(key.len()));
    bytes.any(|bytes| bytes == key)
}

/// Something that no other frame has.
pub fn key() -> Vec<u8> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("<key {number:06}>").into_bytes()
}

/// A port of the bridge that others made, with the last address of the pool.
fn stranger(vm: &Vm) -> (Namespace, Sender) {
    let address = *vm.nic.pool.last().unwrap();
    let namespace = Namespace::network().unwrap();
    let peer = namespace.net_path();
    for line in [
        format!("ip link add other0 type veth peer name eth0 netns {peer}"),
        "ip link set other0 master azure0 up".into(),
    ] {
        run(vm.namespace(), &line);
    }
    run(&namespace, "ip link set eth0 up");
    let sender = Sender::new(&namespace, address);
    let mac = sender.mac;
    for line in [
        format!("bridge fdb replace {mac} dev other0 master static"),
        format!("ip neigh replace {address} lladdr {mac} dev azure0 nud permanent"),
        format!("ip route add {address}/32 dev azure0 metric 20"),
    ] {
        run(vm.namespace(), &line);
    }
    (namespace, sender)
}

fn tap(namespace: &Namespace, device: Option<&str>) -> Tap {
    namespace.run(|| Tap::start(device)).unwrap().unwrap()
}

pub fn run(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split(' ');
    let program = namespace.program(words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap()
}
