//! Many pods at the same time.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::{Azure, icmp};

use super::daemon::{Containerd, Running};
use crate::cri::Pod;

const PODS: u16 = 30;
const LIMIT: Duration = Duration::from_secs(5);

/// The default of `max-pods` for this plugin, all at once, up and down.
#[test]
fn thirty_pods_at_once() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let vm = &azure.vms[0];
    let list = Conflist::shipped().at_version("1.0.0");
    let containerd = Containerd::start(vm, &list);
    let mac_of_bridge = || {
        let path = "/sys/class/net/azure0/address";
        containerd.node.read(path).unwrap()
    };

    let pods = each(0..PODS, |number| {
        containerd.run_pod(Pod {
            name: format!("pod-{number}"),
            ..Pod::default()
        })
    });
    let addresses: BTreeSet<_> = pods.iter().map(|pod| pod.address).collect();
    assert_eq!(addresses.len(), usize::from(PODS));
    let mac = mac_of_bridge();
    each(pods.iter().zip(1..), |(pod, number)| {
        let from = azure.vms[1].namespace();
        icmp::ping(from, pod.address, number, b"everybody there?", LIMIT).unwrap();
    });

    each(pods, |pod: Running| {
        let client = containerd.client();
        client.stop_pod(&pod.id).unwrap();
        client.remove_pod(&pod.id).unwrap();
    });
    assert_eq!(mac_of_bridge(), mac);
    containerd.assert_nothing_left();
}

/// Does it for each on a thread of its own, all at once.
fn each<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| scope.spawn(move || work(item)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}
