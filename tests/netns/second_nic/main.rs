//! VMs with two NICs in two subnets, and a network of pods on each: every NIC has its own bridge and its own datapath, and what
//! leaves a NIC has an address of that NIC, whatever the tier, and however strictly sources are checked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod default_list;
mod host_ports;
mod rule;

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_testbed::address_plan::{Nic, SECOND_SUBNET, WIRESERVER};
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::exchange::{ask, ping_host};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::{Pod, PodSpec, PortMapping};
use azure_vnet_testbed::reporter::Reporter;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};
use serde_json::json;
use socket2::Type;

const TIERS: [&str; 2] = ["ebpf", "netfilter"];
/// On which the node reports what it saw.
const NODE_PORT: u16 = 10250;
/// The port of the node that leads to the second NIC's pod.
const HOST_PORT: u16 = 8081;

/// The shipped network, and one like it on the second NIC.
fn lists(tier: &str) -> [Conflist; 2] {
    // The first version that knows CHECK as it is now.
    let first = Conflist::shipped().at_version("1.0.0").with_setting(
        "azure-vnet",
        "masquerade",
        &json!({ "datapath": tier }),
    );
    let ipam = json!({ "type": "azure-vnet-ipam", "subnet": SECOND_SUBNET.to_string() });
    let mut second = first
        .clone()
        .with_setting("azure-vnet", "bridge", &json!("azure1"))
        .with_setting("azure-vnet", "master", &json!("eth1"))
        .with_setting("azure-vnet", "ipam", &ipam);
    second.name.replace_range(.., "second");
    [first, second]
}

fn azure(rp_filter: &str) -> Azure {
    let builder = Azure::builder().vms(2).pool(10).second_nic(10);
    let azure = builder.build().unwrap();
    for vm in &azure.vms {
        vm.set_rp_filter(rp_filter).unwrap();
    }
    azure
}

/// Two VMs, and pods on both networks of each.
struct Scene<'a> {
    azure: &'a Azure,
    /// Of the first VM, one on each NIC.
    pods: [Pod<'a>; 2],
    /// Another of the first VM's second NIC.
    another: Pod<'a>,
    /// Of the second VM, one on each NIC.
    remote: [Pod<'a>; 2],
    _reporters: Vec<Reporter>,
}

/// Everything that was tried and went otherwise than it must.
#[derive(Default)]
struct Rows(Vec<String>);

impl<'a> Scene<'a> {
    fn new(azure: &'a Azure, tier: &str) -> Self {
        let [first, second] = lists(tier);
        let (vm, other) = (&azure.vms[0], &azure.vms[1]);
        let mut with_port = PodSpec::named("a");
        for protocol in ["tcp", "udp"] {
            with_port.port_mappings.push(PortMapping {
                host: HOST_PORT,
                container: REPORT_PORT,
                protocol,
            });
        }
        let pods = [(&first, PodSpec::named("a")), (&second, with_port)]
            .map(|(list, spec)| vm.add_pod(list, &spec).unwrap());
        let another = vm.add_pod(&second, &PodSpec::named("b")).unwrap();
        let remote =
            [&first, &second].map(|list| other.add_pod(list, &PodSpec::named("c")).unwrap());
        let all = pods.iter().chain(&remote).chain([&another]);
        let mut reporters: Vec<_> = all
            .map(|pod| Reporter::start(pod.namespace(), &[pod.address], REPORT_PORT).unwrap())
            .collect();
        let node = [vm.nic.primary, second_nic(vm).primary];
        reporters.push(Reporter::start(vm.namespace(), &node, NODE_PORT).unwrap());
        Self {
            azure,
            pods,
            another,
            remote,
            _reporters: reporters,
        }
    }

    fn vm(&self) -> &'a Vm {
        &self.azure.vms[0]
    }
}

impl Rows {
    /// What `from` is seen as where it asks.
    fn tcp(&mut self, what: &str, from: &Namespace, to: (Ipv4Addr, u16), expected: Ipv4Addr) {
        let to = SocketAddrV4::new(to.0, to.1);
        self.row(what, expected, &ask(Type::STREAM, from, None, to));
    }

    /// What is known not to go.
    fn fails(&mut self, what: &str, seen: &std::io::Result<Ipv4Addr>) {
        println!(
            "{} {what}: {seen:?}",
            if seen.is_err() { "ok" } else { "--" }
        );
        if seen.is_ok() {
            self.0.push(format!("{what}: {seen:?} instead of nothing"));
        }
    }

    fn row(&mut self, what: &str, expected: Ipv4Addr, seen: &std::io::Result<Ipv4Addr>) {
        let went = seen.as_ref().is_ok_and(|seen| *seen == expected);
        println!("{} {what}: {seen:?}", if went { "ok" } else { "--" });
        if !went {
            let line = format!("{what}: {seen:?} instead of {expected}");
            self.0.push(line);
        }
    }
}

fn second_nic(vm: &Vm) -> &Nic {
    vm.second_nic.as_ref().unwrap()
}

fn report(pod: &Pod<'_>) -> (Ipv4Addr, u16) {
    (pod.address, REPORT_PORT)
}

/// Pods ask: the internet, a network that knows them, each other, and the node.
fn of_pods(scene: &Scene<'_>, rows: &mut Rows) {
    let azure = scene.azure;
    let [one, two] = &scene.pods;
    let (vm, other) = (&azure.vms[0], &azure.vms[1]);
    let (primary, second) = (vm.nic.primary, second_nic(vm).primary);
    let internet = (azure.internet.address(), REPORT_PORT);
    let (a, b) = (one.namespace(), two.namespace());
    rows.tcp("first NIC's pod to internet", a, internet, primary);
    rows.tcp("second NIC's pod to internet", b, internet, second);
    let pinged = ping_host(b, &azure.internet);
    rows.row("second NIC's pod to internet, ping", second, &pinged);
    let on_prem = (azure.on_prem.address(), REPORT_PORT);
    rows.tcp("second NIC's pod to on-premises", b, on_prem, two.address);
    for (what, from, to) in [
        ("first NIC's pod to the node's first address", one, primary),
        ("first NIC's pod to the node's second address", one, second),
        ("second NIC's pod to the node's first address", two, primary),
        ("second NIC's pod to the node's second address", two, second),
    ] {
        rows.tcp(what, from.namespace(), (to, NODE_PORT), from.address);
    }
    rows.tcp(
        "first NIC's pod to the second's",
        a,
        report(two),
        one.address,
    );
    rows.tcp(
        "second NIC's pod to the first's",
        b,
        report(one),
        two.address,
    );
    let to = report(&scene.another);
    rows.tcp("among the second NIC's pods, same node", b, to, two.address);
    let to = report(&scene.remote[1]);
    rows.tcp("among the second NIC's pods, other VM", b, to, two.address);
    let to = report(&scene.remote[0]);
    rows.tcp(
        "second NIC's pod to the first's, other VM",
        b,
        to,
        two.address,
    );
    // The node has a route of its own to the second NIC's subnet, by the second NIC, and a pod of the first must not take it.
    let to = report(&scene.remote[1]);
    rows.tcp(
        "first NIC's pod to the second's, other VM",
        a,
        to,
        one.address,
    );
    let seen = ask(
        Type::STREAM,
        scene.remote[1].namespace(),
        None,
        SocketAddrV4::new(internet.0, internet.1),
    );
    let expected = second_nic(other).primary;
    rows.row("remote pod of the second NIC to internet", expected, &seen);
}

/// The node asks, and is asked; so are its pods, from outside.
fn of_node(scene: &Scene<'_>, rows: &mut Rows) {
    let [_, two] = &scene.pods;
    let (azure, vm) = (scene.azure, scene.vm());
    let (primary, second) = (vm.nic.primary, second_nic(vm).primary);
    let (node, outside) = (vm.namespace(), azure.internet.namespace());
    let internet = (azure.internet.address(), REPORT_PORT);
    rows.tcp("node to the second NIC's pod", node, report(two), second);
    rows.tcp("node to internet", node, internet, primary);
    let to = (primary, NODE_PORT);
    rows.tcp(
        "internet to the node's first address",
        outside,
        to,
        internet.0,
    );
    // Strict filtering lets neither pass before the first pod, as the way back in the main table is by the other NIC; our rule for
    // this address is what it needs.
    let to = SocketAddrV4::new(internet.0, internet.1);
    let seen = ask(Type::STREAM, node, Some(second), to);
    rows.row("node to internet, from its second address", second, &seen);
    let to = (second, NODE_PORT);
    rows.tcp(
        "internet to the node's second address",
        outside,
        to,
        internet.0,
    );
    rows.tcp(
        "internet to the second NIC's pod",
        outside,
        report(two),
        internet.0,
    );
    let probe = ask(
        Type::STREAM,
        azure.fabric.namespace(),
        Some(WIRESERVER),
        SocketAddrV4::new(two.address, REPORT_PORT),
    );
    rows.row("health probe to the second NIC's pod", WIRESERVER, &probe);
}

/// Nothing was refused by the fabric, and nobody met an address that he does not know.
fn nothing_was_wrong_on_the_wire(azure: &Azure) {
    for number in 0..2 {
        let fabric = &azure.fabric;
        for verdicts in [fabric.verdicts(number), fabric.second_verdicts(number)] {
            assert_eq!(verdicts.unwrap().spoofed(), 0, "VM {number}");
        }
    }
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

/// One network goes, the other does not notice; then that goes too. The NICs notice neither.
fn both_are_taken_down(scene: Scene<'_>, nics: &[String; 2]) {
    let vm = scene.vm();
    assert_eq!(&[nic(vm, "eth0"), nic(vm, "eth1")], nics);
    let [one, two] = scene.pods;
    two.delete().unwrap();
    scene.another.delete().unwrap();
    run(
        vm,
        &format!("{PLUGIN_DIR}/azure-vnet teardown --bridge azure1"),
    );
    let rules = run(vm, "ip rule");
    assert!(!rules.contains("azure1"), "{rules}");
    assert!(!run(vm, "ip route show table all").contains("azure1"));
    run(vm, &format!("{PLUGIN_DIR}/azure-vnet status"));
    one.delete().unwrap();
    run(vm, &format!("{PLUGIN_DIR}/azure-vnet teardown"));
    assert!(!run(vm, "ip link").contains("azure"));
    assert_eq!(&[nic(vm, "eth0"), nic(vm, "eth1")], nics);
}

/// Addresses and routes of a NIC.
fn nic(vm: &Vm, name: &str) -> String {
    let addresses = run(vm, &format!("ip -4 -o address show dev {name}"));
    let routes = run(vm, &format!("ip -4 route show dev {name}"));
    format!("{addresses}{routes}")
}

fn run(vm: &Vm, line: &str) -> String {
    let mut words = line.split(' ');
    let program = vm.program(words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap()
}

fn each_network_leaves_by_its_own_nic(tier: &str) {
    let mut deviating = Vec::new();
    for rp_filter in ["0", "1", "2"] {
        println!("rp_filter {rp_filter}");
        let azure = azure(rp_filter);
        let nics = ["eth0", "eth1"].map(|name| nic(&azure.vms[0], name));
        let scene = Scene::new(&azure, tier);
        let [one, two] = &scene.pods;
        assert!(scene.vm().nic.pool.contains(&one.address));
        assert!(second_nic(scene.vm()).pool.contains(&two.address));
        let mut rows = Rows::default();
        of_pods(&scene, &mut rows);
        of_node(&scene, &mut rows);
        host_ports::rows(&scene, &mut rows, rp_filter == "1");
        let rows = rows.0.into_iter();
        deviating.extend(rows.map(|row| format!("rp_filter {rp_filter}: {row}")));
        if deviating.is_empty() {
            nothing_was_wrong_on_the_wire(&azure);
            both_are_taken_down(scene, &nics);
        }
    }
    assert!(deviating.is_empty(), "{deviating:#?}");
}

#[test]
fn each_network_leaves_by_its_own_nic_ebpf() {
    each_network_leaves_by_its_own_nic("ebpf");
}

#[test]
fn each_network_leaves_by_its_own_nic_netfilter() {
    each_network_leaves_by_its_own_nic("netfilter");
}
