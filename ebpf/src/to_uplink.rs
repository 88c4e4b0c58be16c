//! TC egress of the NIC: what leaves the node, after routing and netfilter.
//!
//! A pod's packet to a destination out of range leaves from the node's address, or as the reply of a flow
//! that came in, or not at all. What comes along the fast path passes here as well, with the node's address
//! already: it is the first comparison.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map, programs::TcContext};
use azure_vnet_abi::{Action, Flow, FlowKey, FlowKind, Pod, Reason, Uplink};

use crate::{
    config, fast, flow, fragment,
    icmp::IcmpError,
    life::{self, Way},
    nics, origin,
    packet::{self, ETHERTYPE_IPV4, Frame, ICMP, Ipv4, Part, Plain, Transport},
    pods,
    policy::{self, Portless},
    refusal,
    rewrite::{self, End},
    snat, sweep,
    verdict::{self, Outcome},
};

/// Decides by the packet's addresses and our own state, by nothing else.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let uplink = match config::uplink() {
        Ok(uplink) => uplink,
        Err(reason) => return verdict::settle(ctx, Err(reason)),
    };
    let queue = fast::take_queue(ctx);
    if let Some((source, protocol)) = packet::ipv4_source(ctx)
        && source == uplink.address
    {
        return match protocol {
            ICMP => of_node(ctx),
            _ => verdict::settle(ctx, Ok(Reason::NotOurs)),
        };
    }
    let action = match Plain::read(ctx) {
        Some(Plain { ip, transport, .. }) => with_ports(ctx, uplink, &ip, &transport, queue),
        None => uncommon(ctx, uplink),
    };
    match action {
        FIRST_PACKET => begin(ctx, uplink, queue),
        REFUSED => {
            let _ = verdict::settle(ctx, Err(Reason::UnsupportedProtocol));
            refusal::refuse(ctx.skb.skb)
        }
        action => action,
    }
}

/// ICMP of the node's own. Where it complains about a reply that it could not route to its pod, it quotes the pod's address,
/// of which the remote knows nothing.
#[inline(never)]
fn of_node(ctx: &TcContext) -> i32 {
    let outcome = match complaint(ctx) {
        Ok(Some((ip, error, flow))) => {
            let to = (flow.address, flow.port);
            let translated = error.translate(ctx, &ip, End::Source, to, 0);
            translated.map(|()| Reason::IcmpErrorOut)
        }
        _ => Ok(Reason::NotOurs),
    };
    verdict::settle(ctx, outcome)
}

/// Such a complaint, and the flow that it is about.
#[inline(always)]
fn complaint(ctx: &TcContext) -> Result<Option<(Ipv4, IcmpError, &'static Flow)>, Reason> {
    packet::pull_headers(ctx);
    let ip = Ipv4::read(ctx)?;
    if ip.part == Part::Later {
        return Ok(None);
    }
    let error = IcmpError::read(ctx, &ip)?;
    if error.quoted.source != ip.destination {
        return Ok(None);
    }
    let flow = flow::find(&error.key()).filter(|flow| flow.kind == FlowKind::MASQUERADE);
    Ok(flow.map(|flow| (ip, error, &*flow)))
}

/// In the place of an action: the packet's flow is to be made. That needs so much stack that it is
/// not done further down.
const FIRST_PACKET: i32 = 100;
/// Likewise: nothing of this protocol leaves, and the pod is to be told.
const REFUSED: i32 = 101;

/// Not TCP or UDP in a whole IPv4 packet without options. A function of its own, so that the verifier
/// does not walk all of this beside what nearly every packet takes.
#[inline(never)]
fn uncommon(ctx: &TcContext, uplink: &Uplink) -> i32 {
    packet::pull_headers(ctx);
    let frame = match Frame::read(ctx) {
        Ok(frame) => frame,
        Err(reason) => return verdict::settle(ctx, Err(reason)),
    };
    if frame.ether_type != ETHERTYPE_IPV4 {
        // The node's: of a pod, `from_pod` lets nothing but IPv4 pass.
        return verdict::settle(ctx, Ok(Reason::NotOurs));
    }
    let outcome = match Ipv4::read(ctx) {
        Ok(ip) => match Transport::read(ctx, &ip) {
            Ok(transport) => return with_ports(ctx, uplink, &ip, &transport, 0),
            Err(reason) => match without_flow(ctx, uplink, &ip, reason) {
                Err(Reason::UnsupportedProtocol) if ip.protocol != ICMP => return REFUSED,
                outcome => outcome,
            },
        },
        Err(reason) => Err(reason),
    };
    verdict::settle(ctx, outcome)
}

#[inline(always)]
fn with_ports(
    ctx: &TcContext,
    uplink: &Uplink,
    ip: &Ipv4,
    transport: &Transport,
    queue: u32,
) -> i32 {
    let key = transport.key(ip);
    match known(ctx, uplink, ip, transport, &key, queue) {
        Some(outcome) => verdict::settle(ctx, outcome),
        None => FIRST_PACKET,
    }
}

/// A packet of a flow that is in the table.
#[inline(always)]
fn known(
    ctx: &TcContext,
    uplink: &Uplink,
    ip: &Ipv4,
    transport: &Transport,
    key: &FlowKey,
    queue: u32,
) -> Option<Outcome> {
    let flow = flow::find(key)?;
    let now = flow::now();
    if flow.kind == FlowKind::MASQUERADE {
        // The NIC has another address by now: with the old one nothing leaves, and a connection is ended by its remote.
        if flow.address != uplink.address {
            forget(key, flow);
            return None;
        }
        life::touch(key, flow, (ip, transport), uplink, now, Way::Out);
        if fast::is_to_be_judged(uplink, key, flow, transport, queue) {
            fast::judge(uplink, key, flow, queue);
        }
        return Some(masquerade(
            ctx,
            ip,
            transport,
            flow,
            now,
            Reason::Masqueraded,
        ));
    }
    // With identifier 0 an echo request has the key of the reply to another's request.
    let may_be_reply = !transport.is_echo_request && !flow.is_over(now);
    if flow.kind == FlowKind::INBOUND && may_be_reply {
        life::touch(key, flow, (ip, transport), uplink, now, Way::Out);
        fragment::expect_more(ip, ip.source, flow.mac, 0, now);
        return Some(Ok(Reason::InboundReply));
    }
    flow::remove(key, flow.kind);
    None
}

#[inline(never)]
fn forget(key: &FlowKey, flow: &Flow) {
    flow::forget(key, flow);
}

/// The first packet of a flow.
#[inline(never)]
fn begin(ctx: &TcContext, uplink: &Uplink, queue: u32) -> i32 {
    let Some(First { ip, transport }) = read_first(ctx) else {
        return verdict::settle(ctx, Err(Reason::Malformed));
    };
    let key = transport.key(ip);
    let outcome = new_flow(ctx, uplink, ip, transport, &key, queue);
    let action = verdict::settle(ctx, outcome);
    match outcome {
        // Last, because it makes another packet of this one.
        Err(Reason::NoPortFound) => refusal::refuse(ctx.skb.skb),
        _ => action,
    }
}

/// What the first packet of a flow says about it.
#[derive(Clone, Copy)]
struct First {
    ip: Ipv4,
    transport: Transport,
}

/// Not pinned: nothing stays in it from one packet to the next. In a map, because the stack has no room for it.
#[btf_map(name = "first")]
static FIRST: PerCpuArray<First, 1> = PerCpuArray::new();

/// Reads the packet's headers; `None` if they have changed since they were read before.
#[inline(always)]
fn read_first(ctx: &TcContext) -> Option<&'static First> {
    let first = FIRST.get_ptr_mut(0)?;
    // SAFETY: a per-CPU element is written by programs on this CPU only, and TC programs do not preempt each other there.
    let first = unsafe { &mut *first };
    (write_first(ctx, first) != 0).then_some(first)
}

/// 0 if they have changed. A function of its own, because the verifier walks all that follows a call once, and all that follows a
/// `match` once for each arm.
#[inline(never)]
fn write_first(ctx: &TcContext, first: &mut First) -> i32 {
    let Ok(ip) = Ipv4::read(ctx) else {
        return 0;
    };
    let Ok(transport) = Transport::read(ctx, &ip) else {
        return 0;
    };
    *first = First { ip, transport };
    1
}

#[inline(always)]
fn new_flow(
    ctx: &TcContext,
    uplink: &Uplink,
    ip: &Ipv4,
    transport: &Transport,
    key: &FlowKey,
    queue: u32,
) -> Outcome {
    let now = flow::now();
    let pod = pods::by_address(ip.source);
    if pod.is_none() && !origin::is_unguarded(ctx, uplink) {
        return nics::leave(ctx, ip.source);
    }
    let action = policy::action(key);
    let Some(pod) = pod else {
        return of_nobody(Portless::Action(action));
    };
    match action {
        Action::IN_RANGE => Ok(as_pod(ip, pod, now, Reason::InRange)),
        Action::EXEMPT => Ok(as_pod(ip, pod, now, Reason::Exempt)),
        Action::DROP => Err(Reason::PolicyDrop),
        _ if transport.is_echo_reply => Err(Reason::UnsupportedProtocol),
        _ if transport.is_inside_connection() && policy::let_out_before(key) => {
            flow::keep(key, transport, pod, uplink, now);
            Ok(as_pod(ip, pod, now, Reason::Exempt))
        }
        _ => {
            let flags = fast::fitness(uplink, key, queue);
            let opened = snat::open(key, pod, uplink, transport, flags, now);
            let flow = match opened {
                Ok(flow) => flow,
                Err(reason) => {
                    // The next packet may find some.
                    let whose = match reason {
                        Reason::FlowTableFull => sweep::ANYBODY,
                        _ => sweep::NOBODY,
                    };
                    sweep::make_room(now, whose);
                    return Err(reason);
                }
            };
            sweep::step(uplink, now);
            sweep::enqueue(key, now);
            masquerade(ctx, ip, transport, flow, now, Reason::FlowCreated)
        }
    }
}

/// Of no pod, by a port of the bridge that nobody guards: inside the ranges it may be anybody's.
#[inline(always)]
fn of_nobody(action: Portless) -> Outcome {
    match action {
        Portless::Action(Action::IN_RANGE | Action::EXEMPT) => Ok(Reason::NotOurs),
        _ => Err(Reason::UnknownSource),
    }
}

/// Where the policy goes by ports, fragments without any follow their first one.
#[inline(always)]
fn as_pod(ip: &Ipv4, pod: &Pod, now: u32, reason: Reason) -> Reason {
    fragment::expect_more(ip, ip.source, pod.mac, 0, now);
    reason
}

/// A packet whose flow cannot be told: only a pod's way out of the ranges is closed to it.
#[inline(always)]
fn without_flow(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4, why: Reason) -> Outcome {
    let is_of_pod = pods::by_address(ip.source).is_some();
    if !is_of_pod && !origin::is_unguarded(ctx, uplink) {
        return nics::leave(ctx, ip.source);
    }
    let action = policy::without_ports(ip);
    if !is_of_pod {
        return of_nobody(action);
    }
    match action {
        Portless::Action(Action::IN_RANGE) => Ok(Reason::InRange),
        Portless::Action(Action::EXEMPT) => Ok(Reason::Exempt),
        Portless::Action(Action::DROP) => Err(Reason::PolicyDrop),
        _ if ip.part == Part::Later => later_fragment(ctx, uplink, ip),
        _ if ip.protocol == ICMP => icmp_error(ctx, uplink, ip),
        _ => Err(why),
    }
}

/// The first fragment has told what becomes of this one.
#[inline(always)]
fn later_fragment(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    let first = fragment::first_of(ip, flow::now(), uplink).ok_or(Reason::Fragment)?;
    let address = first.address;
    rewrite::address(ctx, End::Source, ip, address, 0)?;
    Ok(if address == ip.source {
        Reason::InboundReply
    } else {
        Reason::Masqueraded
    })
}

/// A pod complains about a packet that it got: as its flow left, so does the complaint.
#[inline(always)]
fn icmp_error(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    let error = IcmpError::read(ctx, ip)?;
    if error.quoted.destination != ip.source || error.quoted.source != ip.destination {
        return Err(Reason::Malformed);
    }
    let flow = flow::find(&error.key()).ok_or(Reason::UnsupportedProtocol)?;
    let is_masqueraded = flow.kind == FlowKind::MASQUERADE;
    if flow.is_over(flow::now()) || is_masqueraded && flow.address != uplink.address {
        return Err(Reason::UnsupportedProtocol);
    }
    if is_masqueraded {
        error.translate(ctx, ip, End::Source, (flow.address, flow.port), 0)?;
    }
    Ok(Reason::IcmpErrorOut)
}

#[inline(always)]
fn masquerade(
    ctx: &TcContext,
    ip: &Ipv4,
    transport: &Transport,
    flow: &Flow,
    now: u32,
    reason: Reason,
) -> Outcome {
    let to = (flow.address, flow.port);
    fragment::expect_more(ip, to.0, flow.mac, 0, now);
    rewrite::endpoint(ctx, End::Source, ip, transport, to, 0)?;
    Ok(reason)
}
