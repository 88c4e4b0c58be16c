//! The datapath over its life: which tier is chosen, what happens when its state is lost, replaced or changed, and that pods and
//! their connections survive it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod address_reuse;
mod ceilings;
mod chained;
mod choice;
mod direct;
mod ended_by_others;
mod external_programs;
mod fast_path;
mod foreign;
mod forged_macs;
mod iptables;
mod lifecycle;
mod offloads;
mod queued;
mod reserved_ports;
mod scarce_ports;
mod share;
mod switches;
mod translation;
mod versions;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use azure_vnet_abi::ABI_VERSION;
use azure_vnet_testbed::address_plan::{INTERNET, Mac};
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::connection::Connection;
use azure_vnet_testbed::exchange;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::pod::Pod;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};
use serde_json::{Value, json};
use socket2::Type;

const LIMIT: Duration = Duration::from_secs(5);
const REPORT_OF_INTERNET: SocketAddrV4 = SocketAddrV4::new(INTERNET[0], REPORT_PORT);

/// The shipped list, with a `masquerade` object.
fn list(masquerade: &Value) -> Conflist {
    Conflist::shipped().with_setting("azure-vnet", "masquerade", masquerade)
}

fn on(datapath: &str) -> Conflist {
    list(&json!({ "datapath": datapath }))
}

fn status(vm: &Vm) -> Value {
    let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    let text = plugin.args(["status", "--json"]).checked().unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["bridges"][0].take()
}

/// Where the eBPF tier of the VM pins what it makes.
fn pins() -> String {
    format!("/sys/fs/bpf/azure-vnet/v{ABI_VERSION}/azure0")
}

fn run(vm: &Vm, line: &str) -> String {
    let mut words = line.split(' ');
    let program = vm.program(words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap()
}

/// What the internet sees a pod's TCP connection come from.
fn seen_from_internet(pod: &Pod<'_>) -> Ipv4Addr {
    exchange::ask(Type::STREAM, pod.namespace(), None, REPORT_OF_INTERNET).unwrap()
}

/// The MAC of a pod's `eth0`.
fn mac_of(pod: &Pod<'_>) -> Mac {
    let interfaces = pod.result["interfaces"].as_array().unwrap();
    let inside = interfaces
        .iter()
        .find(|interface| interface["name"] == "eth0" && interface["sandbox"].is_string())
        .unwrap();
    let octets = inside["mac"].as_str().unwrap().split(':');
    let octets: Vec<u8> = octets
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    Mac(octets.try_into().unwrap())
}

/// A TCP connection from a pod to the internet.
fn connect(azure: &Azure, pod: &Pod<'_>) -> Connection {
    Connection::open(pod.namespace(), &azure.internet).unwrap()
}
