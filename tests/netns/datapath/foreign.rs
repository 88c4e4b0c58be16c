//! TC programs of others on the same links, before ours and behind: they see what they should, and stay where they are, whatever
//! comes and goes of ours. With TCX and with `cls_bpf`.

pub(super) mod program;

use std::net::{Ipv4Addr, UdpSocket};

use aya::programs::{SchedClassifier, TcAttachType};
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::icmp::ping;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{PLUGIN_DIR, Vm};
use serde_json::json;

use self::program::{Address, Counted, END, Foreign, NEXT, Place};
use super::chained::host_veth;
use super::fast_path::{MECHANISMS, assert_clean, azure, fast, transfer_and_close};
use super::lifecycle::rename_build;
use super::{LIMIT, connect, list, run, seen_from_internet};

/// As many packets at least are data, however large each is.
const MANY: u64 = 30;
const EGRESS: (&str, TcAttachType) = ("eth0", TcAttachType::Egress);
const INGRESS: (&str, TcAttachType) = ("eth0", TcAttachType::Ingress);

/// Attaches one of theirs that counts packets of the pod and of the node.
fn attach(
    vm: &Vm,
    name: &str,
    hook: (&str, TcAttachType),
    place: Place,
    counted: Counted,
    mechanism: &str,
) -> Foreign {
    let is_filter = mechanism == "cls_bpf";
    let attached = vm
        .namespace()
        .run(|| Foreign::attach(name, hook, place, is_filter, counted));
    attached.unwrap().unwrap()
}

/// The names of what hangs there, in the order in which packets meet them.
pub(super) fn order(
    vm: &Vm,
    (link, direction): (&str, TcAttachType),
    mechanism: &str,
) -> Vec<String> {
    if mechanism == "cls_bpf" {
        let side = match direction {
            TcAttachType::Egress => "egress",
            _ => "ingress",
        };
        let listing = run(vm, &format!("tc filter show dev {link} {side}"));
        // One line is a priority's, and has no program.
        let lines = listing.lines().filter(|line| line.contains(" name "));
        let words = lines.map(|line| line.split_whitespace().skip_while(|word| *word != "name"));
        return words
            .filter_map(|mut words| words.nth(1).map(str::to_owned))
            .collect();
    }
    let query = || SchedClassifier::query_tcx(link, direction);
    let (_, programs) = vm.namespace().run(query).unwrap().unwrap();
    let names = programs.iter().map(|program| program.name_as_str());
    names.map(|name| name.unwrap_or("?").to_owned()).collect()
}

fn pod<'vm>(vm: &'vm Vm, name: &str, fast_path: bool) -> Pod<'vm> {
    let masquerade = json!({ "datapath": "ebpf", "fastPath": fast_path });
    // CHECK is of this version.
    let list = list(&masquerade).at_version("1.0.0");
    vm.add_pod(&list, &PodSpec::named(name)).unwrap()
}

/// On the NIC, in both directions: those that were there before our first pod, and those that came later.
#[test]
fn on_the_nic_each_sees_its_side_of_the_translation_and_keeps_its_place() {
    for ((forced, mechanism), fast_path) in variants() {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let source = Counted {
            address: Address::Source,
            of: [vm.nic.pool[0], vm.nic.primary],
            verdict: NEXT,
        };
        let destination = Counted {
            address: Address::Destination,
            ..source
        };
        let before_out = attach(vm, "before", EGRESS, Place::First, source, mechanism);
        let behind_in = attach(vm, "behind", INGRESS, Place::Last, destination, mechanism);
        let first = pod(vm, "first", fast_path);
        assert_eq!(first.address, vm.nic.pool[0]);
        let behind_out = attach(vm, "behind", EGRESS, Place::Last, source, mechanism);
        let before_in = attach(vm, "before", INGRESS, Place::First, destination, mechanism);
        let out = ["before", "to_uplink", "behind"];
        let into = ["before", "from_uplink", "behind"];
        assert_eq!(order(vm, EGRESS, mechanism), out);
        assert_eq!(order(vm, INGRESS, mechanism), into);

        let node_before = behind_out.counts()[1];
        let mut connection = connect(&azure, &first);
        assert_eq!(connection.from, vm.nic.primary);
        transfer_and_close(connect(&azure, &first));
        // Of a fast flow the packets have the node's address when they come to the NIC, and are the pod's when they come from it.
        let slow = if fast_path { 1 } else { MANY };
        let what = (mechanism, fast_path);
        assert!(before_out.counts()[0] >= slow, "{what:?}");
        assert_eq!(behind_out.counts()[0], 0, "{what:?}");
        assert!(behind_out.counts()[1] >= node_before + MANY, "{what:?}");
        assert_eq!(before_in.counts()[0], 0, "{what:?}");
        assert!(before_in.counts()[1] >= MANY, "{what:?}");
        assert!(behind_in.counts()[0] >= slow, "{what:?}");

        // Another build takes our places.
        rename_build(vm);
        let second = pod(vm, "second", fast_path);
        assert_eq!(order(vm, EGRESS, mechanism), out);
        assert_eq!(order(vm, INGRESS, mechanism), into);
        connection.is_alive().unwrap();
        transfer_and_close(connect(&azure, &second));
        assert_clean(&azure);

        first.delete().unwrap();
        second.delete().unwrap();
        assert_eq!(order(vm, EGRESS, mechanism), out);
        run(vm, &format!("{PLUGIN_DIR}/azure-vnet teardown"));
        for hook in [EGRESS, INGRESS] {
            assert_eq!(order(vm, hook, mechanism), ["before", "behind"]);
        }
        let seen = before_out.counts()[1];
        ping(vm.namespace(), INTERNET[0], 7, b"still there?", LIMIT).unwrap();
        assert!(before_out.counts()[1] > seen, "{what:?}");
    }
}

/// On a pod's veth: one behind ours sees only what the pod may send, and of that nothing that is fast.
#[test]
fn on_a_pods_veth_those_behind_see_what_ours_lets_pass() {
    for ((forced, mechanism), fast_path) in variants() {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod_ = pod(vm, "first", fast_path);
        let veth = host_veth(&pod_).to_owned();
        let hook = (veth.as_str(), TcAttachType::Ingress);
        let forged = Ipv4Addr::new(192, 0, 2, 1);
        let counted = Counted {
            address: Address::Source,
            of: [pod_.address, forged],
            verdict: NEXT,
        };
        let before = attach(vm, "before", hook, Place::First, counted, mechanism);
        let behind = attach(vm, "behind", hook, Place::Last, counted, mechanism);
        let order_ = ["before", "from_pod", "behind"];
        assert_eq!(order(vm, hook, mechanism), order_);

        transfer_and_close(connect(&azure, &pod_));
        send_from(&pod_, forged);
        let what = (mechanism, fast_path);
        let ([ours, theirs], [passed, dropped]) = (before.counts(), behind.counts());
        assert!(ours >= MANY && theirs >= 1, "{what:?}");
        assert_eq!(dropped, 0, "{what:?}");
        let fast = fast(vm)[0];
        assert_eq!(passed + fast, ours, "{what:?}");
        assert_eq!(fast > 0, fast_path, "{what:?}");

        let mut connection = connect(&azure, &pod_);
        rename_build(vm);
        let _second = pod(vm, "second", fast_path);
        assert_eq!(order(vm, hook, mechanism), order_);
        connection.is_alive().unwrap();
        pod_.check().unwrap();
        pod_.delete().unwrap();
        assert_clean(&azure);
    }
}

/// One before ours that lets ours not have the packet: it leaves as the node has routed it, with the pod's address (decision 19).
#[test]
fn one_that_ends_the_chain_takes_the_masquerade_away() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let counted = Counted {
            address: Address::Source,
            of: [vm.nic.pool[0], vm.nic.primary],
            verdict: END,
        };
        let pod = pod(vm, "first", true);
        assert_eq!(seen_from_internet(&pod), vm.nic.primary);
        let theirs = attach(vm, "greedy", EGRESS, Place::First, counted, mechanism);
        assert_eq!(order(vm, EGRESS, mechanism), ["greedy", "to_uplink"]);
        assert_eq!(seen_from_internet(&pod), pod.address);
        assert!(theirs.counts()[0] > 0, "{mechanism}");
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
        assert!(azure.fabric.leaked().unwrap() > 0, "{mechanism}");
        ping(vm.namespace(), INTERNET[0], 7, b"the node", LIMIT).unwrap();
    }
}

fn variants() -> impl Iterator<Item = ((&'static str, &'static str), bool)> {
    let mechanisms = MECHANISMS.into_iter();
    mechanisms.flat_map(|mechanism| [(mechanism, true), (mechanism, false)])
}

/// A datagram from an address that is not the pod's.
fn send_from(pod: &Pod<'_>, address: Ipv4Addr) {
    let ip = pod.namespace().program("ip").unwrap();
    let line = format!("address add {address}/32 dev lo");
    ip.args(line.split(' ')).checked().unwrap();
    let socket = pod.namespace().run(|| UdpSocket::bind((address, 0)));
    let socket = socket.unwrap().unwrap();
    socket.send_to(b"forged", (INTERNET[0], 9)).unwrap();
}
