//! A pod's share of the flow table, with real sockets.

use std::io;
use std::net::UdpSocket;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use serde_json::json;

use super::scarce_ports::{client, exchange, packets, server};
use super::{LIMIT, list};

pub fn with_flows_per_pod(flows: u32) -> Conflist {
    list(&json!({ "datapath": "ebpf", "flowsPerPod": flows }))
}

/// Begins as many flows as the pod may have, and one more, which is refused in silence.
#[track_caller]
pub fn has_room_for(flows: usize, pod: &Pod<'_>, server: &UdpSocket) -> Vec<UdpSocket> {
    let clients: Vec<_> = (0..flows)
        .map(|_| client(pod.namespace(), server))
        .collect();
    for client in &clients {
        exchange(client, server).unwrap();
    }
    let one_more = client(pod.namespace(), server);
    one_more.set_read_timeout(Some(LIMIT / 50)).unwrap();
    one_more.send(b"is there room?").unwrap();
    let error = one_more.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    server.set_nonblocking(true).unwrap();
    let error = server.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    server.set_nonblocking(false).unwrap();
    clients
}

#[test]
fn a_greedy_pod_takes_nothing_of_the_others() {
    // As many addresses as pods, so that one is given again.
    let azure = Azure::builder().pool(3).build().unwrap();
    let vm = &azure.vms[0];
    let few = with_flows_per_pod(2);
    let [greedy, other] =
        ["greedy", "other"].map(|name| vm.add_pod(&few, &PodSpec::named(name)).unwrap());
    let server = server(&azure);
    let flows = has_room_for(2, &greedy, &server);
    assert_eq!(packets(&azure, "pod_flow_limit"), 1);
    has_room_for(2, &other, &server);
    for client in &flows {
        exchange(client, &server).unwrap();
    }

    // Another number is in force with the next ADD, for those who are there as well.
    let more = with_flows_per_pod(3);
    let third = vm.add_pod(&more, &PodSpec::named("third")).unwrap();
    has_room_for(1, &greedy, &server);
    has_room_for(3, &third, &server);

    // Who gets the address next gets the whole share.
    let address = greedy.address;
    greedy.delete().unwrap();
    let next = vm.add_pod(&more, &PodSpec::named("next")).unwrap();
    assert_eq!(next.address, address);
    has_room_for(3, &next, &server);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}
