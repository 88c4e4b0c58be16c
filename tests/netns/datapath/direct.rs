//! Replies of fast flows go straight to the pod's end of the veth where nobody stands at the host's end: whoever does is passed,
//! whether the list of plugins, the veth or a program there tells of it. With TCX and with `cls_bpf`.

use aya::programs::TcAttachType;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::raw_program::{self, Kind, instruction};
use azure_vnet_testbed::{PLUGIN_DIR, Vm};
use serde_json::{Value, json};

use super::chained::{host_veth, install};
use super::fast_path::{
    BURST, MECHANISMS, MUCH, RATE, assert_clean, azure, fast, limited, shaped, transfer_and_close,
};
use super::foreign::program::{Address, Counted, Foreign, NEXT, Place};
use super::{connect, on, run, status};

/// Packets of a connection's beginning, which come the slow way, and what else may come beside.
const FEW: u64 = 10;

/// A pod of a network whose list is where runtimes look for it.
fn pod<'vm>(vm: &'vm Vm, name: &str) -> Pod<'vm> {
    install(vm, &on("ebpf"));
    vm.add_pod(&on("ebpf"), &PodSpec::named(name)).unwrap()
}

/// What the host's end of the pod's veth has sent, and what the pod's end has received, in packets.
fn counters(vm: &Vm, pod: &Pod<'_>) -> (u64, u64) {
    let of = |text: String, way: &str| {
        let links: Value = serde_json::from_str(&text).unwrap();
        links[0]["stats64"][way]["packets"].as_u64().unwrap()
    };
    let sent = run(vm, &format!("ip -j -s link show {}", host_veth(pod)));
    let inside = pod.namespace().program("ip").unwrap();
    let got = inside.args(["-j", "-s", "link", "show", "eth0"]).checked();
    (of(sent, "tx"), of(got.unwrap(), "rx"))
}

/// Packets that a connection brings the pod: past the host's end of its veth, in all, and by the fast path.
fn transferred(azure: &azure_vnet_testbed::Azure, pod: &Pod<'_>) -> Transferred {
    let vm = &azure.vms[0];
    let (sent, got) = counters(vm, pod);
    let before = fast(vm)[1];
    transfer_and_close(connect(azure, pod));
    let after = counters(vm, pod);
    Transferred {
        by_host_end: after.0 - sent,
        got: after.1 - got,
        fast: fast(vm)[1] - before,
    }
}

#[derive(Debug)]
struct Transferred {
    by_host_end: u64,
    got: u64,
    fast: u64,
}

impl Transferred {
    #[track_caller]
    fn is_direct(&self) {
        assert!(self.by_host_end < FEW, "{self:?}");
        assert!(self.fast > 40 && self.got >= self.fast, "{self:?}");
    }

    #[track_caller]
    fn is_by_host_end(&self) {
        assert!(self.fast > 40 && self.by_host_end >= self.fast, "{self:?}");
    }
}

/// What doctor says is passed by.
fn passed_by(vm: &Vm) -> Vec<String> {
    let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    let output = plugin.args(["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let ours = findings.filter(|it| it["check"] == "passed_by" && it["verdict"] != "ok");
    ours.map(|it| it["found"].as_str().unwrap().to_owned())
        .collect()
}

fn collect_garbage(vm: &Vm) {
    run(vm, &format!("{PLUGIN_DIR}/azure-vnet gc"));
}

#[test]
fn what_a_plain_pod_gets_does_not_pass_the_hosts_end() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod = pod(vm, "web");
        assert_eq!(status(vm)["tier"]["ebpf"], mechanism);
        transferred(&azure, &pod).is_direct();
        assert_eq!(passed_by(vm), Vec::<String>::new());
        assert_clean(&azure);
    }
}

/// `bandwidth` comes after us, so the list has to tell of it; nor is it known what a plugin does that nobody knows.
#[test]
fn a_limit_in_the_list_holds() {
    for (forced, _) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let list = limited(&json!({ "ingressRate": RATE, "ingressBurst": BURST }));
        install(vm, &list);
        let pod = vm.add_pod(&list, &PodSpec::named("web")).unwrap();
        transferred(&azure, &pod).is_by_host_end();
        assert!(shaped(vm) >= MUCH, "{}", run(vm, "tc -s qdisc show"));
        // The next call does not see it otherwise.
        let _other = vm.add_pod(&list, &PodSpec::named("other")).unwrap();
        transferred(&azure, &pod).is_by_host_end();
        assert_clean(&azure);
    }
}

#[test]
fn a_list_that_is_not_found_may_have_a_limit() {
    let azure = azure("0");
    let vm = &azure.vms[0];
    let pod = vm.add_pod(&on("ebpf"), &PodSpec::named("web")).unwrap();
    transferred(&azure, &pod).is_by_host_end();
}

/// It is passed by until the next call, and so long doctor says so. Flows that are there follow at once.
#[test]
fn a_shaper_put_on_by_hand_holds_from_the_next_call_on() {
    for (forced, _) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod = pod(vm, "web");
        let veth = host_veth(&pod);
        let mut old = connect(&azure, &pod);
        old.is_alive().unwrap();
        run(
            vm,
            &format!("tc qdisc add dev {veth} root tbf rate 1gbit burst 10mb latency 1s"),
        );
        let said = passed_by(vm).concat();
        assert!(said.contains("tbf") && said.contains(veth), "{said}");

        let other = vm.add_pod(&on("ebpf"), &PodSpec::named("other")).unwrap();
        assert_eq!(passed_by(vm), Vec::<String>::new());
        transfer_and_close(old);
        assert!(shaped(vm) >= MUCH, "{}", run(vm, "tc -s qdisc show"));
        transferred(&azure, &pod).is_by_host_end();
        transferred(&azure, &other).is_direct();

        run(vm, &format!("tc qdisc del dev {veth} root"));
        other.delete().unwrap();
        transferred(&azure, &pod).is_direct();
        assert_clean(&azure);
    }
}

/// A program at the host's end sees what the pod gets once `azure-vnet gc` or a GC has seen the program, and other calls leave it
/// so.
#[test]
fn a_program_of_others_at_the_hosts_end_sees_what_the_pod_gets() {
    for is_filter in [false, true] {
        let azure = azure(if is_filter { "1" } else { "0" });
        let vm = &azure.vms[0];
        let pod = pod(vm, "web");
        let veth = host_veth(&pod);
        let counted = Counted {
            address: Address::Destination,
            of: [pod.address, vm.nic.primary],
            verdict: NEXT,
        };
        let place = (veth, TcAttachType::Egress);
        let attach = || Foreign::attach("viewer", place, Place::Last, is_filter, counted);
        let viewer = vm.namespace().run(attach).unwrap().unwrap();
        let said = passed_by(vm).concat();
        assert!(said.contains("egress") && said.contains(veth), "{said}");

        collect_garbage(vm);
        assert_eq!(passed_by(vm), Vec::<String>::new());
        let seen = viewer.counts()[0];
        transferred(&azure, &pod).is_by_host_end();
        assert!(viewer.counts()[0] > seen + 40);
        let other = vm.add_pod(&on("ebpf"), &PodSpec::named("other")).unwrap();
        transferred(&azure, &pod).is_by_host_end();
        transferred(&azure, &other).is_direct();

        drop(viewer);
        if is_filter {
            run(vm, &format!("tc filter del dev {veth} egress"));
        }
        collect_garbage(vm);
        transferred(&azure, &pod).is_direct();
        assert_clean(&azure);
    }
}

/// A pod's native XDP program runs in its veth, where such a packet does not come by. The kernel lowers what the host's end may have
/// as its MTU.
#[test]
fn a_pods_own_xdp_program_sees_what_it_gets() {
    let azure = azure("0");
    let vm = &azure.vms[0];
    let pod = pod(vm, "web");
    let pin = "/sys/fs/bpf/of_pod";
    // r0 = XDP_PASS
    let passes = [instruction(0xb7, 0, 0, 0, 2), instruction(0x95, 0, 0, 0, 0)];
    let load = || raw_program::pin(&raw_program::load(Kind::Xdp, "of_pod", &passes)?, pin);
    vm.namespace().run(load).unwrap().unwrap();
    let inside = |line: &str| {
        let ip = pod.namespace().program("ip").unwrap();
        ip.args(line.split(' ')).checked().unwrap();
    };
    inside(&format!("link set dev eth0 xdpdrv pinned {pin}"));
    assert!(passed_by(vm).concat().contains("XDP"));
    let other = vm.add_pod(&on("ebpf"), &PodSpec::named("other")).unwrap();
    assert_eq!(passed_by(vm), Vec::<String>::new());
    transferred(&azure, &pod).is_by_host_end();

    inside("link set dev eth0 xdpdrv off");
    other.delete().unwrap();
    transferred(&azure, &pod).is_direct();
    assert_clean(&azure);
}

/// The next link of that index is another pod's, or nobody's.
#[test]
fn what_was_said_of_a_pod_goes_with_it() {
    let azure = azure("0");
    let vm = &azure.vms[0];
    let pod = pod(vm, "web");
    let entries = || {
        let map = format!("{}/maps/direct", super::pins());
        let text = run(vm, &format!("bpftool -j map dump pinned {map}"));
        let entries: Value = serde_json::from_str(&text).unwrap();
        entries.as_array().unwrap().len()
    };
    assert_eq!(entries(), 1);
    pod.delete().unwrap();
    assert_eq!(entries(), 0);
}
