//! What an established packet takes: map lookups, helpers and instructions, counted and not timed. A
//! lookup more is what a hot path notices first (300 ns when the cache is cold), and nothing else would.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use azure_vnet_abi::{
    Be16, Be32, Direct, Flow, FlowFlags, FlowKind, Pod, Reason, TcpState, Uplink, maps, programs,
};

use crate::flows::Tuple;
use crate::machine::{Cost, Machine};
use crate::packet::{ACK, End, Packet, tcp, udp};
use crate::plan::{
    BRIDGE_IFINDEX, HZ, MTU, NIC, NIC_IFINDEX, NODE, PORTS, REMOTE, REPLACED, TIMEOUTS, WEB,
};

const LOCAL: End = (WEB.address, REPLACED);
const LEAVES_FROM: End = (NODE, 50_500);
const REMOTE_END: End = (REMOTE, 443);

/// The bytes of a key or value.
fn bytes<T: aya::Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` promises that there is no byte in it that is not initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A node with one flow, established, whose entries have these flags.
fn machine(tuple: Tuple, flags: u8) -> Machine {
    let mut machine = Machine::new(azure_vnet::datapath::OBJECT);
    let uplink = Uplink::new(Be32::from(NODE), NIC, PORTS, HZ, TIMEOUTS)
        .redirecting_to(NIC_IFINDEX, MTU, true)
        .routed_by(BRIDGE_IFINDEX);
    machine.set(maps::UPLINK, &[0; 4], bytes(&uplink));
    for reason in 0..Reason::COUNT {
        machine.set(maps::COUNTERS, &reason.to_le_bytes(), &[0; 8]);
    }
    let (address, port) = LEAVES_FROM;
    let reply = tuple.sent_from(address, port).reversed();
    for (tuple, kind, to) in [
        (tuple, FlowKind::MASQUERADE, LEAVES_FROM),
        (reply, FlowKind::UNMASQUERADE, LOCAL),
    ] {
        let (address, port) = (Be32::from(to.0), Be16::from_host(to.1));
        let mut flow = Flow::new(kind, address, port, WEB.ifindex, WEB.mac, 0, 1 << 30);
        flow.flags = flags;
        flow.tcp_state = TcpState::ESTABLISHED | TcpState::ACKNOWLEDGED;
        machine.set(maps::FLOWS, bytes(&tuple.key()), bytes(&flow));
    }
    machine
}

/// A packet that takes these and no more instructions, one lookup of the flow table and of these maps, and nothing that is
/// not named.
#[track_caller]
fn takes(
    cost: &Cost,
    action: i32,
    instructions: u32,
    helpers: &[(&'static str, u32)],
    maps: &[&str],
) {
    let always = [maps::COUNTERS, maps::FLOWS, maps::UPLINK];
    let lookups = always.iter().chain(maps);
    let lookups = lookups.map(|name| ((*name).to_owned(), 1)).collect();
    assert_eq!(cost.lookups, lookups);
    assert_eq!(cost.helpers, helpers.iter().copied().collect());
    assert_eq!(cost.action, action);
    assert!(
        cost.instructions <= instructions,
        "{} instructions, and {instructions} is the ceiling: find out what was added, or raise it here and say why",
        cost.instructions
    );
}

const REDIRECT: i32 = 7;
const NEXT: i32 = -1;
const FAST: [(&str, u32); 3] = [("jiffies64", 1), ("l4_csum_replace", 1), ("redirect", 1)];
const PAST: [(&str, u32); 3] = [
    ("jiffies64", 1),
    ("l4_csum_replace", 1),
    ("redirect_peer", 1),
];
const SLOW: [(&str, u32); 2] = [("jiffies64", 1), ("l4_csum_replace", 1)];

/// The flow, and a packet of it.
type Kind = (Tuple, fn(End, End) -> Packet);

fn both() -> [Kind; 2] {
    [
        (Tuple::udp(LOCAL, REMOTE_END), udp),
        (Tuple::tcp(LOCAL, REMOTE_END), |from, to| tcp(from, to, ACK)),
    ]
}

/// And, into the pod, one that says whether it goes past the host's end of its veth (decision 36).
#[test]
fn a_fast_packet_takes_one_lookup_each_way() {
    for (tuple, packet) in both() {
        let mut machine = machine(tuple, FlowFlags::FAST);
        let out = packet(LOCAL, REMOTE_END).of(&WEB).bytes();
        let cost = machine.run(programs::FROM_POD, WEB.ifindex, &out);
        // Ten of them for the tag that it must not have and the time to live, twenty for what a pod acknowledges: a RST is measured by that;
        // twenty for the second in which datagrams are judged again, and for a checksum that is complete although the kernel is to finish another.
        takes(&cost, REDIRECT, 405, &FAST, &[]);
        let back = packet(REMOTE_END, LEAVES_FROM).bytes();
        let cost = machine.run(programs::FROM_UPLINK, NIC_IFINDEX, &back);
        takes(&cost, REDIRECT, 365, &FAST, &[maps::DIRECT]);
        let veth = WEB.ifindex.to_le_bytes();
        machine.set(maps::DIRECT, &veth, &Direct::YES.to_le_bytes());
        let cost = machine.run(programs::FROM_UPLINK, NIC_IFINDEX, &back);
        takes(&cost, REDIRECT, 370, &PAST, &[maps::DIRECT]);
    }
}

#[test]
fn a_slow_packet_of_a_known_flow_takes_one_lookup_at_the_nic() {
    for (tuple, packet) in both() {
        let mut machine = machine(tuple, 0);
        let out = packet(LOCAL, REMOTE_END).of(&WEB).bytes();
        let cost = machine.run(programs::TO_UPLINK, NIC_IFINDEX, &out);
        takes(&cost, NEXT, 340, &SLOW, &[]);
        let back = packet(REMOTE_END, LEAVES_FROM).bytes();
        let cost = machine.run(programs::FROM_UPLINK, NIC_IFINDEX, &back);
        takes(&cost, NEXT, 345, &SLOW, &[]);
    }
}

#[test]
fn a_packet_that_the_node_delivers_takes_its_pod_alone() {
    let mut machine = machine(Tuple::udp(LOCAL, REMOTE_END), 0);
    let address = Be32::from(WEB.address);
    let pod = Pod::new(WEB.ifindex, WEB.container, WEB.mac);
    machine.set(maps::PODS, bytes(&address), bytes(&pod));
    let packet = udp(REMOTE_END, LOCAL).entering(&WEB).bytes();
    let cost = machine.run(programs::TO_PODS, BRIDGE_IFINDEX, &packet);
    let lookups = BTreeMap::from([(maps::PODS.to_owned(), 1)]);
    assert_eq!((cost.lookups, cost.helpers.len()), (lookups, 0));
    assert_eq!(cost.action, NEXT);
    assert!(
        cost.instructions <= 60,
        "{} instructions",
        cost.instructions
    );
}

/// The node's own packets, and those that come along the fast path.
#[test]
fn a_packet_from_the_nodes_address_takes_the_nics_settings_alone() {
    let node: Ipv4Addr = NODE;
    let mut machine = machine(Tuple::udp(LOCAL, REMOTE_END), FlowFlags::FAST);
    let packet = udp((node, 53), REMOTE_END).leaving().bytes();
    let cost = machine.run(programs::TO_UPLINK, NIC_IFINDEX, &packet);
    let lookups = BTreeMap::from([(maps::UPLINK.to_owned(), 1)]);
    assert_eq!((cost.lookups, cost.helpers.len()), (lookups, 0));
    assert!(
        cost.instructions <= 30,
        "{} instructions",
        cost.instructions
    );
}
