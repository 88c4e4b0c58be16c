//! A node with two pods, a port of its bridge that is nobody's, and taps wherever a frame may come: for tests of what passes, frame by
//! frame, in each tier. What fails here fails the test.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a fixture fails as its test does, by panicking"
)]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::Socket;

use crate::address_plan::{Mac, PEERED};
use crate::conflist::Conflist;
use crate::frame::{Frame, is_arp, is_icmp, source_of, udp};
use crate::namespace::Namespace;
use crate::packet_socket::{Tap, packet_socket};
use crate::pod::{Pod, PodSpec};
use crate::{Azure, Builder, PLUGIN_DIR, Vm};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Out of range, and closed by a rule of the policy.
pub const CLOSED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

/// What judges the frames of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The programs, attached by TCX.
    Tcx,
    /// The programs, attached by `cls_bpf`.
    ClsBpf,
    /// Rules of nft.
    Nft,
    /// Rules of iptables and ebtables.
    Iptables,
    /// Rules of iptables: there is no wall.
    IptablesAlone,
}

impl Tier {
    /// Those that mean the same.
    pub const WALLED: [Self; 4] = [Self::Tcx, Self::ClsBpf, Self::Nft, Self::Iptables];
    /// Those of them that are rules.
    pub const RULES: [Self; 2] = [Self::Nft, Self::Iptables];

    /// Whether it is programs.
    pub fn is_ebpf(self) -> bool {
        matches!(self, Self::Tcx | Self::ClsBpf)
    }

    /// A simulated Azure whose VM has this tier.
    pub fn azure(self) -> Azure {
        self.azure_with(Azure::builder())
    }

    /// The same of another size.
    pub fn azure_with(self, builder: Builder) -> Azure {
        let mut azure = builder.build().unwrap();
        let vm = &mut azure.vms[0];
        match self {
            Self::Tcx | Self::Nft => {}
            Self::ClsBpf => vm.set_environment("AZURE_VNET_FORCE_CLS_BPF", "1"),
            Self::Iptables => vm.replace_programs(&[("nft", None)]).unwrap(),
            Self::IptablesAlone => {
                let hidden = ["nft", "ebtables-restore", "ebtables-save"].map(|it| (it, None));
                vm.replace_programs(&hidden).unwrap();
            }
        }
        azure
    }

    /// The shipped list with this tier. One destination is [`CLOSED`].
    pub fn list(self, fast_path: bool) -> Conflist {
        let masquerade = json!({
            "datapath": if self.is_ebpf() { "ebpf" } else { "netfilter" },
            "fastPath": fast_path,
            "rules": [{ "to": format!("{CLOSED}/32"), "action": "drop" }],
        });
        Conflist::shipped().with_setting("azure-vnet", "masquerade", &masquerade)
    }
}

/// The source address with which a packet was seen at each place, 0.0.0.0 for what is neither IPv4 nor ARP.
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
    /// It was seen at none of them.
    pub const NOWHERE: Self = Self {
        router: None,
        neighbour: None,
        fabric: None,
    };

    /// It came to the node.
    pub fn by_router(source: Ipv4Addr) -> Self {
        Self {
            router: Some(source),
            ..Self::NOWHERE
        }
    }

    /// And to the fabric.
    #[must_use]
    pub fn and_fabric(self, source: Ipv4Addr) -> Self {
        Self {
            fabric: Some(source),
            ..self
        }
    }

    /// And to the second pod.
    #[must_use]
    pub fn and_neighbour(self, source: Ipv4Addr) -> Self {
        Self {
            neighbour: Some(source),
            ..self
        }
    }
}

/// Somebody who sends.
#[derive(Debug)]
pub struct Sender {
    /// Its address.
    pub address: Ipv4Addr,
    /// The MAC of its interface.
    pub mac: Mac,
    socket: Socket,
    /// What comes to it.
    pub tap: Tap,
}

/// The node with all that.
#[derive(Debug)]
pub struct Field<'a> {
    /// The node.
    pub vm: &'a Vm,
    /// What judges.
    pub tier: Tier,
    /// The pod that sends.
    pub pod: Sender,
    /// The pod that should not hear of it.
    pub neighbour: Sender,
    /// At a port of the bridge that we know nothing of.
    pub stranger: Sender,
    router: Tap,
    fabric: Tap,
    /// The pods that the senders are.
    pub pods: [Pod<'a>; 2],
    _stranger: Namespace,
}

impl<'a> Field<'a> {
    /// Makes it of the first VM, all of whose packets go the slow way.
    pub fn new(azure: &'a Azure, tier: Tier) -> Self {
        Self::with(azure, tier, &tier.list(false))
    }

    /// The same with a list of its own.
    pub fn with(azure: &'a Azure, tier: Tier, list: &Conflist) -> Self {
        let vm = &azure.vms[0];
        let pods =
            ["pod", "neighbour"].map(|name| vm.add_pod(list, &PodSpec::named(name)).unwrap());
        let (stranger, sender) = stranger(vm);
        let field = Self {
            vm,
            tier,
            pod: Sender::new(pods[0].namespace(), pods[0].address),
            neighbour: Sender::new(pods[1].namespace(), pods[1].address),
            stranger: sender,
            router: tap(vm.namespace(), Some("azure0")),
            fabric: tap(azure.fabric.namespace(), None),
            pods,
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
                // Of other types than IPv4 and ARP it is nobody's.
                ours.map(|frame| source_of(frame).unwrap_or(Ipv4Addr::UNSPECIFIED))
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

    /// What came to the node by the bridge since the last look.
    pub fn to_router(&self) -> Vec<Vec<u8>> {
        self.router.frames().unwrap()
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
        let frame = Frame::ipv4(from.mac, udp(from.address, PEERED, &key));
        let deadline = Instant::now() + LIMIT;
        let mut next = Instant::now();
        loop {
            if Instant::now() >= next {
                // One that came into a full queue is lost.
                from.send(&frame);
                next = Instant::now() + Duration::from_millis(200);
            }
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

    /// How many packets were dropped for this reason. Rules of ebtables only tell IPv6 from the rest.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.counted(reason, true)
    }

    /// How many packets that are not for our rules or programs to drop were counted for this reason. Rules of iptables count none.
    pub fn passed(&self, reason: &str) -> u64 {
        self.counted(reason, false)
    }

    fn counted(&self, reason: &str, dropped: bool) -> u64 {
        match self.tier {
            Tier::Tcx | Tier::ClsBpf => {
                let text = self.run(&format!("{PLUGIN_DIR}/azure-vnet status --json"));
                let status: Value = serde_json::from_str(&text).unwrap();
                let counters = status["bridges"][0]["counters"].as_array().unwrap();
                let counter = counters.iter().find(|it| it["reason"] == reason).unwrap();
                assert_eq!(counter["dropped"], dropped, "{reason}");
                counter["packets"].as_u64().unwrap()
            }
            Tier::Nft => {
                let text = self.run("nft -j list ruleset");
                let listing: Value = serde_json::from_str(&text).unwrap();
                let rules = listing["nftables"].as_array().unwrap().iter();
                let ours = rules.filter(|it| it["rule"]["comment"] == reason);
                ours.flat_map(|it| it["rule"]["expr"].as_array().unwrap())
                    .filter_map(|it| it["counter"]["packets"].as_u64())
                    .sum()
            }
            Tier::Iptables | Tier::IptablesAlone => {
                let text = self.run("ebtables -t nat -L --Lc");
                let is_of = |rule: &str| rule.ends_with("-p IPv6 ") == (reason == "ipv6");
                let drops = text.lines().filter_map(|line| line.split_once("-j DROP"));
                let counts = drops.filter(|(rule, _)| is_of(rule));
                let counts =
                    counts.filter_map(|(_, rest)| rest.split(' ').nth(4)?.parse::<u64>().ok());
                counts.sum()
            }
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
                frames.retain(|frame| is_arp(frame));
                frames
            })
            .into()
    }
}

impl Sender {
    /// Somebody with this address behind `eth0` of a namespace.
    pub fn new(namespace: &Namespace, address: Ipv4Addr) -> Self {
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

    /// Sends a frame.
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

/// The same in any namespace.
pub fn run(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split(' ');
    let program = namespace.program(words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap()
}
