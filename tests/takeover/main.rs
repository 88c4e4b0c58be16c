//! A node that v0.1.0 has set up is taken over with its pods, by whatever call comes first, while traffic flows: the real v0.1.0,
//! built from this repository's history (`cargo xtask test --stage takeover`), on the simulated Azure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::path::PathBuf;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::steady::Steady;
use azure_vnet_testbed::traffic::{HOST_PORT, Scenario};
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm, bin_dir};
use serde_json::json;

/// Where xtask has built v0.1.0.
const EARLIER: &str = "AZURE_VNET_EARLIER";

/// Of pings that are a millisecond apart, on the node and on a pod.
const MAY_BE_LOST: usize = 5;

/// How many nodes may lose more, or send a frame that the fabric refuses: a busy machine may keep a call waiting between two steps
/// for as long as it likes.
const TRIES: usize = 3;

/// What masquerades the pods of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcx,
    ClsBpf,
    Netfilter,
    /// The documented rule of iptables, and azure-vnet does not masquerade.
    Rule,
}

/// The call that finds the node as v0.1.0 left it.
#[derive(Clone, Copy, Debug)]
enum First {
    Add,
    Del,
    Gc,
}

fn v0_1_0() -> PathBuf {
    let path = std::env::var_os(EARLIER);
    path.unwrap_or_else(|| panic!("{EARLIER} is not set: run `cargo xtask test --stage takeover`"))
        .into()
}

fn list(way: Way) -> Conflist {
    let masquerade = match way {
        Way::Tcx | Way::ClsBpf => json!({ "datapath": "ebpf" }),
        Way::Netfilter => json!({ "datapath": "netfilter" }),
        Way::Rule => json!({ "datapath": "off" }),
    };
    Conflist::shipped().with_setting("azure-vnet", "masquerade", &masquerade)
}

/// Two VMs with pods of v0.1.0, the first on VM 0 with a hostPort.
fn earlier(way: Way) -> Azure {
    let mut azure = Azure::builder().vms(2).bin_dir(v0_1_0()).build().unwrap();
    if way == Way::ClsBpf {
        azure.vms[0].set_environment("AZURE_VNET_FORCE_CLS_BPF", "1");
    }
    if way == Way::Rule {
        let iptables = azure.vms[0].program("iptables").unwrap();
        let rule = "-t nat -A POSTROUTING -m iprange ! --dst-range 168.63.129.16 -m addrtype ! --dst-type local ! -d 10.0.0.0/8 -j MASQUERADE";
        iptables.args(rule.split(' ')).checked().unwrap();
    }
    azure
}

fn upgrade(vm: &Vm) {
    vm.install_programs(&bin_dir().unwrap()).unwrap();
}

fn is_clean(vm: &Vm, command: &str) {
    let program = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    let output = program.args([command]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Whether few enough packets were lost and none was spoofed; connections and leaks are asserted.
fn taken_over(way: Way, first: First) -> Result<(), String> {
    let azure = earlier(way);
    let vm = &azure.vms[0];
    let list = list(way);
    let pods: Vec<Pod<'_>> = ["web", "db", "going"]
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let spec = PodSpec::named(name);
            let spec = if number == 0 {
                spec.host_port(HOST_PORT, REPORT_PORT)
            } else {
                spec
            };
            vm.add_pod(&list, &spec).unwrap()
        })
        .collect();
    let remote = azure.vms[1]
        .add_pod(&list, &PodSpec::named("remote"))
        .unwrap();
    let mut pods = pods;
    let mut going = pods.pop();

    // Both pings have one identifier, which the node's address can use once towards a host.
    let on_node = Steady::start(vm.namespace(), &azure.on_prem).unwrap();
    let on_pod = Steady::start(pods[0].namespace(), &azure.internet).unwrap();
    for vm in &azure.vms {
        upgrade(vm);
    }
    let mut more = Vec::new();
    match first {
        First::Add => more.push(vm.add_pod(&list, &PodSpec::named("next")).unwrap()),
        First::Del => going.take().unwrap().delete().unwrap(),
        First::Gc => is_clean(vm, "gc"),
    }
    let name = format!("{way:?}, {first:?}");
    let tallies = [
        on_node
            .end()
            .unwrap_or_else(|error| panic!("{name}: node: {error}")),
        on_pod
            .end()
            .unwrap_or_else(|error| panic!("{name}: pod: {error}")),
    ];
    println!("{name}: node {}; pod {}", tallies[0], tallies[1]);

    // The other VM is taken over by its next pod; on this one a later ADD brings the programs where none has come yet.
    more.push(
        azure.vms[1]
            .add_pod(&list, &PodSpec::named("next"))
            .unwrap(),
    );
    more.push(vm.add_pod(&list, &PodSpec::named("last")).unwrap());
    let remote = [remote];
    if way != Way::Rule {
        for row in Scenario::new(&azure, &pods, &remote).unwrap().rows() {
            assert!(row.ok(), "{name}: {row:?}");
        }
    }
    let spoofed = azure.fabric.verdicts(0).unwrap().spoofed();
    assert_eq!(azure.fabric.leaked().unwrap(), 0, "{name}");
    for vm in &azure.vms {
        is_clean(vm, "status");
    }
    let links = vm
        .program("ip")
        .unwrap()
        .args(["-o", "link", "show", "eth0"])
        .checked()
        .unwrap();
    assert!(!links.contains("master"), "{name}: {links}");
    for pod in pods.into_iter().chain(going).chain(more).chain(remote) {
        pod.delete().unwrap();
    }
    let worst = tallies.iter().map(|tally| tally.lost).max().unwrap_or(0);
    if worst <= MAY_BE_LOST && spoofed == 0 {
        Ok(())
    } else {
        Err(format!(
            "{name}: node {}; pod {}; {spoofed} frames spoofed",
            tallies[0], tallies[1]
        ))
    }
}

fn is_taken_over(way: Way, first: First) {
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        match taken_over(way, first) {
            Ok(()) => return,
            Err(lost) => tries.push(lost),
        }
    }
    panic!("{tries:#?}");
}

#[test]
fn by_the_next_add() {
    for way in [Way::Tcx, Way::ClsBpf, Way::Netfilter, Way::Rule] {
        is_taken_over(way, First::Add);
    }
}

#[test]
fn by_the_next_del() {
    for way in [Way::Tcx, Way::ClsBpf, Way::Netfilter, Way::Rule] {
        is_taken_over(way, First::Del);
    }
}

#[test]
fn by_the_next_gc() {
    for way in [Way::Tcx, Way::Netfilter] {
        is_taken_over(way, First::Gc);
    }
}
