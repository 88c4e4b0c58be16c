//! Frames too short for `BPF_PROG_TEST_RUN`, sent through real devices: less than an IPv4 header is
//! malformed too.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use aya::programs::TcAttachType;
use azure_vnet_abi::{Reason, programs};
use azure_vnet_testbed::namespace::Namespace;
use bytes::Bytes;
use rustix::net::netdevice::name_to_index;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

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

/// A socket that sends whole frames through the device and receives none.
fn packet_socket(device: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, None)?;
    let mut address = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is the address type of packet sockets on this platform, and all its
    // fields are integers.
    let link = unsafe { address.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap();
    link.sll_ifindex = name_to_index(&socket, device)?.cast_signed();
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: the storage is zeroed but for the fields set above, and has this length at least.
    let address = unsafe { SockAddr::new(address, length) };
    socket.bind(&address)?;
    Ok(socket)
}
