//! A pod that sends from a MAC that is not its own does not get what is for the other.

use std::net::UdpSocket;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::{FABRIC_MAC, INTERNET, Mac};
use azure_vnet_testbed::packet_socket::packet_socket;
use azure_vnet_testbed::pod::{Pod, PodSpec};

use super::{LIMIT, mac_of, on, run, seen_from_internet};

/// Of a type that nobody answers: such a frame only teaches the bridge.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];

#[test]
fn a_pod_with_its_neighbours_mac_does_not_get_its_neighbours_frames() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let victim = vm.add_pod(&on(tier), &PodSpec::named("victim")).unwrap();
        let thief = vm.add_pod(&on(tier), &PodSpec::named("thief")).unwrap();
        let socket = victim
            .namespace()
            .run(|| UdpSocket::bind((victim.address, 0)));
        let socket = socket.unwrap().unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let stolen = mac_of(&victim);
        let before = entries(&azure, stolen);
        send_from(&thief, stolen);
        assert_eq!(entries(&azure, stolen), before, "{tier}");
        // The victim is silent: nothing of its own puts the bridge right.
        let sender = azure
            .internet
            .namespace()
            .run(|| UdpSocket::bind((INTERNET[0], 0)));
        let to = socket.local_addr().unwrap();
        sender.unwrap().unwrap().send_to(b"for you", to).unwrap();
        let (length, _) = socket.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(length, b"for you".len(), "{tier}");
    }
}

#[test]
fn a_pod_with_the_fabrics_mac_does_not_become_the_router() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let victim = vm.add_pod(&on(tier), &PodSpec::named("victim")).unwrap();
        let thief = vm.add_pod(&on(tier), &PodSpec::named("thief")).unwrap();
        assert_eq!(seen_from_internet(&victim), vm.nic.primary, "{tier}");
        let before = entries(&azure, FABRIC_MAC);
        send_from(&thief, FABRIC_MAC);
        assert_eq!(entries(&azure, FABRIC_MAC), before, "{tier}");
    }
}

/// Where the bridge takes a MAC to be.
fn entries(azure: &Azure, mac: Mac) -> Vec<String> {
    let table = run(&azure.vms[0], "bridge fdb show br azure0");
    let entries = table
        .lines()
        .filter(|line| line.starts_with(&mac.to_string()));
    let entries: Vec<String> = entries.map(str::to_owned).collect();
    assert_eq!(entries.len(), 1, "{table}");
    entries
}

fn send_from(pod: &Pod<'_>, mac: Mac) {
    let mut frame = [FABRIC_MAC.0, mac.0].concat();
    frame.extend(EXPERIMENTAL);
    frame.resize(60, 0);
    let socket = pod.namespace().run(|| packet_socket("eth0"));
    let socket = socket.unwrap().unwrap();
    for _ in 0..3 {
        socket.send(&frame).unwrap();
    }
}
