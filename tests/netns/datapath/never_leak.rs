//! Whatever a pod sends, its address does not leave the ranges, and no frame leaves with another MAC than the NIC's: real frames by the
//! thousand, in both tiers, and the fabric counts.

mod frames;

use std::thread::sleep;
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::Nic;
use azure_vnet_testbed::packet_socket::packet_socket;
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::{Azure, Verdicts, Vm};
use fastrand::Rng;

use frames::Hostile;

use super::{LIMIT, mac_of, on, run, seen_from_internet, status};

const FRAMES: usize = 12_000;
/// The least that reaches the internet of them: a node that drops everything would leak nothing either. By the odds that frames are
/// made with it is 1,060, give or take 33.
const FEWEST: u64 = 800;

#[test]
fn ebpf_lets_nothing_out() {
    let_nothing_out("ebpf", "0", "tcx");
}

#[test]
fn ebpf_without_tcx_lets_nothing_out() {
    let_nothing_out("ebpf", "1", "cls_bpf");
}

#[test]
fn netfilter_lets_nothing_out() {
    let_nothing_out("netfilter", "0", "");
}

fn let_nothing_out(tier: &str, forced: &str, mechanism: &str) {
    let seed = std::env::var("AZURE_VNET_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("AZURE_VNET_SEED={seed}");
    let mut azure = Azure::builder().build().unwrap();
    azure.vms[0].set_environment("AZURE_VNET_FORCE_CLS_BPF", forced);
    let (azure, vm) = (&azure, &azure.vms[0]);
    let pod = vm.add_pod(&on(tier), &PodSpec::named("hostile")).unwrap();
    let neighbour = vm.add_pod(&on(tier), &PodSpec::named("neighbour")).unwrap();
    if tier == "ebpf" {
        assert_eq!(status(vm)["tier"]["ebpf"], mechanism);
    }
    let arrived = Arrived::so_far(azure);
    let mut hostile = Hostile {
        rng: Rng::with_seed(seed),
        address: pod.address,
        neighbour: neighbour.address,
        mac: mac_of(&pod),
        nic: vm.nic.mac,
    };
    let socket = pod.namespace().run(|| packet_socket("eth0"));
    let socket = socket.unwrap().unwrap();
    for _ in 0..FRAMES {
        // A full queue, or a frame that the device does not take, is no matter: others come.
        let _ = socket.send(&hostile.frame());
    }
    let arrived = Arrived::at_rest(azure).0 - arrived.0;
    assert_kept(azure, tier);
    assert!(arrived > FEWEST, "{tier}: only {arrived} packets arrived");
    // And the pods are as good as before.
    for pod in [&pod, &neighbour] {
        assert_eq!(seen_from_internet(pod), vm.nic.primary, "{tier}");
    }
    assert_kept(azure, tier);
    assert_no_port_has_the_nics_mac(vm, &vm.nic);
}

fn assert_kept(azure: &Azure, tier: &str) {
    // The node has an IPv6 link-local address and may ask for what it likes.
    let verdicts = Verdicts {
        misdirected: 0,
        own_arp: 0,
        ..azure.fabric.verdicts(0).unwrap()
    };
    assert_eq!(verdicts, Verdicts::default(), "{tier}");
    assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier}");
}

/// A pod that has sent from the NIC's MAC is not where the bridge takes the NIC to be.
fn assert_no_port_has_the_nics_mac(vm: &Vm, nic: &Nic) {
    let table = run(vm, "bridge fdb show br azure0");
    let entries = table
        .lines()
        .filter(|line| line.starts_with(&nic.mac.to_string()));
    for entry in entries {
        assert!(entry.contains("permanent"), "{table}");
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
