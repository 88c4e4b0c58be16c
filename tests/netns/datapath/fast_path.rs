//! Established flows pass bridge and netfilter by: that they do, how little netfilter has to know of
//! them for that, and who is not passed by. With TCX and with `cls_bpf`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::Duration;

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::connection::{Connection, Ends};
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, Vm};
use serde_json::{Value, json};

use super::{LIMIT, connect, list, on, run, seen_from_internet, status};

/// Values of `AZURE_VNET_FORCE_CLS_BPF`.
pub(super) const MECHANISMS: [(&str, &str); 2] = [("0", "tcx"), ("1", "cls_bpf")];
/// More than fits into one TCP window before connection tracking has to follow.
pub(super) const MUCH: usize = 4 << 20;
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 6443);

/// A simulated Azure whose first VM attaches its programs in this way.
pub(super) fn azure(forced: &str) -> Azure {
    let mut azure = Azure::builder().build().unwrap();
    azure.vms[0].set_environment("AZURE_VNET_FORCE_CLS_BPF", forced);
    azure
}

fn pod<'vm>(vm: &'vm Vm, mechanism: &str) -> Pod<'vm> {
    let pod = vm.add_pod(&on("ebpf"), &PodSpec::named("web")).unwrap();
    assert_eq!(status(vm)["tier"]["ebpf"], mechanism);
    pod
}

/// Packets that took the fast path so far, out of pods and into them.
pub(super) fn fast(vm: &Vm) -> [u64; 2] {
    ["masqueraded_fast", "unmasqueraded_fast"].map(|reason| packets(vm, reason))
}

fn packets(vm: &Vm, reason: &str) -> u64 {
    let status = status(vm);
    let counters = status["counters"].as_array().unwrap();
    let counter = counters.iter().find(|counter| counter["reason"] == reason);
    counter.unwrap()["packets"].as_u64().unwrap()
}

/// Netfilter that drops what connection tracking cannot place, as kube-proxy has it do, counts what else
/// comes, and forgets flows that it has seen no more than the beginning of nearly at once.
fn forgetful_kube_proxy(vm: &Vm) {
    run(vm, INVALID_IS_DROPPED);
    run(vm, "iptables -A FORWARD -j ACCEPT");
    for state in [
        "tcp_timeout_syn_sent",
        "tcp_timeout_syn_recv",
        "udp_timeout",
        "udp_timeout_stream",
    ] {
        run(
            vm,
            &format!("sysctl -qw net.netfilter.nf_conntrack_{state}=1"),
        );
    }
}

const INVALID_IS_DROPPED: &str = "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP";

/// Packets that this rule dropped.
fn invalid(vm: &Vm) -> u64 {
    counted_by_rule(vm, "INVALID")
}

/// Packets of pods that came to netfilter and passed.
fn seen_by_netfilter(vm: &Vm) -> u64 {
    counted_by_rule(vm, " ACCEPT ")
}

fn counted_by_rule(vm: &Vm, rule: &str) -> u64 {
    let listing = run(vm, "iptables -nvxL FORWARD");
    // The last, since the heading tells the chain's policy.
    let mut rules = listing.lines().filter(|line| line.contains(rule));
    let rule = rules.next_back().unwrap();
    rule.split_whitespace().next().unwrap().parse().unwrap()
}

/// Until all that connection tracking knows has timed out.
fn let_netfilter_forget() {
    thread::sleep(Duration::from_secs(2));
}

#[track_caller]
pub(super) fn assert_clean(azure: &Azure) {
    assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

/// A connection that the pod opens to the address of a Service, with the internet behind it.
fn to_service(azure: &Azure, pod: &Pod<'_>) -> Connection {
    let ends = Ends {
        to: Some(SocketAddrV4::new(INTERNET[0], SERVICE.port())),
        service: Some(SERVICE),
        from: None,
    };
    Connection::open_between(pod.namespace(), &azure.internet, ends).unwrap()
}

/// Much data each way, then an orderly end.
pub(super) fn transfer_and_close(connection: Connection) {
    let Connection {
        mut inside,
        mut outside,
        ..
    } = connection;
    let receive = |stream: &mut std::net::TcpStream| {
        let mut data = Vec::new();
        stream.read_to_end(&mut data).map(|_| data.len()).unwrap()
    };
    let answer = thread::spawn(move || {
        let asked = receive(&mut outside);
        outside.write_all(&vec![2; MUCH]).unwrap();
        asked
    });
    inside.write_all(&vec![1; MUCH]).unwrap();
    inside.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive(&mut inside), MUCH);
    assert_eq!(answer.join().unwrap(), MUCH);
}

/// Connection tracking sees the handshake and forgets it; nothing of the connection meets it again, so
/// that there is nothing it could call invalid.
#[test]
fn a_connection_outlives_what_netfilter_knows_of_it() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod = pod(vm, mechanism);
        forgetful_kube_proxy(vm);
        let mut connection = connect(&azure, &pod);
        assert_eq!(connection.from, vm.nic.primary);
        let handshake = seen_by_netfilter(vm);
        assert!(handshake >= 2, "SYN and SYN-ACK pass netfilter");
        let_netfilter_forget();

        connection.is_alive().unwrap();
        transfer_and_close(connection);
        assert_eq!(seen_by_netfilter(vm), handshake);
        assert_eq!(invalid(vm), 0);
        let packets = fast(vm);
        assert!(packets.iter().all(|packets| *packets > 40), "{packets:?}");
        assert_clean(&azure);
    }
}

/// RST is fast as well: it reaches the other side, and the next connection with the same ends begins
/// anew.
#[test]
fn a_reset_arrives_and_the_same_ends_begin_anew() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod = pod(vm, mechanism);
        run(vm, INVALID_IS_DROPPED);
        let mut connection = connect(&azure, &pod);
        connection.is_alive().unwrap();
        let ends = (
            connection.inside.local_addr().unwrap(),
            connection.inside.peer_addr().unwrap(),
        );
        let server = connection.outside.local_addr().unwrap();
        socket2::SockRef::from(&connection.inside)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(connection.inside);
        let reset = connection.outside.read(&mut [0]).unwrap_err();
        assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);

        let listener = azure
            .internet
            .namespace()
            .run(|| std::net::TcpListener::bind(server))
            .unwrap()
            .unwrap();
        let before = fast(vm);
        let mut again = pod
            .namespace()
            .run(|| {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&ends.0.into())?;
                socket.connect_timeout(&ends.1.into(), LIMIT)?;
                std::io::Result::Ok(std::net::TcpStream::from(socket))
            })
            .unwrap()
            .unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        again.write_all(b"?").unwrap();
        accepted.set_read_timeout(Some(LIMIT)).unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        assert!(fast(vm)[0] > before[0]);
        assert_eq!(invalid(vm), 0);
        assert_clean(&azure);
    }
}

/// A Service whose endpoint is outside the ranges: the reply has to pass netfilter to become the
/// Service's again.
#[test]
fn what_netfilter_translates_takes_the_slow_path() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod = pod(vm, mechanism);
        run(vm, "sysctl -qw net.ipv4.ip_forward=1");
        let to = SocketAddrV4::new(INTERNET[0], SERVICE.port());
        run(
            vm,
            &format!(
                "iptables -t nat -A PREROUTING -p tcp -d {} --dport {} -j DNAT --to-destination {to}",
                SERVICE.ip(),
                SERVICE.port()
            ),
        );
        // Of the first the bridge has to ask for the neighbour, which is another way to the NIC.
        for _ in 0..2 {
            let connection = to_service(&azure, &pod);
            assert_eq!(connection.from, vm.nic.primary);
            transfer_and_close(connection);
            assert_eq!(fast(vm), [0, 0]);
        }

        let direct = connect(&azure, &pod);
        transfer_and_close(direct);
        assert!(fast(vm).iter().all(|packets| *packets > 40));
        assert_clean(&azure);
    }
}

/// Datagrams, fragments of datagrams and ICMP errors of a fast flow, after netfilter has forgotten it.
#[test]
fn datagrams_fragments_and_errors_outlive_what_netfilter_knows() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod = pod(vm, mechanism);
        forgetful_kube_proxy(vm);
        let (client, server) = datagram_sockets(&azure, &pod);
        client.send(b"first").unwrap();
        let (_, node) = server.recv_from(&mut [0; 16]).unwrap();
        let_netfilter_forget();

        let mut buffer = vec![0; 8000];
        for length in [1, 6000, 100] {
            let sent: Vec<u8> = (0..length)
                .map(|number: u32| number.to_le_bytes()[0])
                .collect();
            client.send(&sent).unwrap();
            let (received, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[..received], from),
                (&sent[..], node),
                "{mechanism}"
            );
            server.send_to(&sent, node).unwrap();
            let received = client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..received], sent, "{mechanism}");
        }
        // What the pod sends is judged again once a second.
        assert!(fast(vm)[1] >= 7, "{:?}", fast(vm));

        drop(server);
        assert!(is_refused(&client), "{mechanism}");
        assert_eq!(invalid(vm), 0);
        assert_clean(&azure);
    }
}

/// And the pod's own errors reach the remote.
#[test]
fn a_pods_error_about_a_fast_flow_reaches_the_internet() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod = pod(vm, mechanism);
        forgetful_kube_proxy(vm);
        let (client, server) = datagram_sockets(&azure, &pod);
        client.send(b"call me").unwrap();
        let (_, node) = server.recv_from(&mut [0; 16]).unwrap();
        server.connect(node).unwrap();
        let first = seen_by_netfilter(vm);
        let_netfilter_forget();
        // Its way is the fast one, or netfilter would drop the error as that of a flow it does not know.
        server.send(b"are you there?").unwrap();
        client.recv(&mut [0; 16]).unwrap();
        assert_eq!(fast(vm), [0, 1]);
        drop(client);
        assert!(is_refused(&server), "{mechanism}");
        assert_eq!(seen_by_netfilter(vm), first);
        assert_eq!(invalid(vm), 0);
        assert_clean(&azure);
    }
}

/// Whether the other end, which was closed, is said to be so by an ICMP error. A program that another test is about to execute
/// has a copy of that end for a moment, until then it is open, so this may take several datagrams.
fn is_refused(socket: &UdpSocket) -> bool {
    let pause = Duration::from_millis(500);
    socket.set_read_timeout(Some(pause)).unwrap();
    (0..10).any(|_| {
        // The error of the datagram before may be told by this call.
        let told = socket.send(b"hello?");
        let told = told.and_then(|_| socket.recv(&mut [0; 16]));
        told.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

/// A connected socket of the pod and the one it is connected to.
pub(super) fn datagram_sockets(azure: &Azure, pod: &Pod<'_>) -> (UdpSocket, UdpSocket) {
    let bind = |namespace: &azure_vnet_testbed::namespace::Namespace, address| {
        let socket = namespace.run(|| UdpSocket::bind((address, 0)));
        let socket = socket.unwrap().unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    };
    let server = bind(azure.internet.namespace(), INTERNET[0]);
    let client = bind(pod.namespace(), pod.address);
    client.connect(server.local_addr().unwrap()).unwrap();
    (client, server)
}

/// The reference `bandwidth` plugin behind ours, with limits in bits a second.
pub(super) fn limited(limits: &Value) -> Conflist {
    let mut list: Value = serde_json::from_str(&on("ebpf").to_json()).unwrap();
    let mut bandwidth = json!({ "type": "bandwidth" });
    bandwidth
        .as_object_mut()
        .unwrap()
        .extend(limits.as_object().unwrap().clone());
    list["plugins"].as_array_mut().unwrap().push(bandwidth);
    Conflist::parse(&list.to_string()).unwrap()
}

pub(super) const RATE: u64 = 1_000_000_000;
pub(super) const BURST: u64 = 100_000_000;

/// What a pod gets is shaped on its host veth, which a fast flow passes as well.
#[test]
fn a_limit_of_what_a_pod_gets_holds_on_the_fast_path() {
    for (forced, _) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let limits = json!({ "ingressRate": RATE, "ingressBurst": BURST });
        let pod = vm
            .add_pod(&limited(&limits), &PodSpec::named("web"))
            .unwrap();
        transfer_and_close(connect(&azure, &pod));
        assert!(fast(vm)[1] > 40);
        assert!(shaped(vm) >= MUCH, "{}", run(vm, "tc -s qdisc show"));
        assert_clean(&azure);
    }
}

/// What a pod sends is shaped on its way from the veth to the bridge, by way of another device: such a
/// flow must not leave before.
#[test]
fn a_limit_of_what_a_pod_sends_keeps_its_flows_off_the_fast_path() {
    let azure = azure("0");
    let vm = &azure.vms[0];
    let limits = json!({ "egressRate": RATE, "egressBurst": BURST });
    let pod = vm
        .add_pod(&limited(&limits), &PodSpec::named("web"))
        .unwrap();
    transfer_and_close(connect(&azure, &pod));
    assert_eq!(fast(vm), [0, 0]);
    assert!(shaped(vm) >= MUCH, "{}", run(vm, "tc -s qdisc show"));

    // Its neighbour has no limit.
    let other = vm.add_pod(&on("ebpf"), &PodSpec::named("other")).unwrap();
    transfer_and_close(connect(&azure, &other));
    assert!(fast(vm).iter().all(|packets| *packets > 40));
    assert_clean(&azure);
}

/// Bytes that passed the token buckets of a VM with one limit.
pub(super) fn shaped(vm: &Vm) -> usize {
    let listing = run(vm, "tc -s qdisc show");
    let mut lines = listing
        .lines()
        .skip_while(|line| !line.starts_with("qdisc tbf"));
    let sent = lines
        .nth(1)
        .unwrap_or_else(|| panic!("no tbf in {listing}"));
    sent.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Off, no flow takes the fast path any more. One that did goes on: connection tracking does not know it.
#[test]
fn switched_off_it_takes_no_new_flows_and_loses_none() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let pod = pod(vm, mechanism);
        forgetful_kube_proxy(vm);
        let mut old = connect(&azure, &pod);
        old.is_alive().unwrap();
        let_netfilter_forget();
        let off = list(&json!({ "datapath": "ebpf", "fastPath": false }));
        vm.add_pod(&off, &PodSpec::named("other")).unwrap();

        let before = fast(vm);
        assert_eq!(seen_from_internet(&pod), vm.nic.primary);
        let mut new = connect(&azure, &pod);
        new.is_alive().unwrap();
        assert_eq!(fast(vm), before);
        transfer_and_close(old);
        assert!(fast(vm)[0] > before[0]);
        assert_eq!(invalid(vm), 0);
        assert_clean(&azure);
    }
}
