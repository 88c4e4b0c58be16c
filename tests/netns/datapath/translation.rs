//! What is more than an address and a port: ICMP errors, fragments, a smaller MTU on the way. In both tiers.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Instant;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, on};

const TIERS: [&str; 2] = ["ebpf", "netfilter"];

/// A host's "port unreachable" reaches the pod that sent the datagram.
#[test]
fn an_icmp_error_reaches_the_pod() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let pod = azure.vms[0]
            .add_pod(&on(tier), &PodSpec::named("web"))
            .unwrap();
        let socket = udp(&pod);
        socket.connect(SocketAddrV4::new(INTERNET[0], 9)).unwrap();
        socket.send(b"anybody there?").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{tier}");
    }
}

/// And a pod's reaches the host whose datagram it refuses.
#[test]
fn a_pods_icmp_error_reaches_the_internet() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let pod = azure.vms[0]
            .add_pod(&on(tier), &PodSpec::named("web"))
            .unwrap();
        let server = azure
            .internet
            .namespace()
            .run(|| UdpSocket::bind((INTERNET[0], 0)))
            .unwrap()
            .unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        let client = udp(&pod);
        client
            .send_to(b"call me", server.local_addr().unwrap())
            .unwrap();
        let (_, node) = server.recv_from(&mut [0; 16]).unwrap();
        server.connect(node).unwrap();
        drop(client);
        server.send(b"hello?").unwrap();
        let error = server.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{tier}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier}");
    }
}

/// Datagrams of several packets, both ways.
#[test]
fn fragments_are_masqueraded_both_ways() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let pod = azure.vms[0]
            .add_pod(&on(tier), &PodSpec::named("web"))
            .unwrap();
        let server = azure
            .internet
            .namespace()
            .run(|| UdpSocket::bind((INTERNET[0], 0)))
            .unwrap()
            .unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        let client = udp(&pod);
        let large: Vec<u8> = (0..6000_u32)
            .map(|number| number.to_le_bytes()[0])
            .collect();
        let mut buffer = vec![0; 8000];

        client
            .send_to(&large, server.local_addr().unwrap())
            .unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], large, "{tier}");
        assert_eq!(from.ip(), azure.vms[0].nic.primary, "{tier}");

        server.send_to(&large, from).unwrap();
        let (length, _) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], large, "{tier}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier}");
    }
}

/// A datagram of several packets from the internet to a pod's own address, and one back.
#[test]
fn fragments_of_an_inbound_flow_keep_the_pods_address() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let pod = azure.vms[0]
            .add_pod(&on(tier), &PodSpec::named("web"))
            .unwrap();
        let server = pod
            .namespace()
            .run(|| UdpSocket::bind((pod.address, 0)))
            .unwrap()
            .unwrap();
        let client = azure
            .internet
            .namespace()
            .run(|| UdpSocket::bind((INTERNET[0], 0)))
            .unwrap()
            .unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(LIMIT)).unwrap();
        }
        let large = [7; 4000];
        let mut buffer = [0; 8000];
        client
            .send_to(&large, server.local_addr().unwrap())
            .unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], large, "{tier}");
        server.send_to(&large, from).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], large, "{tier}");
        assert_eq!(from.ip(), pod.address, "{tier}");
    }
}

/// A link with a smaller MTU on the way: its router's "fragmentation needed" has to come through, or the transfer hangs.
#[test]
fn a_smaller_mtu_on_the_way_is_found_out() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let pod = azure.vms[0]
            .add_pod(&on(tier), &PodSpec::named("web"))
            .unwrap();
        narrow(&azure);
        let listener = azure
            .internet
            .namespace()
            .run(|| TcpListener::bind((INTERNET[0], 0)))
            .unwrap()
            .unwrap();
        let server = listener.local_addr().unwrap();
        let received = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut data = Vec::new();
            stream.read_to_end(&mut data).map(|_| data.len())
        });
        let mut stream = pod
            .namespace()
            .run(|| TcpStream::connect_timeout(&server, LIMIT))
            .unwrap()
            .unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&vec![1; 1 << 20]).unwrap();
        drop(stream);
        assert_eq!(received.join().unwrap().unwrap(), 1 << 20, "{tier}");
    }
}

/// A simultaneous open (RFC 9293, section 3.5): the pod's first SYN is lost behind the node, and the remote, which knows the port, connects
/// to it from its side.
#[test]
fn both_sides_may_open_at_once() {
    const POD_PORT: u16 = 20_500;
    const REMOTE_PORT: u16 = 8443;
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let pod = vm.add_pod(&on(tier), &PodSpec::named("web")).unwrap();
        let internet = azure.internet.namespace();
        let rules = format!(
            "table ip lossy {{ chain input {{ type filter hook input priority 0; \
             tcp dport {REMOTE_PORT} tcp flags & (syn | ack) == syn counter drop; }}; }}"
        );
        let nft = internet.program("nft").unwrap();
        nft.args(["-f", "-"]).stdin(rules).checked().unwrap();
        let remote = SocketAddrV4::new(INTERNET[0], REMOTE_PORT);
        let seen_as = SocketAddrV4::new(vm.nic.primary, POD_PORT);
        thread::scope(|scope| {
            let of_pod = scope.spawn(|| {
                let from = SocketAddrV4::new(pod.address, POD_PORT);
                open(pod.namespace(), from, remote)
            });
            let begun = Instant::now();
            while is_lossless(internet) {
                assert!(begun.elapsed() < LIMIT, "{tier}: no SYN of the pod");
                thread::sleep(LIMIT / 500);
            }
            let mut of_remote = open(internet, remote, seen_as).unwrap();
            let mut of_pod = of_pod.join().unwrap().unwrap();
            for (from, to) in [(0, 1), (1, 0)] {
                let streams = [&mut of_pod, &mut of_remote];
                streams[from].write_all(b"hello").unwrap();
                let mut heard = [0; 5];
                streams[to].read_exact(&mut heard).unwrap();
                assert_eq!(&heard, b"hello", "{tier}");
            }
        });
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier}");
    }
}

/// Whether the SYN has not come yet.
fn is_lossless(internet: &Namespace) -> bool {
    let nft = internet.program("nft").unwrap();
    let listing = nft.args(["list", "table", "ip", "lossy"]).checked();
    listing.unwrap().contains("counter packets 0 ")
}

fn open(namespace: &Namespace, from: SocketAddrV4, to: SocketAddrV4) -> io::Result<TcpStream> {
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), LIMIT)?;
        io::Result::Ok(TcpStream::from(socket))
    };
    let stream = namespace.run(connect).unwrap()?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// The link between the fabric and the internet host takes 1280 bytes, on the fabric's side only, so that the host still offers
/// segments for 1500.
fn narrow(azure: &Azure) {
    let route = azure.fabric.namespace().program("ip").unwrap();
    let found = route
        .args(["-o", "route", "get", &INTERNET[0].to_string()])
        .checked()
        .unwrap();
    let link = found
        .split(" dev ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap()
        .to_owned();
    let ip = azure.fabric.namespace().program("ip").unwrap();
    ip.args(["link", "set", &link, "mtu", "1280"])
        .checked()
        .unwrap();
}

fn udp(pod: &Pod<'_>) -> UdpSocket {
    let socket = pod
        .namespace()
        .run(|| UdpSocket::bind((pod.address, 0)))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}
