//! Whatever a pod sends: its address does not leave the ranges, no frame leaves with another MAC than the NIC's, and nothing but its own
//! IPv4 packets comes to the node or to another pod. Real frames by the thousand, in every tier, and the fabric counts.

mod frames;

use std::thread::sleep;
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::{FABRIC_MAC, INTERNET};
use azure_vnet_testbed::field::{Field, Tier};
use azure_vnet_testbed::frame::{BROADCAST, is_arp, is_icmp, source_of};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::packet_socket::offloading_socket;
use azure_vnet_testbed::{Azure, Verdicts, exchange};
use fastrand::Rng;
use socket2::Type;

use frames::Hostile;

const LIMIT: Duration = Duration::from_secs(5);
/// How many frames are sent at least.
const FRAMES: u64 = 12_000;
/// The least that reaches the internet of so many: a node that drops everything would leak nothing either. By the odds that frames are
/// made with it is 450, give or take 25.
const FEWEST: u64 = 300;
/// For how many seconds there are more.
const SECONDS: &str = "AZURE_VNET_FUZZ_SECONDS";

#[test]
fn tcx_lets_nothing_out() {
    let_nothing_out(Tier::Tcx);
}

#[test]
fn cls_bpf_lets_nothing_out() {
    let_nothing_out(Tier::ClsBpf);
}

#[test]
fn nft_lets_nothing_out() {
    let_nothing_out(Tier::Nft);
}

#[test]
fn iptables_lets_nothing_out() {
    let_nothing_out(Tier::Iptables);
}

fn let_nothing_out(tier: Tier) {
    let seed = std::env::var("AZURE_VNET_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("AZURE_VNET_SEED={seed}");
    let azure = &tier.azure();
    let field = &Field::with(azure, tier, &tier.list(true));
    let vm = field.vm;
    let arrived = Arrived::so_far(azure);
    let mut hostile = Hostile {
        rng: Rng::with_seed(seed),
        address: field.pod.address,
        neighbour: field.neighbour.address,
        mac: field.pod.mac,
        neighbours_mac: field.neighbour.mac,
        nic: vm.nic.mac,
    };
    let socket = field.pods[0].namespace().run(|| offloading_socket("eth0"));
    let socket = socket.unwrap().unwrap();
    let seconds = std::env::var(SECONDS).map_or(0, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut frames = 0;
    while frames < FRAMES || Instant::now() < end {
        for _ in 0..100 {
            // A full queue, or a frame that the device does not take, is no matter: others come.
            let _ = socket.send(&hostile.offloaded());
        }
        frames += 100;
        assert_nothing_else_comes(field);
    }
    let arrived = Arrived::at_rest(azure).0 - arrived.0;
    println!("{tier:?}: {frames} frames sent, {arrived} packets arrived in the internet");
    assert_kept(azure, tier);
    assert!(arrived > FEWEST, "{tier:?}: only {arrived} packets arrived");
    // And the pods are as good as before.
    let internet = std::net::SocketAddrV4::new(INTERNET[0], REPORT_PORT);
    for pod in &field.pods {
        let source = exchange::ask(Type::STREAM, pod.namespace(), None, internet).unwrap();
        assert_eq!(source, vm.nic.primary, "{tier:?}");
    }
    assert_kept(azure, tier);
    assert_nothing_else_comes(field);
}

fn assert_kept(azure: &Azure, tier: Tier) {
    // The node has an IPv6 link-local address and may ask for what it likes.
    let verdicts = Verdicts {
        misdirected: 0,
        own_arp: 0,
        ..azure.fabric.verdicts(0).unwrap()
    };
    assert_eq!(verdicts, Verdicts::default(), "{tier:?}");
    assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier:?}");
}

/// To the node come IPv4 packets of the pod's own and, where it answers itself, questions of the pod; to the other pod what the router
/// sends, from the pod or in answer to what it sent.
fn assert_nothing_else_comes(field: &Field<'_>) {
    let Field {
        tier,
        pod,
        neighbour,
        ..
    } = field;
    let is_of_pods = |frame: &Vec<u8>| frame[6..12] != field.stranger.mac.0;
    for frame in field.to_router().into_iter().filter(is_of_pods) {
        let is_asked = !tier.is_ebpf() && is_arp(&frame);
        let is_own =
            source_of(&frame) == Some(pod.address) || source_of(&frame) == Some(neighbour.address);
        let is_ip = frame[12..14] == [8, 0];
        let to_router = frame[..6] == FABRIC_MAC.0 || is_asked && frame[..6] == BROADCAST.0;
        assert!(
            (is_ip || is_asked) && is_own && to_router,
            "{tier:?}: {frame:02x?} came to the node"
        );
    }
    for frame in neighbour.tap.frames().unwrap() {
        let is_meant = frame[..6] == neighbour.mac.0 && frame[6..12] == FABRIC_MAC.0;
        let is_from = source_of(&frame) == Some(pod.address) || is_icmp(&frame) || is_arp(&frame);
        let is_answer = source_of(&frame).is_some_and(|it| INTERNET.contains(&it));
        assert!(
            is_meant && (is_from || is_answer),
            "{tier:?}: {frame:02x?} came to the other pod"
        );
    }
}

/// How many packets the internet host has been sent.
#[derive(Clone, Copy, PartialEq)]
struct Arrived(u64);

impl Arrived {
    fn so_far(azure: &Azure) -> Self {
        let internet = azure.internet.namespace();
        let text = internet.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
        let text = text.unwrap().unwrap();
        let mut ip = text.lines().filter(|line| line.starts_with("Ip:"));
        let names = ip.next().unwrap().split_whitespace();
        let values = ip.next().unwrap().split_whitespace();
        let mut columns = names.zip(values);
        let (_, value) = columns.find(|(name, _)| *name == "InReceives").unwrap();
        Self(value.parse().unwrap())
    }

    /// Once nothing more comes.
    fn at_rest(azure: &Azure) -> Self {
        let end = Instant::now() + LIMIT;
        let mut last = Self::so_far(azure);
        loop {
            sleep(Duration::from_millis(100));
            let now = Self::so_far(azure);
            if now == last || Instant::now() > end {
                return now;
            }
            last = now;
        }
    }
}
