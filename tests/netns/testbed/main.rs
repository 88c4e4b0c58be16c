//! The simulated Azure itself, without the plugins under test: does it enforce what Azure enforces, see what it must see, and go
//! away without a trace?

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod fabric;
mod lifetime;
mod platform;
mod reference;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::Vm;
use azure_vnet_testbed::address_plan::{FABRIC_MAC, GATEWAY, INTERNET};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::namespace::Namespace;

const LIMIT: Duration = Duration::from_secs(3);
const REPORT_OF_INTERNET: SocketAddrV4 = SocketAddrV4::new(INTERNET[0], REPORT_PORT);

fn ip(vm: &Vm, line: &str) {
    vm.program("ip")
        .unwrap()
        .args(line.split(' '))
        .checked()
        .unwrap();
}

/// With a permanent neighbour a packet goes out at once: no ARP request with the same false sender goes, and is dropped, before it.
fn know_gateway(vm: &Vm) {
    ip(
        vm,
        &format!("neighbour add {GATEWAY} lladdr {FABRIC_MAC} nud permanent dev eth0"),
    );
}

/// One datagram that nobody answers.
fn send(namespace: &Namespace, source: Ipv4Addr, target: Ipv4Addr) {
    let sent = namespace
        .run(|| {
            UdpSocket::bind((source, 0))
                .unwrap()
                .send_to(b"x", (target, 9))
        })
        .unwrap();
    assert_eq!(sent.unwrap(), 1);
}

/// Waits for what happens soon but not at once; a generous limit, since other tests use the machine as well.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("it did not happen within 10 s");
}
