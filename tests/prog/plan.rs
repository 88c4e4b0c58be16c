//! Who is who in these tests.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use azure_vnet_abi::{Action, Mac, Timeouts};

/// A pod as its node knows it.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    pub address: Ipv4Addr,
    pub mac: Mac,
    /// Index of its host veth: a device that is really there, see `harness`.
    pub ifindex: u32,
    /// Names the container, as the pods' maps do.
    pub container: u32,
}

pub const WEB: Pod = Pod {
    address: Ipv4Addr::new(10, 240, 0, 10),
    mac: Mac([0x0a, 0, 0, 0, 0, 0x10]),
    ifindex: 101,
    container: 0xc0,
};
/// Another interface of the same container.
pub const WEB_SECOND: Pod = Pod {
    address: Ipv4Addr::new(10, 240, 0, 12),
    mac: Mac([0x0a, 0, 0, 0, 0, 0x12]),
    ifindex: 103,
    ..WEB
};
pub const DATABASE: Pod = Pod {
    address: Ipv4Addr::new(10, 240, 0, 11),
    mac: Mac([0x0a, 0, 0, 0, 0, 0x11]),
    ifindex: 102,
    container: 0xc1,
};

/// The node's own address, which is the NIC's primary one.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 4);
pub const NIC: Mac = Mac([0x00, 0x0d, 0x3a, 0, 0, 0x01]);
pub const NIC_IFINDEX: u32 = 100;
/// The pods' router, which calls itself as the fabric does.
pub const BRIDGE_IFINDEX: u32 = 99;
/// Another NIC of the node, and its address.
pub const OTHER_NIC: Mac = Mac([0x00, 0x0d, 0x3a, 0, 0, 0x02]);
pub const OTHER_NIC_IFINDEX: u32 = 98;
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 241, 0, 4);
pub const MTU: u16 = 1500;
/// What Azure's fabric calls itself, whoever is asked for.
pub const FABRIC: Mac = Mac([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
pub const BROADCAST: Mac = Mac([0xff; 6]);

/// Of the pool, and no pod's.
pub const FREE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 13);

/// Outside the ranges.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const OTHER_REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
/// Inside the ranges, on another node.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 240, 1, 10);
/// Outside the ranges, but exempt.
pub const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Closed by a rule.
pub const CLOSED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// In a prefix that is masqueraded although a shorter one around it is inside the ranges.
pub const CARVED_OUT: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 10);

/// Generation of the policy that is in force.
pub const CURRENT: u32 = 7;

/// The policy; a destination without a prefix is masqueraded.
pub const POLICY: [(Ipv4Addr, u32, u32); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8, Action::IN_RANGE),
    (Ipv4Addr::new(10, 66, 0, 0), 16, Action::MASQUERADE),
    (WIRESERVER, 32, Action::EXEMPT),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Action::DROP),
];

/// Whether a pod may not be seen with its own address at `destination`, said once more for the
/// tests that send anything anywhere.
pub fn is_out_of_range(destination: Ipv4Addr) -> bool {
    let [first, second, ..] = destination.octets();
    (first != 10 || second == 66) && destination != WIRESERVER
}

/// The ports for masquerading, unless a test has others.
pub const PORTS: RangeInclusive<u16> = 50_000..=50_999;
/// Inside `PORTS`: kept when a flow is masqueraded.
pub const KEPT: u16 = 50_123;
/// Outside `PORTS`: replaced.
pub const REPLACED: u16 = 40_001;

/// Jiffies in a second, as far as the programs are told.
pub const HZ: u32 = 1000;
/// Different, so that none is taken for another, and long: no test waits for one.
pub const TIMEOUTS: Timeouts = Timeouts {
    tcp_opening: 1000,
    tcp_closing: 2000,
    udp: 3000,
    // As UDP that was answered, or every test would have to say when that was; `proof` has another.
    unproven: 3000,
    icmp: 4000,
    tcp_established: 5000,
};
