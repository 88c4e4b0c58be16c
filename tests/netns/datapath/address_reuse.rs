//! The next pod with an address gets nothing of what the one before had, although the remote goes on sending. In both tiers, however
//! they are made.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, Vm};

use super::scarce_ports::server;
use super::{LIMIT, on, run};

/// How the tier is made: its name, a value of `AZURE_VNET_FORCE_CLS_BPF`, whether `nft` is there.
const WAYS: [(&str, &str, bool); 4] = [
    ("ebpf", "0", true),
    ("ebpf", "1", true),
    ("netfilter", "0", true),
    ("netfilter", "0", false),
];
/// The port of a pod that another one listens on later.
const PORT: u16 = 20_777;
const HOST_PORT: u16 = 8053;
/// How many datagrams the remote sends to a pod that is gone, before the next and to it.
const LATE: usize = 50;

/// One address for pods.
fn azure((_, forced, with_nft): (&str, &str, bool)) -> Azure {
    let mut azure = Azure::builder().pool(1).build().unwrap();
    azure.vms[0].set_environment("AZURE_VNET_FORCE_CLS_BPF", forced);
    if !with_nft {
        azure.vms[0].replace_programs(&[("nft", None)]).unwrap();
    }
    azure
}

fn socket(namespace: &Namespace, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = namespace
        .run(|| UdpSocket::bind((address, port)))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// What the next pod gets of `late`, which the remote goes on sending to `to` from before it is there.
fn of_the_next_pod<'vm>(
    vm: &'vm Vm,
    list: &Conflist,
    remote: &UdpSocket,
    to: SocketAddr,
) -> (Pod<'vm>, usize) {
    let send = || {
        for _ in 0..LATE {
            // A port of the node on which nobody listens is said to be one.
            let _ = remote.send_to(b"late", to);
        }
    };
    send();
    let pod = vm.add_pod(list, &PodSpec::named("next")).unwrap();
    let listener = socket(pod.namespace(), pod.address, PORT);
    send();
    // What comes behind it comes from the remote by a way of its own.
    let other = socket(pod.namespace(), pod.address, 0);
    other
        .send_to(b"who is there?", remote.local_addr().unwrap())
        .unwrap();
    let from = loop {
        let mut buffer = [0; 16];
        let (length, from) = remote.recv_from(&mut buffer).unwrap();
        if &buffer[..length] == b"who is there?" {
            break from;
        }
    };
    remote.send_to(b"fence", from).unwrap();
    other.recv(&mut [0; 16]).unwrap();
    listener
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut got = 0;
    while listener.recv(&mut [0; 16]).is_ok() {
        got += 1;
    }
    (pod, got)
}

#[test]
fn replies_to_a_pod_that_is_gone_are_not_the_next_pods() {
    for way in WAYS {
        let azure = azure(way);
        let vm = &azure.vms[0];
        let list = on(way.0);
        let pod = vm.add_pod(&list, &PodSpec::named("first")).unwrap();
        let address = pod.address;
        let remote = server(&azure);
        let client = socket(pod.namespace(), pod.address, PORT);
        client
            .send_to(b"hello", remote.local_addr().unwrap())
            .unwrap();
        let (_, from) = remote.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(from.ip(), vm.nic.primary);
        remote.send_to(b"you", from).unwrap();
        client.recv(&mut [0; 16]).unwrap();
        drop(client);
        pod.delete().unwrap();

        let (next, got) = of_the_next_pod(vm, &list, &remote, from);
        assert_eq!(next.address, address);
        assert_eq!(got, 0, "{way:?}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0);
    }
}

/// A rule that translated it, as for a Service or a hostPort, is gone with the pod; what connection tracking noted is not the rule.
#[test]
fn what_was_translated_to_a_pod_that_is_gone_is_not_the_next_pods() {
    for way in WAYS {
        let azure = azure(way);
        let vm = &azure.vms[0];
        let list = on(way.0);
        let pod = vm.add_pod(&list, &PodSpec::named("first")).unwrap();
        let rule = format!(
            "PREROUTING -p udp -d {} --dport {HOST_PORT} -j DNAT --to-destination {}:{PORT}",
            vm.nic.primary, pod.address
        );
        // As another program of the node, which has all of the host's.
        let iptables = |verb: &str| {
            let words = format!("-t nat {verb} {rule}");
            let program = vm.namespace().program("iptables").unwrap();
            program.args(words.split(' ')).checked().unwrap();
        };
        iptables("-A");
        let listener = socket(pod.namespace(), pod.address, PORT);
        let remote = socket(azure.internet.namespace(), INTERNET[0], 0);
        let to = SocketAddr::from((vm.nic.primary, HOST_PORT));
        remote.send_to(b"hello", to).unwrap();
        let (_, from) = listener.recv_from(&mut [0; 16]).unwrap();
        listener.send_to(b"you", from).unwrap();
        assert_eq!(remote.recv_from(&mut [0; 16]).unwrap().1, to);
        drop(listener);
        iptables("-D");
        pod.delete().unwrap();

        let (_next, got) = of_the_next_pod(vm, &list, &remote, to);
        assert_eq!(got, 0, "{way:?}");
    }
}

/// Those of a pod that lives, with another address, are left.
#[test]
fn another_pods_connections_go_on() {
    for way in WAYS {
        let mut azure = Azure::builder().build().unwrap();
        azure.vms[0].set_environment("AZURE_VNET_FORCE_CLS_BPF", way.1);
        let vm = &azure.vms[0];
        let list = on(way.0);
        let [old, stays] =
            ["old", "stays"].map(|name| vm.add_pod(&list, &PodSpec::named(name)).unwrap());
        let mut connection = super::connect(&azure, &stays);
        let before = run(vm, "cat /proc/sys/net/netfilter/nf_conntrack_count");
        old.delete().unwrap();
        connection.is_alive().unwrap();
        // Without rules the kernel tracks nothing.
        assert_eq!(before.trim() == "0", way.0 == "ebpf", "{way:?}");
    }
}
