//! The programs between real devices, as the node has them: what a test run cannot show. A frame goes in at the pod's
//! end of a veth, or at the fabric's end of the NIC, and is looked for where it has to come out.
//!
//! ```text
//! web-pod ── web ──┐                        ┌── fabric
//!                  azure0 ── routing ── nic ┘
//! db-pod ── db ────┤
//! other-pod ─ other┘   (no program)
//! ```

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::programs::TcAttachType;
use aya::programs::tc::SchedClassifierLink;
use azure_vnet::datapath::counts_behind_veths;
use azure_vnet_abi::{Direct, FlowFlags, Mac, Reason, programs};
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::packet_socket::{
    Observer, Offloaded, offloading_socket, packet_socket, vnet_header,
};
use bytes::Bytes;

use crate::flows::Tuple;
use crate::harness::Node;
use crate::oracle::checksum;
use crate::packet::{ACK, Arp, Packet, SYN, ethernet, tagged, tcp, udp};
use crate::plan::{
    BRIDGE_IFINDEX, BROADCAST, DATABASE, FABRIC, KEPT, NIC, NIC_IFINDEX, NODE, Pod, REMOTE,
    REPLACED, WEB,
};
use crate::refusal::prohibited;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
/// What netfilter puts in the place of a pod's address, as for the floating address of a load balancer.
const FLOATING: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Behind a port that is nobody's.
const STRANGER: Pod = Pod {
    address: Ipv4Addr::new(10, 240, 0, 99),
    mac: Mac([0x0a, 0, 0, 0, 0, 0x63]),
    ifindex: 104,
    container: 0,
};
/// An address that is nobody's, which netfilter translates.
const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 10), 53);
const NEW_MAC: Mac = Mac([0x0a, 0, 0, 0, 0, 0x99]);
const SERVER: (Ipv4Addr, u16) = (REMOTE, 53);

/// A node with its devices.
struct Devices {
    node: Node,
    namespace: Namespace,
    _attached: Vec<SchedClassifierLink>,
}

impl Devices {
    fn new(mut node: Node) -> Self {
        let namespace = Namespace::network().expect("these tests need root (CAP_SYS_ADMIN)");
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
        ] {
            let set = || std::fs::write(format!("/proc/sys/net/{key}"), value);
            namespace.run(set).unwrap().unwrap();
        }
        let run = |program: &str, line: &str| {
            let program = namespace.program(program).unwrap();
            program.args(line.split(' ')).checked().unwrap();
        };
        let ip = |line: &str| run("ip", line);
        let (fabric, nic) = (text(FABRIC), text(NIC));
        ip("link set lo up");
        ip(&format!(
            "link add azure0 index {BRIDGE_IFINDEX} address {fabric} type bridge mcast_snooping 0"
        ));
        ip(&format!(
            "link add nic index {NIC_IFINDEX} address {nic} type veth peer name fabric"
        ));
        for link in ["azure0", "nic", "fabric"] {
            ip(&format!("link set {link} up"));
        }
        ip("address add 169.254.1.1/32 scope host dev azure0");
        ip(&format!("address add {NODE}/16 dev nic"));
        ip(&format!(
            "neighbour add {GATEWAY} lladdr {fabric} dev nic nud permanent"
        ));
        ip(&format!("route add default via {GATEWAY} dev nic"));
        for (name, pod) in [("web", WEB), ("db", DATABASE), ("other", STRANGER)] {
            let Pod {
                address, ifindex, ..
            } = pod;
            let mac = text(pod.mac);
            ip(&format!(
                "link add {name} index {ifindex} type veth peer name {name}-pod"
            ));
            ip(&format!("link set {name} master azure0 up"));
            ip(&format!("link set {name}-pod up"));
            run(
                "bridge",
                &format!(
                    "link set dev {name} learning off flood off mcast_flood off bcast_flood off hairpin on"
                ),
            );
            run(
                "bridge",
                &format!("fdb replace {mac} dev {name} master static"),
            );
            ip(&format!("route add {address}/32 dev azure0 src {NODE}"));
            ip(&format!(
                "neighbour add {address} lladdr {mac} dev azure0 nud permanent"
            ));
        }
        let attached = namespace
            .run(|| {
                let places = [
                    (programs::FROM_POD, "web", TcAttachType::Ingress),
                    (programs::FROM_POD, "db", TcAttachType::Ingress),
                    (programs::TO_PODS, "azure0", TcAttachType::Egress),
                    (programs::FROM_UPLINK, "nic", TcAttachType::Ingress),
                    (programs::TO_UPLINK, "nic", TcAttachType::Egress),
                ];
                places
                    .map(|(program, device, direction)| node.attach(program, device, direction))
                    .into()
            })
            .unwrap();
        Self {
            node,
            namespace,
            _attached: attached,
        }
    }

    fn send(&self, device: &str, frame: impl Into<Bytes>) {
        let socket = self
            .namespace
            .run(|| packet_socket(device))
            .unwrap()
            .unwrap();
        socket.send(&frame.into()).unwrap();
    }

    fn load(&self, rules: &str) {
        let nft = self.namespace.program("nft").unwrap();
        nft.args(["-f", "-"]).stdin(rules).checked().unwrap();
    }

    /// Sends a frame into one device and waits for it, as it has to be, at another.
    #[track_caller]
    fn carries(&self, from: &str, frame: impl Into<Bytes>, to: &str, expected: impl Into<Bytes>) {
        let expected = expected.into();
        let observer = self.namespace.run(|| Observer::start(to)).unwrap().unwrap();
        self.send(from, frame);
        let mut seen = Vec::new();
        let is_there = eventually(|| {
            seen.extend(
                observer
                    .frames()
                    .unwrap()
                    .into_iter()
                    .map(|(_, frame)| frame),
            );
            seen.iter().any(|frame| frame[..] == expected[..])
        });
        assert!(
            is_there,
            "no\n{:02x?} at {to}, but\n{seen:02x?}; counted: {:?}",
            &expected[..],
            self.counted()
        );
    }

    /// Waits until so many packets have been counted under a reason.
    #[track_caller]
    fn counts(&self, reason: Reason, packets: u64) {
        assert!(
            eventually(|| self.node.packets(reason) == packets),
            "{} is not {packets}: {:?}",
            reason.name(),
            self.counted()
        );
    }

    fn counted(&self) -> Vec<(&'static str, u64)> {
        let counters = self.node.counters().into_iter();
        let counted = counters.filter(|(_, packets)| *packets > 0);
        counted
            .map(|(reason, packets)| (reason.name(), packets))
            .collect()
    }

    /// Moves a device into a namespace of its own.
    fn move_away(&self, device: &str) -> Namespace {
        let other = Namespace::network().unwrap();
        let ip = |namespace: &Namespace, line: &str| {
            let program = namespace.program("ip").unwrap();
            program.args(line.split(' ')).checked().unwrap();
        };
        let path = other.net_path();
        ip(&self.namespace, &format!("link set {device} netns {path}"));
        ip(&other, &format!("link set {device} up"));
        other
    }

    /// How many frames the other end of a veth was given.
    fn received(&self, device: &str) -> u64 {
        count(&self.namespace, device, "rx")
    }
}

/// What a device has counted, received (`rx`) or sent (`tx`).
fn count(namespace: &Namespace, device: &str, way: &str) -> u64 {
    let program = namespace.program("ip").unwrap();
    let text = program
        .args(["-j", "-s", "link", "show", device])
        .checked()
        .unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"][way]["packets"].as_u64().unwrap()
}

fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        sleep(Duration::from_millis(5));
    }
}

fn text(mac: Mac) -> String {
    mac.0.map(|byte| format!("{byte:02x}")).join(":")
}

fn slow() -> Node {
    let mut node = Node::new();
    node.set_fast_path(false);
    node
}

#[test]
fn a_flow_is_masqueraded_and_its_replies_delivered() {
    for node in [Node::new(), slow()] {
        let devices = Devices::new(node);
        let local = (WEB.address, REPLACED);
        let sent = udp(local, SERVER);
        devices.send("web-pod", &sent.clone().of(&WEB));
        devices.counts(Reason::FlowCreated, 1);
        let tuple = Tuple::udp(local, SERVER);
        let public = (NODE, devices.node.flow(tuple).port.to_host());
        for _ in 0..2 {
            devices.carries(
                "web-pod",
                &sent.clone().of(&WEB),
                "fabric",
                &sent.clone().source(public).leaving().routed(),
            );
            let reply = udp(SERVER, public);
            devices.carries(
                "fabric",
                &reply,
                "web-pod",
                &reply.clone().destination(local).entering(&WEB).routed(),
            );
        }
    }
}

/// The first packet is judged on the slow path, by the note of its CPU and the queue that it says it came by.
#[test]
fn a_routed_flow_becomes_fast() {
    let devices = Devices::new(Node::new());
    let sent = udp((WEB.address, KEPT), SERVER).of(&WEB);
    devices.send("web-pod", &sent);
    devices.counts(Reason::FlowCreated, 1);
    devices.send("web-pod", &sent);
    devices.counts(Reason::MasqueradedFast, 1);
    devices.send("fabric", &udp(SERVER, (NODE, KEPT)));
    devices.counts(Reason::UnmasqueradedFast, 1);
}

/// Past the host's end of its veth, which is seen by the counter of what that end has sent. The pod's own counter is the one that
/// says what it got: it has to count on every kernel on which packets are sent so.
#[test]
fn a_reply_goes_straight_to_the_pods_end_where_nobody_stands_before_it() {
    for (direct, past) in [
        (Some(Direct::YES), true),
        (Some(Direct::HELD_BACK), false),
        (None, false),
    ] {
        let mut node = Node::new();
        if let Some(direct) = direct {
            node.set_direct(WEB.ifindex, direct);
        }
        let devices = Devices::new(node);
        let pod = devices.move_away("web-pod");
        let local = (WEB.address, KEPT);
        let sent = udp(local, SERVER);
        let out = pod.run(|| packet_socket("web-pod")).unwrap().unwrap();
        let sent = Bytes::from(&sent.of(&WEB));
        // The device was set up just now, and takes frames a while later.
        let is_created = || {
            out.send(&sent).unwrap();
            devices.node.packets(Reason::FlowCreated) == 1
        };
        assert!(eventually(is_created), "{:?}", devices.counted());
        let observer = pod.run(|| Observer::start("web-pod")).unwrap().unwrap();
        let counters = || {
            (
                count(&devices.namespace, "web", "tx"),
                count(&pod, "web-pod", "rx"),
            )
        };
        let before = counters();
        let reply = udp(SERVER, (NODE, KEPT));
        devices.send("fabric", &reply);
        let expected = Bytes::from(&reply.destination(local).entering(&WEB).routed());
        let mut seen = Vec::new();
        let is_there = || {
            seen.extend(observer.frames().unwrap().into_iter().map(|(_, it)| it));
            seen.iter().any(|frame| frame[..] == expected[..])
        };
        assert!(eventually(is_there), "{direct:?}: {:?}", devices.counted());
        devices.counts(Reason::UnmasqueradedFast, 1);
        let (sent_by_host, got) = counters();
        let sent_by_host = sent_by_host - before.0;
        assert_eq!(sent_by_host, u64::from(!past), "{direct:?}");
        if !past || counts_behind_veths() {
            assert_eq!(got - before.1, 1, "{direct:?}");
        }
    }
}

/// Replies to an interface go to its own veth, whichever veth the container sends by: past netfilter they would go one way only.
#[test]
fn what_a_container_sends_by_another_of_its_interfaces_stays_slow() {
    let second = Pod {
        address: Ipv4Addr::new(10, 240, 0, 12),
        ifindex: 105,
        ..WEB
    };
    let mut node = Node::new();
    node.add_pod(&second);
    let devices = Devices::new(node);
    let local = (second.address, KEPT);
    devices.send("web-pod", &udp(local, SERVER).of(&WEB));
    devices.counts(Reason::FlowCreated, 1);
    let flags = devices.node.flow(Tuple::udp(local, SERVER)).flags;
    assert_eq!(flags & FlowFlags::FAST, 0);
}

#[test]
fn pods_of_the_node_reach_each_other_by_the_router() {
    let devices = Devices::new(Node::new());
    let sent = tcp((WEB.address, KEPT), (DATABASE.address, 443), SYN);
    for to in [FABRIC, DATABASE.mac, NIC] {
        devices.carries(
            "web-pod",
            &sent.clone().frame(WEB.mac, to),
            "db-pod",
            &sent.clone().entering(&DATABASE).routed(),
        );
    }
}

/// The neighbour entry and the bridge's table have the MAC that the pod began with.
#[test]
fn a_pod_that_changed_its_mac_is_found() {
    let devices = Devices::new(Node::new());
    let asks = udp((WEB.address, 53), (DATABASE.address, 53));
    devices.carries(
        "web-pod",
        &asks.clone().frame(NEW_MAC, FABRIC),
        "db-pod",
        &asks.entering(&DATABASE).routed(),
    );
    let answers = udp((DATABASE.address, 53), (WEB.address, 53));
    devices.carries(
        "db-pod",
        &answers.clone().of(&DATABASE),
        "web-pod",
        &answers.frame(FABRIC, NEW_MAC).routed(),
    );
    devices.counts(Reason::ToNewMac, 1);
}

/// A tunnel's packet whose inner checksum the NIC is to finish: its outer one is complete already (local checksum offload).
#[test]
fn an_outer_checksum_over_an_unfinished_inner_one_stays_right() {
    const INNER: u16 = 14 + 20 + 8 + 4;
    const FIELD: u16 = 6;

    for node in [Node::new(), slow()] {
        let devices = Devices::new(node);
        let observer = || Observer::start("fabric");
        let observer = devices.namespace.run(observer).unwrap().unwrap();
        let socket = devices.namespace.run(|| offloading_socket("web-pod"));
        let socket = socket.unwrap().unwrap();
        let local = (WEB.address, REPLACED);
        let unfinished = [&b"vx\0\0"[..], &[0x5a; 20]].concat();
        let finished = checksum(&[&unfinished[4..]]).to_be_bytes();
        let payload = [&unfinished[..10], &finished, &unfinished[12..]].concat();
        let whole = udp(local, SERVER).payload(&payload);
        let mut sent = whole.clone().of(&WEB).bytes().to_vec();
        sent[usize::from(INNER + FIELD)..][..2].copy_from_slice(&[0x5a; 2]);
        let header = vnet_header(Some((INNER, FIELD)));
        for packets in 1..=3 {
            socket.send(&[&header[..], &sent].concat()).unwrap();
            let mut frames = Vec::new();
            assert!(eventually(|| {
                frames.extend(observer.frames().unwrap().into_iter().map(as_finished));
                !frames.is_empty()
            }));
            let port = devices.node.flow(Tuple::udp(local, SERVER)).port.to_host();
            let expected = whole.clone().source((NODE, port)).leaving().routed();
            assert_eq!(frames, [expected.bytes()], "packet {packets}");
        }
    }
}

/// What the NIC makes of it.
fn as_finished((offloaded, mut frame): (Offloaded, Vec<u8>)) -> Bytes {
    if let Some((start, offset)) = offloaded.checksum {
        let sum = checksum(&[&frame[start..]]).to_be_bytes();
        frame[start + offset..][..2].copy_from_slice(&sum);
    }
    frame.into()
}

/// The kernel takes the first tag off before the hook sees the frame.
#[test]
fn one_tag_is_as_many() {
    let devices = Devices::new(Node::new());
    let sent = udp((WEB.address, KEPT), SERVER).of(&WEB);
    devices.send("web-pod", &sent);
    devices.counts(Reason::FlowCreated, 1);
    for (packets, tag) in [(1, 0), (2, 5)] {
        devices.send("web-pod", tagged(&sent.bytes(), tag));
        devices.counts(Reason::Tagged, packets);
    }
    let twice = tagged(&tagged(&sent.bytes(), 0), 0);
    devices.send("web-pod", twice);
    devices.counts(Reason::Tagged, 3);
    // In the packet of a fast flow as well.
    assert_eq!(devices.node.packets(Reason::MasqueradedFast), 0);
}

#[test]
fn the_answer_to_an_arp_request_comes_out_of_the_same_veth() {
    let devices = Devices::new(Node::new());
    let before = devices.received("web-pod");
    let request = Arp {
        from: WEB.mac,
        to: BROADCAST,
        operation: Arp::REQUEST,
        sender: (WEB.mac, WEB.address),
        target: (Mac([0; 6]), GATEWAY),
    };
    devices.send("web-pod", &request);
    devices.counts(Reason::ArpAnswered, 1);
    assert!(eventually(|| devices.received("web-pod") == before + 1));
    assert_eq!(devices.received("db-pod"), 0);
}

/// It is made of the packet at the NIC, after routing, and quotes that.
#[test]
fn a_pod_for_which_there_is_no_port_is_told() {
    let devices = Devices::new(Node::with_ports(KEPT..=KEPT));
    let taken = udp((DATABASE.address, KEPT), SERVER).of(&DATABASE);
    devices.send("db-pod", &taken);
    devices.counts(Reason::FlowCreated, 1);
    let sent = udp((WEB.address, REPLACED), SERVER).of(&WEB);
    let answer = prohibited(&sent.clone().routed().bytes(), &WEB);
    devices.carries("web-pod", &sent, "web-pod", answer);
}

/// On the fast path as well: the node's IP stack tells the pod.
#[test]
fn a_packet_that_lives_no_longer_is_complained_about() {
    let devices = Devices::new(Node::new());
    let sent = udp((WEB.address, KEPT), SERVER).of(&WEB);
    devices.send("web-pod", &sent);
    devices.counts(Reason::FlowCreated, 1);
    let before = devices.received("web-pod");
    devices.send("web-pod", &sent.time_to_live(1));
    assert!(eventually(|| devices.received("web-pod") == before + 1));
    assert_eq!(devices.node.packets(Reason::MasqueradedFast), 0);
}

/// As it is about what comes back, and then in the remote's words.
#[test]
fn so_is_a_reply_that_lives_no_longer() {
    let devices = Devices::new(Node::new());
    let sent = udp((WEB.address, REPLACED), SERVER);
    devices.send("web-pod", &sent.clone().of(&WEB));
    devices.counts(Reason::FlowCreated, 1);
    let tuple = Tuple::udp((WEB.address, REPLACED), SERVER);
    let public = (NODE, devices.node.flow(tuple).port.to_host());
    devices.send("fabric", &udp(SERVER, public).time_to_live(1));
    devices.counts(Reason::IcmpErrorOut, 1);
}

/// The address that leaves is no pod's and in no range, but the packet was a pod's where that was looked at.
#[test]
fn what_netfilter_translated_leaves_and_what_nobody_guards_does_not() {
    let devices = Devices::new(Node::new());
    devices.load(&format!(
        "table ip floating {{ chain postrouting {{ type filter hook postrouting priority 300; \
         udp dport 53 ip saddr set {FLOATING}; }}; }}"
    ));
    let from = |pod: &Pod| udp((pod.address, KEPT), SERVER);
    devices.carries(
        "web-pod",
        &from(&WEB).of(&WEB),
        "fabric",
        &from(&WEB).source((FLOATING, KEPT)).leaving().routed(),
    );
    assert_eq!(devices.node.packets(Reason::UnknownSource), 0);
    devices.send("other-pod", &from(&STRANGER).of(&STRANGER));
    devices.counts(Reason::UnknownSource, 1);
    let untranslated = tcp((STRANGER.address, KEPT), (REMOTE, 443), ACK).of(&STRANGER);
    devices.send("other-pod", &untranslated);
    devices.counts(Reason::UnknownSource, 2);
}

/// With the bridge's frames in netfilter (kubeadm's setting) a Service is translated inside the bridge, and such a packet
/// does not meet the router: `to_pods` sees the first one at most, in the middle of its way.
#[test]
fn a_service_with_a_pod_of_this_node_behind_it_is_reached() {
    for in_bridge in [false, true] {
        let devices = Devices::new(Node::new());
        let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        let value = if in_bridge { "1" } else { "0" };
        let set = || std::fs::write(setting, value);
        devices
            .namespace
            .run(set)
            .unwrap()
            .expect("br_netfilter is loaded");
        devices.load(&format!(
            "table ip services {{ chain prerouting {{ type nat hook prerouting priority -100; \
             ip daddr {} udp dport {} dnat to {}:5353; }}; }}",
            SERVICE.0, SERVICE.1, DATABASE.address,
        ));
        let (client, server) = ((WEB.address, KEPT), (DATABASE.address, 5353));
        let arrives = udp(client, server);
        let arrives = if in_bridge {
            arrives.frame(WEB.mac, DATABASE.mac)
        } else {
            arrives.entering(&DATABASE).routed()
        };
        for _ in 0..2 {
            devices.carries(
                "web-pod",
                &udp(client, SERVICE).of(&WEB),
                "db-pod",
                &arrives,
            );
            devices.carries(
                "db-pod",
                &udp(server, client).of(&DATABASE),
                "web-pod",
                &udp(SERVICE, client).entering(&WEB).routed(),
            );
        }
    }
}

/// BPDU, LLDP: nothing of it reaches the bridge, or another pod.
#[test]
fn what_is_not_ip_reaches_nobody() {
    let devices = Devices::new(Node::new());
    let before = devices.received("azure0");
    let group = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
    for (packets, ether_type) in [(1, 38), (2, 0x88cc)] {
        devices.send("web-pod", ethernet(WEB.mac, group, ether_type, &[0x42; 46]));
        devices.counts(Reason::EtherType, packets);
    }
    let broadcast: Packet = udp((WEB.address, 68), (Ipv4Addr::BROADCAST, 67));
    devices.send("web-pod", &broadcast.frame(WEB.mac, BROADCAST));
    devices.counts(Reason::ToGroup, 1);
    assert_eq!(devices.received("azure0"), before);
    assert_eq!(devices.received("db-pod"), 0);
}
