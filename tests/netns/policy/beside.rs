//! Beside others that have rules on the node: kube-proxy, portmap, ip-masq-agent, firewalls. In both tiers, on the eBPF tier with the
//! fast path and without.

mod firewall;
mod kube_proxy;
mod masquerading;
mod node_local;

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::reporter::Reporter;
use azure_vnet_testbed::{Azure, Vm, exchange};
use serde_json::json;
use socket2::Type;

/// Tier, and whether with the fast path.
const WAYS: [(&str, bool); 3] = [("ebpf", true), ("ebpf", false), ("netfilter", false)];

fn list((tier, fast): (&str, bool)) -> Conflist {
    super::list(tier, &json!({ "fastPath": fast }))
}

/// A node that forwards, as Kubernetes asks, with two pods of which the second serves, and another node with one that does.
struct Cluster<'a> {
    client: Pod<'a>,
    server: Pod<'a>,
    elsewhere: Pod<'a>,
    _reporters: Vec<Reporter>,
}

impl<'a> Cluster<'a> {
    fn new(azure: &'a Azure, way: (&str, bool)) -> Self {
        for vm in &azure.vms {
            run(vm, "sysctl -qw net.ipv4.ip_forward=1");
        }
        let add = |vm: &'a Vm, name| vm.add_pod(&list(way), &PodSpec::named(name)).unwrap();
        let client = add(&azure.vms[0], "client");
        let server = add(&azure.vms[0], "server");
        let elsewhere = add(&azure.vms[1], "elsewhere");
        let reporters = [&server, &elsewhere]
            .map(|pod| Reporter::start(pod.namespace(), &[pod.address], REPORT_PORT).unwrap());
        Self {
            client,
            server,
            elsewhere,
            _reporters: reporters.into(),
        }
    }
}

fn cluster() -> Azure {
    Azure::builder().vms(2).build().unwrap()
}

fn run(vm: &Vm, line: &str) {
    let mut words = line.split(' ');
    let program = vm.program(words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap();
}

fn restore(vm: &Vm, rules: &str) {
    let program = vm.program("iptables-restore").unwrap();
    program.args(["--noflush"]).stdin(rules).checked().unwrap();
}

/// What the far side of a TCP connection saw; the answer has come back.
#[track_caller]
fn seen(from: &Namespace, to: Ipv4Addr, port: u16) -> Ipv4Addr {
    exchange::ask(Type::STREAM, from, None, SocketAddrV4::new(to, port))
        .unwrap_or_else(|error| panic!("{to}:{port}: {error}"))
}

/// Nothing that the fabric forbids was sent, and nothing leaked.
#[track_caller]
fn assert_clean(azure: &Azure) {
    for vm in 0..azure.vms.len() {
        assert_eq!(azure.fabric.verdicts(vm).unwrap().spoofed(), 0);
    }
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}
