//! TC ingress of the NIC: what arrives, before routing and netfilter.
//!
//! Replies of masqueraded flows get the pod's address, and the node routes them to the bridge. Those of a
//! fast flow go straight to the pod's veth. What is for a pod's own address is routed as it is, and remembered where
//! its replies would be masqueraded.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Action, Flow, FlowFlags, FlowKey, FlowKind, Mac, Pod, Reason, Uplink};

use crate::{
    config, fast,
    flow::{self, InsertError},
    fragment,
    icmp::IcmpError,
    life,
    packet::{self, ETHERTYPE_IPV4, Frame, ICMP, Ipv4, Part, Plain, TCP, Transport},
    pods, policy, ports,
    rewrite::{self, End},
    routes, share, sweep,
    verdict::{self, Outcome},
};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    verdict::settle(ctx, decide(ctx))
}

/// Decides by the packet's destination: the node, a pod, or neither.
#[inline(always)]
fn decide(ctx: &TcContext) -> Outcome {
    let uplink = config::uplink()?;
    if let Some(Plain { ip, transport, .. }) = Plain::read(ctx) {
        return if ip.destination == uplink.address {
            reply(ctx, uplink, &ip, &transport)
        } else {
            Ok(to_address(ctx, uplink, &ip))
        };
    }
    packet::pull_headers(ctx);
    let frame = Frame::read(ctx)?;
    match frame.ether_type {
        ETHERTYPE_IPV4 => ipv4(ctx, uplink),
        _ => Ok(Reason::NotOurs),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, uplink: &Uplink) -> Outcome {
    let Ok(ip) = Ipv4::read(ctx) else {
        // The node's own stack judges what is not for a pod, and counts it.
        return Ok(Reason::NotOurs);
    };
    if ip.destination != uplink.address {
        return Ok(to_address(ctx, uplink, &ip));
    }
    match Transport::read(ctx, &ip) {
        Ok(transport) => reply(ctx, uplink, &ip, &transport),
        Err(_) => without_ports(ctx, uplink, &ip),
    }
}

/// For the node's address: the reply of a masqueraded flow, or the node's own.
#[inline(always)]
fn reply(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4, transport: &Transport) -> Outcome {
    if !ports::is_in_range(transport.destination_port.to_host(), uplink) {
        return Ok(Reason::NotOurs);
    }
    let key = transport.key(ip);
    let Some(flow) = flow::find(&key) else {
        return Ok(Reason::NotOurs);
    };
    if flow.kind != FlowKind::UNMASQUERADE {
        return Ok(Reason::NotOurs);
    }
    let now = flow::now();
    life::touch(&key, flow, (ip, transport), uplink, now, life::Way::In);
    let to = (flow.address, flow.port);
    // What opens a connection is for connection tracking to see, also on its way back.
    let is_fast = fast::is_fast(flow) && transport.tcp_flags & Transport::SYN == 0;
    let way = Way::of(ip, is_fast, flow.ifindex, flow.mac);
    fragment::expect_more(ip, to.0, way.mac, way.fast, now);
    rewrite::endpoint(ctx, End::Destination, ip, transport, to, way.routers)?;
    way.go(ctx, Reason::Unmasqueraded)
}

/// How a packet gets to its pod.
struct Way {
    /// Behind this veth, past the node's IP stack; 0 if it is routed.
    fast: u32,
    mac: Mac,
    /// How many routers it does not meet any more.
    routers: u8,
}

impl Way {
    /// What may not live longer is the IP stack's to complain about, on the fast path as well.
    #[inline(always)]
    fn of(ip: &Ipv4, is_fast: bool, ifindex: u32, mac: Mac) -> Self {
        let (fast, routers) = if is_fast && fast::outlives_us(ip) {
            (ifindex, 1)
        } else {
            (0, 0)
        };
        Self { fast, mac, routers }
    }

    #[inline(always)]
    fn go(self, ctx: &TcContext, slow: Reason) -> Outcome {
        match self.fast {
            0 => Ok(slow),
            ifindex => fast::to_pod(ctx, ifindex, self.mac),
        }
    }
}

/// For the node's address, and its flow not to be told by ports.
#[inline(always)]
fn without_ports(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    if ip.part == Part::Later {
        later_fragment(ctx, uplink, ip)
    } else {
        icmp_error(ctx, ip)
    }
}

/// The first fragment has told what becomes of this one, if it was for a pod.
#[inline(always)]
fn later_fragment(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    let Some(first) = fragment::first_of(ip, flow::now(), uplink) else {
        return Ok(Reason::NotOurs);
    };
    let (address, way) = (
        first.address,
        Way::of(ip, first.ifindex != 0, first.ifindex, first.mac),
    );
    rewrite::address(ctx, End::Destination, ip, address, way.routers)?;
    way.go(ctx, Reason::Unmasqueraded)
}

/// A router or the remote complains about a packet of a masqueraded flow: so the pod is told.
#[inline(always)]
fn icmp_error(ctx: &TcContext, ip: &Ipv4) -> Outcome {
    if ip.protocol != ICMP {
        return Ok(Reason::NotOurs);
    }
    let Ok(error) = IcmpError::read(ctx, ip) else {
        return Ok(Reason::NotOurs);
    };
    let Some(flow) = flow::find(&error.key()) else {
        return Ok(Reason::NotOurs);
    };
    if flow.kind != FlowKind::UNMASQUERADE || error.quoted.source != ip.destination {
        return Ok(Reason::NotOurs);
    }
    // Connection tracking may have forgotten a fast flow by now, and call the error invalid.
    let way = Way::of(ip, fast::is_fast(flow), flow.ifindex, flow.mac);
    let to = (flow.address, flow.port);
    error.translate(ctx, ip, End::Destination, to, way.routers)?;
    way.go(ctx, Reason::IcmpErrorIn)
}

/// For another address than the node's.
#[inline(always)]
fn to_address(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Reason {
    match pods::by_address(ip.destination) {
        Some(pod) => to_pod(ctx, uplink, ip, pod),
        None => routes::to_nobody(ctx, ip),
    }
}

/// For a pod's own address. A flow whose replies would be masqueraded, or dropped, is remembered.
#[inline(always)]
fn to_pod(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4, pod: &Pod) -> Reason {
    let Ok(transport) = Transport::read(ctx, ip) else {
        return Reason::ToPod;
    };
    let reply = transport.key(ip).reversed();
    match policy::action(&reply) {
        Action::IN_RANGE | Action::EXEMPT => Reason::ToPod,
        _ => record_inbound(uplink, ip, &transport, &reply, pod),
    }
}

#[inline(always)]
fn record_inbound(
    uplink: &Uplink,
    ip: &Ipv4,
    transport: &Transport,
    reply: &FlowKey,
    pod: &Pod,
) -> Reason {
    let now = flow::now();
    match flow::find(reply) {
        Some(known) if known.kind == FlowKind::INBOUND => {
            life::touch(reply, known, (ip, transport), uplink, now, life::Way::In);
            return Reason::ToPod;
        }
        // The pod's own flow with the same ends: what comes in beside it is not a part of it.
        Some(known) if !flow::is_over(reply, known, now) => return Reason::ToPod,
        _ => {}
    }
    if transport.is_echo_reply || (ip.protocol == TCP && !transport.opens_connection()) {
        return Reason::ToPod;
    }
    if let Some(over) = flow::find(reply) {
        flow::forget(reply, over);
    }
    // Anybody outside can make any number of these.
    let flags = FlowFlags::UNPROVEN | FlowFlags::CROWDED;
    let mut entry = Flow::new(
        FlowKind::INBOUND,
        ip.destination,
        transport.destination_port,
        pod.ifindex,
        pod.mac,
        now,
        life::timeout(ip.protocol, 0, flags, uplink),
    );
    entry.flags = flags;
    if share::is_used_up(reply.source, uplink) {
        sweep::make_room(now, reply.source.raw());
    }
    // Neither a full table nor a pod's full share must close the way in for what is in range; the reply is
    // then dropped, counted, at the NIC.
    let is_recorded = !share::is_used_up(reply.source, uplink) && has_inserted(reply, &entry, now);
    if is_recorded {
        sweep::enqueue(reply, now);
        sweep::step(uplink, now);
        Reason::InboundRecorded
    } else {
        Reason::ToPod
    }
}

/// Makes the entry, if need be in the place of an unproven one.
#[inline(always)]
fn has_inserted(reply: &FlowKey, entry: &Flow, now: u32) -> bool {
    match flow::insert(reply, entry) {
        Err(InsertError::Full) => {
            sweep::make_room(now, sweep::ANYBODY);
            flow::insert(reply, entry).is_ok()
        }
        result => result.is_ok(),
    }
}
