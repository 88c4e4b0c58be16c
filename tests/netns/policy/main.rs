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
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::conflist::Conflist;
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

/// The name of the node's end of a pod's link, out of the result of its ADD.
fn host_veth(pod: &Pod<'_>) -> String {
    let interfaces = pod.result["interfaces"].as_array().unwrap();
    let names = interfaces
        .iter()
        .filter_map(|interface| interface["name"].as_str());
    let mut veths = names.filter(|name| name.starts_with("azv"));
    veths.next().unwrap().to_owned()
}

fn status(vm: &Vm) -> Value {
    let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    // Ends with 1 where something is wrong, which may be what is asked for.
    let output = plugin.args(["status", "--json"]).output().unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

/// A TCP connection from a pod to a host outside that stays open.
struct Connection {
    pod: TcpStream,
    host: TcpStream,
    /// What the host saw it come from.
    from: Ipv4Addr,
}

impl Connection {
    fn open(host: &Host, pod: &Pod<'_>) -> Self {
        let address = SocketAddrV4::new(host.address(), 0);
        let listener = host.namespace().run(|| TcpListener::bind(address));
        let listener = listener.unwrap().unwrap();
        let server = listener.local_addr().unwrap();
        let client = pod
            .namespace()
            .run(|| TcpStream::connect_timeout(&server, LIMIT));
        let client = client.unwrap().unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        for stream in [&client, &accepted] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
        }
        let std::net::IpAddr::V4(from) = peer.ip() else {
            panic!("an IPv6 peer {peer}");
        };
        Self {
            pod: client,
            host: accepted,
            from,
        }
    }

    /// Both directions still work.
    #[track_caller]
    fn assert_alive(&mut self) {
        let mut byte = [0];
        self.pod.write_all(b"?").unwrap();
        self.host
            .read_exact(&mut byte)
            .expect("the pod's byte arrives");
        self.host.write_all(b"!").unwrap();
        self.pod.read_exact(&mut byte).expect("the answer arrives");
    }

    /// The pod's packets do not arrive any more.
    #[track_caller]
    fn assert_cut(&mut self) {
        self.pod.write_all(b"?").unwrap();
        self.host
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        self.host.read_exact(&mut [0]).expect_err("nothing arrives");
    }
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
