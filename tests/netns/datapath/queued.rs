//! A program that netfilter asks about packets (`NFQUEUE`) is asked about all of a flow, and not about the first one alone: flows
//! that begin while there is one are slow. With TCX and with `cls_bpf`.

use std::time::{Duration, Instant};

use azure_vnet_testbed::Vm;
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::queue::Queue;

use super::fast_path::{MECHANISMS, assert_clean, azure, datagram_sockets, fast};
use super::{LIMIT, connect, on, run};

/// Questions and answers, one at a time: the node has nothing else to do meanwhile, so that the packet that comes back from the
/// program is the one that was noted last.
const ROUNDS: u8 = 20;

#[test]
fn who_reads_a_queue_of_netfilter_sees_every_packet() {
    for (forced, _) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        run(vm, "iptables -I FORWARD -j NFQUEUE --queue-num 7");
        let queue = Queue::answer(vm.namespace(), 7).unwrap();
        let pod = vm.add_pod(&on("ebpf"), &PodSpec::named("web")).unwrap();
        let (client, server) = datagram_sockets(&azure, &pod);
        for round in 0..ROUNDS {
            client.send(&[round]).unwrap();
            let (_, node) = server.recv_from(&mut [0; 16]).unwrap();
            server.send_to(&[round], node).unwrap();
            client.recv(&mut [0; 16]).unwrap();
        }
        assert_eq!(fast(vm), [0, 0], "{forced}");
        assert!(queue.packets() >= 2 * u64::from(ROUNDS), "{forced}");
        let mut connection = connect(&azure, &pod);
        connection.is_alive().unwrap();
        assert_eq!(fast(vm), [0, 0], "{forced}");

        // Without it, from the next call on, what begins is fast.
        drop(queue);
        wait_until_nobody_answers(vm);
        run(vm, "iptables -F FORWARD");
        let _other = vm.add_pod(&on("ebpf"), &PodSpec::named("other")).unwrap();
        let mut connection = connect(&azure, &pod);
        connection.is_alive().unwrap();
        assert!(fast(vm).iter().all(|packets| *packets > 0), "{forced}");
        assert_clean(&azure);
    }
}

/// A program that another test is about to start has this one's socket as well, until it runs.
fn wait_until_nobody_answers(vm: &Vm) {
    let deadline = Instant::now() + LIMIT;
    while !run(vm, "cat /proc/net/netfilter/nfnetlink_queue").is_empty() {
        assert!(Instant::now() < deadline, "somebody answers still");
        std::thread::sleep(Duration::from_millis(5));
    }
}
