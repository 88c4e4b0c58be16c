//! The fast path: a flow that needs nobody but us goes from the pod's veth straight to the NIC and
//! back, past the bridge, routing, netfilter and connection tracking. It is routed all the same: its time
//! to live goes down by one.
//!
//! A flow is found fit when its first packet (TCP: every SYN) arrives at the NIC the slow way. Two
//! things have to be seen there, and nothing in a packet tells them:
//!
//! - Netfilter translated nothing, or replies would have to pass it again. [`note`] has written down
//!   what the pod sent, on this CPU, which forwards the packet to the NIC in one go: it must be the
//!   very tuple that leaves. A packet that was queued in between may meet another's note; then its
//!   flow stays slow.
//! - No queueing discipline on the veth's ingress shapes the pod (the `bandwidth` plugin does so, by
//!   way of an `ifb` device), or the limit would be void. [`note`] has the packet say that it was
//!   received on queue 0; another device that transmits it on the way puts its own transmit queue
//!   in that place, and thereby wipes it out.
//!
//! Packets with SYN take the slow path always: rules see every connection begin and are asked
//! whether to translate it. All others of a fast flow are fast, FIN and RST as well: connection
//! tracking knows the flow by its handshake alone, and would call the middle of it invalid.
//!
//! A flow of datagrams has no such beginning: a socket may send to the same place for as long as it lives. So one of its packets
//! takes the slow path at least once a second ([`is_due`]), and the flow with it until one has come to the NIC as the pod sent it. A
//! Service that came, an entry of connection tracking that was deleted, a rule that drops: all have their effect then.

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_redirect, bpf_redirect_peer},
    macros::btf_map,
    programs::TcContext,
};
use azure_vnet_abi::{Flow, FlowFlags, FlowKey, FlowKind, Mac, Reason, Uplink};

use crate::{
    config, flow, fragment,
    icmp::IcmpError,
    life::{self, Way},
    packet::{ICMP, Ipv4, NETWORK, Part, Plain, TCP, Transport},
    pods,
    rewrite::{self, End},
    verdict::Outcome,
};

/// `queue_mapping` of a packet that was received on queue 0.
const RECEIVED_ON_QUEUE_0: u32 = 1;

/// What the pod sent that was heard last on this CPU.
#[btf_map(name = "candidate")]
static CANDIDATE: PerCpuArray<FlowKey, 1> = PerCpuArray::new();

/// The pod sends a packet the slow way, with this key if it has one that can be told.
#[inline(always)]
pub fn note(ctx: &TcContext, key: Option<&FlowKey>) {
    if key.is_some() {
        // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
        unsafe { (*ctx.skb.skb).queue_mapping = RECEIVED_ON_QUEUE_0 };
    }
    if let Some(candidate) = CANDIDATE.get_ptr_mut(0) {
        // SAFETY: a per-CPU element is written by programs on this CPU only, and TC programs do
        // not preempt each other there.
        unsafe { *candidate = key.copied().unwrap_or_default() };
    }
}

/// The queue that the packet says it was received on. What [`note`] wrote is taken out, or the NIC would
/// send all that pods send by one queue.
#[inline(always)]
pub fn take_queue(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    let field = unsafe { &mut (*ctx.skb.skb).queue_mapping };
    let queue = *field;
    if queue == RECEIVED_ON_QUEUE_0 {
        *field = 0;
    }
    queue
}

/// The flags of a flow whose first packet leaves with this key, and said to be received on this queue:
/// it passed no other device since [`note`], or that would have left its own.
#[inline(always)]
pub fn fitness(uplink: &Uplink, key: &FlowKey, queue: u32) -> u8 {
    if queue != RECEIVED_ON_QUEUE_0 || uplink.fast_path == 0 || key.protocol == ICMP {
        return 0;
    }
    match CANDIDATE.get(0) {
        Some(candidate) if candidate == key => FlowFlags::FAST,
        _ => 0,
    }
}

/// Whether packets of this entry come from the veth `ifindex` and go the fast way. That the flow is
/// that veth's also says that the source address is its pod's own.
#[inline(always)]
pub fn is_from(flow: &Flow, ifindex: u32) -> bool {
    flow.kind == FlowKind::MASQUERADE && is_fast(flow) && flow.ifindex == ifindex
}

/// Whether this entry's packets go the fast way.
#[inline(always)]
pub fn is_fast(flow: &Flow) -> bool {
    flow.flags & FlowFlags::FAST != 0
}

/// A packet of a fast flow leaves for the NIC. [`Reason::NotOurs`] if it has to go the slow way: it was not sent
/// to the router, or the node has to tell the pod that it goes no further.
#[inline(always)]
pub fn out(
    ctx: &TcContext,
    uplink: &Uplink,
    packet: &Plain,
    key: &FlowKey,
    flow: &mut Flow,
) -> Outcome {
    let Plain { ip, transport, .. } = packet;
    if packet.frame.destination != Mac::FABRIC || !may_go_on(ctx, uplink, ip) {
        return Ok(Reason::NotOurs);
    }
    let now = flow::now();
    if is_due(uplink, key, flow, now) {
        flow.flags &= !FlowFlags::FAST;
        return Ok(Reason::NotOurs);
    }
    life::touch(key, flow, (ip, transport), uplink, now, Way::Out);
    let to = (flow.address, flow.port);
    rewrite::source_mac(ctx, uplink.mac)?;
    rewrite::endpoint(ctx, End::Source, ip, transport, to, 1)?;
    Ok(to_nic(uplink))
}

/// The same for what is rare: IPv4 options, fragments, ICMP errors about a fast flow, a pod that has
/// another MAC than before.
#[inline(never)]
pub fn uncommon_out(ctx: &TcContext) -> i32 {
    let outcome = config::uplink().and_then(|uplink| try_uncommon_out(ctx, uplink));
    match outcome {
        Ok(Reason::MasqueradedFast) => SENT,
        Ok(_) => SLOW,
        Err(_) => BROKEN,
    }
}

/// What [`uncommon_out`] did: nothing, all, or a part of it.
pub const SLOW: i32 = 0;
pub const SENT: i32 = 1;
pub const BROKEN: i32 = 2;

#[inline(always)]
fn try_uncommon_out(ctx: &TcContext, uplink: &Uplink) -> Outcome {
    let ifindex = ifindex(ctx);
    let frame = crate::packet::Frame::read(ctx)?;
    let ip = Ipv4::read(ctx)?;
    if frame.destination != Mac::FABRIC || !may_go_on(ctx, uplink, &ip) {
        return Ok(Reason::NotOurs);
    }
    let now = flow::now();
    if ip.part == Part::Later {
        let Some(first) = fragment::first_of(&ip, now, uplink) else {
            return Ok(Reason::NotOurs);
        };
        if first.ifindex != ifindex {
            return Ok(Reason::NotOurs);
        }
        let address = first.address;
        rewrite::source_mac(ctx, uplink.mac)?;
        rewrite::address(ctx, End::Source, &ip, address, 1)?;
        return Ok(to_nic(uplink));
    }
    let Ok(transport) = Transport::read(ctx, &ip) else {
        return if ip.protocol == ICMP {
            error_out(ctx, uplink, &ip, ifindex)
        } else {
            Ok(Reason::NotOurs)
        };
    };
    let key = transport.key(&ip);
    let Some(flow) = flow::find(&key).filter(|flow| is_from(flow, ifindex)) else {
        return Ok(Reason::NotOurs);
    };
    if transport.tcp_flags & Transport::SYN != 0 {
        return Ok(Reason::NotOurs);
    }
    if is_due(uplink, &key, flow, now) {
        flow.flags &= !FlowFlags::FAST;
        return Ok(Reason::NotOurs);
    }
    if flow.mac != frame.source {
        follow(&key, flow, frame.source);
    }
    life::touch(&key, flow, (&ip, &transport), uplink, now, Way::Out);
    let to = (flow.address, flow.port);
    fragment::expect_more(&ip, to.0, flow.mac, ifindex, now);
    rewrite::source_mac(ctx, uplink.mac)?;
    rewrite::endpoint(ctx, End::Source, &ip, &transport, to, 1)?;
    Ok(to_nic(uplink))
}

/// An ICMP error about a fast flow: connection tracking may have forgotten the flow by now.
#[inline(always)]
fn error_out(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4, ifindex: u32) -> Outcome {
    let Ok(error) = IcmpError::read(ctx, ip) else {
        return Ok(Reason::NotOurs);
    };
    if error.quoted.destination != ip.source || error.quoted.source != ip.destination {
        return Ok(Reason::NotOurs);
    }
    let flow = flow::find(&error.key());
    let Some(flow) = flow.filter(|flow| is_from(flow, ifindex) && flow.address == uplink.address)
    else {
        return Ok(Reason::NotOurs);
    };
    rewrite::source_mac(ctx, uplink.mac)?;
    error.translate(ctx, ip, End::Source, (flow.address, flow.port), 1)?;
    Ok(to_nic(uplink))
}

/// The pod has another MAC than when the flow began; replies go there from now on.
#[inline(always)]
fn follow(key: &FlowKey, flow: &mut Flow, mac: Mac) {
    flow.mac = mac;
    if let Some((_, other)) = flow::other_half(key, flow) {
        other.mac = mac;
    }
}

/// The pod opens a connection with the ends of one before: what netfilter makes of it now is not
/// known yet, so the flow is slow until its SYN has arrived at the NIC.
#[inline(never)]
pub fn withdraw(key: &FlowKey, flow: &mut Flow) {
    set_fast(key, flow, 0);
}

/// Whether a packet of a fast flow has to take the slow path, and the flow with it until one has arrived: the flow leaves with an address that
/// is not the NIC's any more, or it is one of datagrams whose last packet was noted a second ago. Replies go on as they did.
#[inline(always)]
fn is_due(uplink: &Uplink, key: &FlowKey, flow: &Flow, now: u32) -> bool {
    flow.address != uplink.address
        || key.protocol != TCP && now.wrapping_sub(flow.last_seen) >= uplink.hz
}

/// A packet of a known flow came to the NIC the slow way: does the flow have to be judged anew? So it
/// is when the packet opens a connection, when the flow is one of datagrams that could be fast and is not, or when its address is that of
/// a pod behind another veth than the entry says, because it has been given away again.
#[inline(always)]
pub fn is_to_be_judged(
    uplink: &Uplink,
    key: &FlowKey,
    flow: &Flow,
    transport: &Transport,
    queue: u32,
) -> bool {
    if transport.tcp_flags & Transport::SYN != 0 {
        return true;
    }
    if is_fast(flow) {
        return has_moved(key, flow);
    }
    key.protocol != TCP && queue == RECEIVED_ON_QUEUE_0 && uplink.fast_path != 0
}

#[inline(always)]
fn has_moved(key: &FlowKey, flow: &Flow) -> bool {
    pods::by_address(key.source).is_some_and(|pod| pod.ifindex != flow.ifindex)
}

/// Judges a known flow anew.
#[inline(never)]
pub fn judge(uplink: &Uplink, key: &FlowKey, flow: &mut Flow, queue: u32) {
    let Some(pod) = pods::by_address(key.source) else {
        return;
    };
    let fast = fitness(uplink, key, queue);
    (flow.ifindex, flow.mac) = (pod.ifindex, pod.mac);
    if let Some((_, other)) = flow::other_half(key, flow) {
        (other.ifindex, other.mac) = (pod.ifindex, pod.mac);
    }
    set_fast(key, flow, fast);
}

#[inline(always)]
fn set_fast(key: &FlowKey, flow: &mut Flow, fast: u8) {
    flow.flags = flow.flags & !FlowFlags::FAST | fast;
    if let Some((_, other)) = flow::other_half(key, flow) {
        other.flags = other.flags & !FlowFlags::FAST | fast;
    }
}

/// The interface that the packet came in through.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Whether a router would send the packet on as it is: it has a router to live for, and the NIC can send it. A redirected
/// packet is not asked for either any more.
#[inline(always)]
fn may_go_on(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> bool {
    let fits =
        ctx.len() <= u32::from(uplink.mtu) + NETWORK as u32 || segments_fit(ctx, uplink.mtu) != 0;
    fits && outlives_us(ip)
}

/// Whether the packet is not to end at this router, whose IP stack tells the sender so.
#[inline(always)]
pub fn outlives_us(ip: &Ipv4) -> bool {
    ip.time_to_live > 1
}

/// The same for a packet that is cut into segments when it is sent.
#[inline(never)]
fn segments_fit(ctx: &TcContext, mtu: u16) -> i32 {
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    let (segments, payload) = unsafe { ((*ctx.skb.skb).gso_segs, (*ctx.skb.skb).gso_size) };
    let Ok(ip) = Ipv4::read(ctx) else {
        return 0;
    };
    let header = match ip.protocol {
        TCP => {
            let Ok(offset) = ip.transport_header::<[u8; 20]>(ctx) else {
                return 0;
            };
            // SAFETY: `transport_header` has shown that the header is inside the packet.
            u32::from(unsafe { (*offset)[12] } >> 4) * 4
        }
        _ => 8,
    };
    let headers = ip.transport() as u32 - NETWORK as u32 + header;
    i32::from(segments != 0 && headers + payload <= u32::from(mtu))
}

#[inline(always)]
fn to_nic(uplink: &Uplink) -> Reason {
    redirect(uplink.ifindex);
    Reason::MasqueradedFast
}

/// Delivers a packet to a pod: to its own end of the veth, or out of the host's end where somebody stands who shapes or looks at
/// what the pod gets.
#[inline(always)]
pub fn to_pod(ctx: &TcContext, ifindex: u32, mac: Mac) -> Outcome {
    rewrite::macs(ctx, Mac::FABRIC, mac)?;
    if pods::is_direct(ifindex) {
        redirect_to_peer(ctx, ifindex);
    } else {
        redirect(ifindex);
    }
    Ok(Reason::UnmasqueradedFast)
}

/// As [`redirect`], to the other end of the veth, in its namespace. From TC ingress alone. Marks stay on the node, as with a packet
/// that passes the veth; so does the NIC's queue, of which a veth may have fewer.
#[inline(always)]
fn redirect_to_peer(ctx: &TcContext, ifindex: u32) {
    let skb = ctx.skb.skb;
    // Each by itself: they are neighbours, and the verifier takes no store of both.
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    unsafe {
        (&raw mut (*skb).mark).write_volatile(0);
        (&raw mut (*skb).queue_mapping).write_volatile(0);
    }
    // SAFETY: the helper takes two numbers and writes to memory of the kernel's own.
    unsafe { bpf_redirect_peer(ifindex, 0) };
}

/// The kernel moves the packet once the program has returned `TC_ACT_REDIRECT`, see
/// [`verdict`](crate::verdict).
#[inline(always)]
pub fn redirect(ifindex: u32) {
    const TO_EGRESS: u64 = 0;
    // SAFETY: the helper takes two numbers and writes to memory of the kernel's own.
    unsafe { bpf_redirect(ifindex, TO_EGRESS) };
}
