//! What others do to a flow that never stops: a Service comes and goes, connection tracking is told to forget it, the NIC gets another
//! address. It has its effect within seconds. In both tiers, however they are made.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::{Azure, Vm, conntrack};
use serde_json::json;

use super::{LIMIT, connect, list, on};

/// How the tier is made.
#[derive(Clone, Copy, Debug)]
struct Way {
    datapath: &'static str,
    /// Value of `AZURE_VNET_FORCE_CLS_BPF`.
    forced: &'static str,
    fast_path: bool,
    with_nft: bool,
}

const WAYS: [Way; 5] = [
    ebpf("0", true),
    ebpf("1", true),
    ebpf("0", false),
    netfilter(true),
    netfilter(false),
];

const fn ebpf(forced: &'static str, fast_path: bool) -> Way {
    Way {
        datapath: "ebpf",
        forced,
        fast_path,
        with_nft: true,
    }
}

const fn netfilter(with_nft: bool) -> Way {
    Way {
        datapath: "netfilter",
        forced: "0",
        fast_path: true,
        with_nft,
    }
}

/// How long anything may take on a busy machine; a second or two is what it takes.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
/// Where the pod sends to; with a Service, to the other.
const OLD: SocketAddrV4 = SocketAddrV4::new(INTERNET[1], 5353);
const NEW: SocketAddrV4 = SocketAddrV4::new(INTERNET[0], 5353);

fn azure(way: Way) -> Azure {
    let mut azure = Azure::builder().build().unwrap();
    azure.vms[0].set_environment("AZURE_VNET_FORCE_CLS_BPF", way.forced);
    if !way.with_nft {
        azure.vms[0].replace_programs(&[("nft", None)]).unwrap();
    }
    azure
}

fn socket(namespace: &Namespace, address: SocketAddrV4) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// As another program of the node, which has all of the host's.
fn run(vm: &Vm, line: &str) {
    let mut words = line.split(' ');
    let program = vm.namespace().program(words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap();
}

/// A pod's socket that never stops to send to one place, and who may get that.
struct Talk<'a> {
    client: UdpSocket,
    to: SocketAddrV4,
    servers: &'a [UdpSocket],
}

impl Talk<'_> {
    /// Sends until a server gets a datagram that is sent from now on and answers it; which, and whom it came from.
    fn answered(&self, number: u8) -> (SocketAddr, SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "nobody answers {number}");
            // That a port is closed is told by the next call.
            let _ = self.client.send_to(&[number], self.to);
            sleep(PAUSE);
            for server in self.servers {
                let mut byte = [0];
                while let Ok((_, from)) = server.recv_from(&mut byte) {
                    let _ = server.send_to(&byte, from);
                    if byte == [number] && self.hears(number) {
                        return (server.local_addr().unwrap(), from);
                    }
                }
            }
        }
    }

    /// Until the datagrams of the pod that are answered come to `server`.
    fn comes_to(&self, server: SocketAddrV4) -> SocketAddr {
        let deadline = Instant::now() + PATIENCE;
        let mut number = 0_u8;
        loop {
            number = number.wrapping_add(1);
            let (at, from) = self.answered(number);
            if at == SocketAddr::from(server) {
                return from;
            }
            assert!(
                Instant::now() < deadline,
                "they go to {at}, and not to {server}"
            );
        }
    }

    fn hears(&self, number: u8) -> bool {
        let deadline = Instant::now() + LIMIT;
        let mut byte = [0];
        while Instant::now() < deadline {
            match self.client.recv(&mut byte) {
                Ok(_) if byte == [number] => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(PAUSE),
                _ => {}
            }
        }
        false
    }
}

/// As kube-proxy has it: the rule, then what is known of flows to the Service is deleted. One socket all the while.
#[test]
fn a_service_that_came_or_went_is_noticed_by_a_socket_that_never_stops() {
    for way in WAYS {
        let azure = azure(way);
        let vm = &azure.vms[0];
        let masquerade = json!({ "datapath": way.datapath, "fastPath": way.fast_path });
        let pod = vm
            .add_pod(&list(&masquerade), &PodSpec::named("web"))
            .unwrap();
        let servers = [OLD, NEW].map(|address| socket(azure.internet.namespace(), address));
        let talk = Talk {
            client: socket(pod.namespace(), SocketAddrV4::new(pod.address, 0)),
            to: OLD,
            servers: &servers,
        };
        let service = |verb: &str| {
            let (ip, port) = (OLD.ip(), OLD.port());
            run(
                vm,
                &format!(
                    "iptables -t nat -{verb} PREROUTING -p udp -d {ip} --dport {port} -j DNAT --to-destination {NEW}"
                ),
            );
            conntrack::forget(vm.namespace()).unwrap();
        };
        for (verb, server) in [("", OLD), ("A", NEW), ("D", OLD), ("A", NEW)] {
            if !verb.is_empty() {
                service(verb);
            }
            let from = talk.comes_to(server);
            assert_eq!(from.ip(), vm.nic.primary, "{way:?} {verb}");
        }
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
        assert_eq!(azure.fabric.leaked().unwrap(), 0);
    }
}

/// Without a rule: the flow goes on as it was.
#[test]
fn what_connection_tracking_was_told_to_forget_goes_on() {
    for way in WAYS {
        let azure = azure(way);
        let vm = &azure.vms[0];
        let pod = vm
            .add_pod(&on(way.datapath), &PodSpec::named("web"))
            .unwrap();
        let servers = [socket(azure.internet.namespace(), OLD)];
        let talk = Talk {
            client: socket(pod.namespace(), SocketAddrV4::new(pod.address, 0)),
            to: OLD,
            servers: &servers,
        };
        let mut connection = connect(&azure, &pod);
        for _ in 0..3 {
            assert_eq!(talk.comes_to(OLD).ip(), vm.nic.primary, "{way:?}");
            connection.is_alive().unwrap();
            conntrack::forget(vm.namespace()).unwrap();
        }
        assert_eq!(azure.fabric.leaked().unwrap(), 0);
    }
}

/// From the next call of the plugin on nothing has the address before: datagrams have the new one, and connections end.
#[test]
fn what_never_stops_leaves_with_the_nics_new_address() {
    for way in WAYS {
        let azure = azure(way);
        let vm = &azure.vms[0];
        let list = on(way.datapath);
        let pod = vm.add_pod(&list, &PodSpec::named("web")).unwrap();
        let servers = [socket(azure.internet.namespace(), OLD)];
        let talk = Talk {
            client: socket(pod.namespace(), SocketAddrV4::new(pod.address, 0)),
            to: OLD,
            servers: &servers,
        };
        let before = vm.nic.primary;
        assert_eq!(talk.comes_to(OLD).ip(), before, "{way:?}");
        let mut connection = connect(&azure, &pod);
        connection.is_alive().unwrap();

        let [net, vnet, _, host] = before.octets();
        let after = Ipv4Addr::new(net, vnet, 9, host);
        // What is in the same subnet would go with the first.
        run(vm, &format!("ip address delete {before}/20 dev eth0"));
        run(vm, &format!("ip address add {after}/20 dev eth0"));
        run(vm, "ip route replace default via 10.0.0.1 dev eth0");
        azure.readdress(0, after).unwrap();
        vm.add_pod(&list, &PodSpec::named("other")).unwrap();

        let spoofed = azure.fabric.verdicts(0).unwrap().spoofed();
        assert_eq!(talk.comes_to(OLD).ip(), after, "{way:?}");
        // What it sends now is of no connection that its remote knows.
        connection.inside.write_all(b"?").unwrap();
        let end = connection.inside.read(&mut [0]).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset, "{way:?}");
        assert_eq!(
            azure.fabric.verdicts(0).unwrap().spoofed(),
            spoofed,
            "{way:?}"
        );
        assert_eq!(azure.fabric.leaked().unwrap(), 0);
    }
}
