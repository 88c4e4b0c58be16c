//! Frames too short for `BPF_PROG_TEST_RUN`, sent through real devices: less than an IPv4 header is
//! malformed too.

use std::thread::sleep;
use std::time::Duration;

use aya::programs::TcAttachType;
use azure_vnet_abi::{Reason, programs};
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::packet_socket::packet_socket;
use bytes::Bytes;

use crate::harness::Node;
use crate::packet::{SHORTEST, SYN, tcp};
use crate::plan::{KEPT, REMOTE, WEB};

/// `ETH_HLEN`: what a device sends at least.
const ETHERNET: usize = 14;

#[test]
fn from_a_pod_they_are_malformed() {
    are_malformed(programs::FROM_POD, "web", TcAttachType::Ingress, "pod");
}

#[test]
fn to_the_uplink_they_are_malformed() {
    are_malformed(programs::TO_UPLINK, "web", TcAttachType::Egress, "web");
}

/// Every length is sent through the device `sender` and counted by the program at `device`.
fn are_malformed(program: &str, device: &str, direction: TcAttachType, sender: &str) {
    let mut node = Node::new();
    let namespace = veth_of_a_pod();
    let _attached = namespace
        .run(|| node.attach(program, device, direction))
        .unwrap();
    let socket = namespace.run(|| packet_socket(sender)).unwrap().unwrap();

    let whole = tcp((WEB.address, KEPT), (REMOTE, 443), SYN)
        .of(&WEB)
        .bytes();
    let frames: Vec<Bytes> = (ETHERNET..SHORTEST)
        .map(|length| whole.slice(..length))
        .collect();
    for frame in &frames {
        match socket.send(frame) {
            Ok(sent) => assert_eq!(sent, frame.len()),
            // How the kernel tells a packet socket that its frame was dropped on the way out.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS)),
        }
    }
    // The other side of a veth runs a moment later.
    for _ in 0..100 {
        if malformed(&node) == frames.len() {
            return;
        }
        sleep(Duration::from_millis(50));
    }
    panic!("{} of {} were counted", malformed(&node), frames.len());
}

fn malformed(node: &Node) -> usize {
    let (_, packets) = node.counters()[Reason::Malformed as usize];
    usize::try_from(packets).unwrap()
}

/// A host veth with the index that the node knows for its pod.
fn veth_of_a_pod() -> Namespace {
    let namespace = Namespace::network().expect("these tests need root (CAP_SYS_ADMIN)");
    let index = WEB.ifindex.to_string();
    let ip = |arguments: &[&str]| {
        let program = namespace.program("ip").unwrap();
        program.args(arguments).checked().unwrap();
    };
    ip(&[
        "link", "add", "web", "index", &index, "type", "veth", "peer", "name", "pod",
    ]);
    ip(&["link", "set", "web", "up"]);
    ip(&["link", "set", "pod", "up"]);
    namespace
}
