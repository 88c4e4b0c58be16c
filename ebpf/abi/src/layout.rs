//! Every layout in one constant, for the check that a changed layout has a new version.

use core::mem::{offset_of, size_of};

use crate::{
    Destination, Event, Flow, FlowKey, Fragment, FragmentKey, Judgement, Nic, Pod, PolicyKey,
    PolicyState, Port, Queued, Reason, ReservedPorts, RuleKey, Search, Share, Timeouts, Uplink,
};

macro_rules! layout {
    ($($type:ident { $($field:ident),* $(,)? })*) => {
        &[$(
            (stringify!($type), "size", size_of::<$type>()),
            $((stringify!($type), stringify!($field), offset_of!($type, $field)),)*
        )*
        ("Reason", "count", Reason::ALL.len())]
    };
}

/// `(type, field, offset)` of every stored field, `(type, "size", bytes)` of every stored type.
pub const LAYOUT: &[(&str, &str, usize)] = layout! {
    Event { reason, ifindex, length, head, padding }
    FlowKey { source, destination, source_port, destination_port, protocol }
    Flow { last_seen, timeout, address, port, kind, tcp_state, acknowledged, ifindex, mac, flags }
    Queued { key, since }
    FragmentKey { source, destination, identification, protocol }
    Fragment { seen, address, mac, ifindex }
    Pod { ifindex, container, mac }
    Port { address, container, mac }
    Share { flows, since, begun }
    Nic { ifindex, mac }
    PolicyKey { generation, destination }
    Judgement { action, rules }
    RuleKey { generation, rules, protocol, port }
    Destination { address, port, protocol }
    Search { next, in_use, until }
    ReservedPorts { words }
    PolicyState { current, previous, until, digest, more_digest }
    Uplink { address, mac, mtu, port_min, port_max, hz, timeouts, ifindex, fast_path, flows_per_pod, bridge, grace, protected, searched, secret }
    Timeouts { tcp_opening, tcp_established, tcp_closing, udp, icmp, unproven }
};

const _: () = assert!(size_of::<FlowKey>() == 16 && size_of::<Flow>() == 32);
const _: () = assert!(size_of::<FragmentKey>() == 12 && size_of::<Fragment>() == 20);
const _: () = assert!(size_of::<Pod>() == 16 && size_of::<Port>() == 16);
const _: () = assert!(size_of::<Nic>() == 12);
const _: () = assert!(size_of::<PolicyKey>() == 8 && size_of::<RuleKey>() == 12);
const _: () = assert!(size_of::<Judgement>() == 8 && size_of::<PolicyState>() == 32);
const _: () = assert!(size_of::<Destination>() == 8 && size_of::<Search>() == 12);
const _: () = assert!(size_of::<ReservedPorts>() == 8192);
const _: () = assert!(size_of::<Uplink>() == 88);
const _: () = assert!(size_of::<Share>() == 16 && size_of::<Queued>() == 20);
const _: () = assert!(size_of::<Event>() == 56);

#[cfg(feature = "user")]
mod user {
    use crate::{
        Be32, Destination, Flow, FlowKey, Judgement, Nic, Pod, PolicyKey, PolicyState, Port,
        Queued, ReservedPorts, RuleKey, Search, Share, Uplink,
    };

    // All of them are `repr(C)` or `repr(transparent)` of integers and byte arrays with explicit
    // padding: every bit pattern is a value and no byte is uninitialised.

    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Be32 {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Pod {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Port {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Nic {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for PolicyKey {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Judgement {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for RuleKey {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for PolicyState {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Destination {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Search {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for ReservedPorts {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Queued {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Share {}
    // SAFETY: plain bytes, as said above.
    unsafe impl aya::Pod for Uplink {}
}
