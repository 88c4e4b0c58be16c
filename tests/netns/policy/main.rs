//! The masquerade policy on the wire, in both tiers: what the far side sees, whatever was configured, whatever changed, and whoever
//! else has rules on the node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod agent;
mod beside;
mod change;
mod ports;
mod property;
mod sink;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::connection::Connection;
use azure_vnet_testbed::host::Host;
use azure_vnet_testbed::pod::Pod;
use azure_vnet_testbed::{PLUGIN_DIR, Vm};
use serde_json::{Value, json};

const TIERS: [&str; 2] = ["ebpf", "netfilter"];
const LIMIT: Duration = Duration::from_secs(5);

/// The shipped list, with a `masquerade` object for one tier.
fn list(tier: &str, masquerade: &Value) -> Conflist {
    let mut masquerade = masquerade.clone();
    masquerade["datapath"] = json!(tier);
    Conflist::shipped().with_setting("azure-vnet", "masquerade", &masquerade)
}

fn status(vm: &Vm) -> Value {
    let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    // Ends with 1 where something is wrong, which may be what is asked for.
    let output = plugin.args(["status", "--json"]).output().unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

/// A TCP connection from a pod to a host outside.
fn connect(host: &Host, pod: &Pod<'_>) -> Connection {
    Connection::open(pod.namespace(), host).unwrap()
}

/// The pod's packets do not arrive any more.
#[track_caller]
fn assert_cut(connection: &mut Connection) {
    connection.inside.write_all(b"?").unwrap();
    connection
        .outside
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    connection
        .outside
        .read_exact(&mut [0])
        .expect_err("nothing arrives");
}

/// A UDP socket on a host outside that tells who sends to it.
fn udp(host: &Host) -> (UdpSocket, SocketAddrV4) {
    let address = SocketAddrV4::new(host.address(), 0);
    let socket = host.namespace().run(|| UdpSocket::bind(address));
    let socket = socket.unwrap().unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let std::net::SocketAddr::V4(bound) = socket.local_addr().unwrap() else {
        unreachable!("bound to an IPv4 address")
    };
    (socket, bound)
}
