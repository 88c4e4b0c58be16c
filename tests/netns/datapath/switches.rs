//! From one tier to another under connections that are open: nothing is lost.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};

use azure_vnet_testbed::address_plan::ON_PREM;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, exchange};
use serde_json::json;
use socket2::Type;

use super::fast_path::{MECHANISMS, azure};
use super::{LIMIT, list, status};

/// From netfilter to eBPF, a connection that came in from outside the ranges: what the pod answers leaves as the pod.
#[test]
fn netfilter_to_ebpf_keeps_connections_that_came_in() {
    for (forced, mechanism) in MECHANISMS {
        for with_nft in [true, false] {
            let mut azure = azure(forced);
            if !with_nft {
                azure.vms[0].replace_programs(&[("nft", None)]).unwrap();
            }
            let vm = &azure.vms[0];
            let on = |tier: &str| {
                let ranges = ["10.0.0.0/16"];
                list(&json!({ "datapath": tier, "nonMasqueradeCIDRs": ranges }))
            };
            let pod = vm
                .add_pod(&on("netfilter"), &PodSpec::named("old"))
                .unwrap();
            let mut came_in = Inbound::open(&azure, &pod);
            came_in.is_alive();
            vm.add_pod(&on("ebpf"), &PodSpec::named("new")).unwrap();
            assert_eq!(status(vm)["tier"]["ebpf"], mechanism);
            came_in.is_alive();
            let seen = exchange::ask(
                Type::STREAM,
                pod.namespace(),
                None,
                SocketAddrV4::new(ON_PREM, REPORT_PORT),
            );
            assert_eq!(seen.unwrap(), vm.nic.primary);
            came_in.is_alive();
        }
    }
}

/// A TCP connection and datagrams of a host on premises with a pod.
struct Inbound {
    streams: [TcpStream; 2],
    datagrams: [UdpSocket; 2],
}

impl Inbound {
    fn open(azure: &Azure, pod: &Pod<'_>) -> Self {
        let outside = azure.on_prem.namespace();
        let inside = (pod.address, 8080);
        let listener = pod
            .namespace()
            .run(|| TcpListener::bind(inside))
            .unwrap()
            .unwrap();
        let stream = outside.run(|| TcpStream::connect(inside)).unwrap().unwrap();
        let streams = [stream, listener.accept().unwrap().0];
        let bind = |namespace: &Namespace, address| {
            namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap()
        };
        let datagrams = [bind(outside, (ON_PREM, 0)), bind(pod.namespace(), inside)];
        datagrams[0].connect(inside).unwrap();
        for stream in &streams {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
        }
        for socket in &datagrams {
            socket.set_read_timeout(Some(LIMIT)).unwrap();
        }
        datagrams[0].send(b"?").unwrap();
        let (_, from) = datagrams[1].recv_from(&mut [0]).unwrap();
        datagrams[1].connect(from).unwrap();
        datagrams[1].send(b"!").unwrap();
        datagrams[0].recv(&mut [0]).unwrap();
        Self { streams, datagrams }
    }

    /// The pod is the first to say something.
    #[track_caller]
    fn is_alive(&mut self) {
        for from in [1, 0] {
            let to = 1 - from;
            self.streams[from].write_all(b"?").unwrap();
            self.streams[to].read_exact(&mut [0]).unwrap();
            self.datagrams[from].send(b"?").unwrap();
            self.datagrams[to].recv(&mut [0]).unwrap();
        }
    }
}
