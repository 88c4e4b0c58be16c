//! Telling a pod that there is no port for its packet, or that its protocol does not leave: ICMP "communication administratively prohibited"
//! (RFC 5508, REQ-8; RFC 1812, section 5.2.7.1), so that it fails at once and not after minutes.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_REDIRECT, TC_ACT_SHOT},
    btf_maps::Array,
    helpers::generated::{bpf_redirect, bpf_skb_change_tail},
    macros::btf_map,
    programs::TcContext,
};
use azure_vnet_abi::{Be32, Mac, Uplink};

use crate::{
    checksum, config, flow,
    packet::{ETHERTYPE_IPV4, Ethernet, Frame, NETWORK, at},
    pods,
};

/// When a pod was told last, in jiffies, and 0 if never: one element for the last byte of each address, so pods may have
/// to share one. Not pinned: new programs may tell once more.
#[btf_map(name = "told")]
static TOLD: Array<u32, 256> = Array::new();

/// How often in a second a pod is told at most.
const TIMES_A_SECOND: u32 = 20;

/// Words of an IPv4 header without options and of the eight bytes behind it: what is quoted (RFC 792).
const QUOTED: usize = 7;
/// Words of the error's own headers, IPv4 and ICMP.
const HEADERS: usize = 7;

type Words = [u32; HEADERS + QUOTED];
const LENGTH: u32 = (NETWORK + size_of::<Words>()) as u32;

/// Turns the packet, which ends here, into the error and sends it back to its pod. Returns the action.
///
/// A global function (see [`taking`](crate::taking)): the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn refuse(skb: *mut __sk_buff) -> i32 {
    let ctx = TcContext::new(skb);
    let Ok(uplink) = config::uplink() else {
        return TC_ACT_SHOT;
    };
    match answer(&ctx, uplink) {
        Some(ifindex) => {
            // SAFETY: the helper takes two numbers and writes to memory of the kernel's own.
            unsafe { bpf_redirect(ifindex, 0) };
            TC_ACT_REDIRECT
        }
        None => TC_ACT_SHOT,
    }
}

/// Makes an answer of the packet; the veth it goes to, or `None` if it is not to be answered. Straight to the veth: the
/// packet has been routed to the NIC, and nothing brings it back from there.
#[inline(always)]
fn answer(ctx: &TcContext, uplink: &Uplink) -> Option<u32> {
    let to = Frame::read(ctx).ok()?.destination;
    let quoted = at::<[u32; QUOTED]>(ctx, NETWORK)?;
    // SAFETY: `at` has shown that the words are inside the packet.
    let quoted = unsafe { *quoted };
    if !may_be_answered(to, &quoted) {
        return None;
    }
    let source = Be32::from_raw(quoted[3]);
    let pod = pods::by_address(source)?;
    let (ifindex, mac) = (pod.ifindex, pod.mac);
    if was_told(source, uplink) {
        return None;
    }
    // SAFETY: the context is the kernel's; no pointer into the packet from before is used again.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, LENGTH, 0) } != 0 {
        return None;
    }
    write(ctx, uplink.address, source, mac, quoted)?;
    Some(ifindex)
}

/// RFC 1122, section 3.2.2: never about what was sent to many, nor about a fragment; nor about one with
/// options, for which the quotation has no room. Errors have no flows, so none comes here.
#[inline(always)]
fn may_be_answered(to: Mac, quoted: &[u32; QUOTED]) -> bool {
    const FRAGMENTED: u32 = u32::from_ne_bytes([0, 0, 0x3f, 0xff]);
    let is_plain = quoted[0].to_ne_bytes()[0] == 0x45;
    !to.is_group() && is_plain && quoted[1] & FRAGMENTED == 0
}

#[inline(always)]
fn was_told(pod: Be32, uplink: &Uplink) -> bool {
    let now = flow::now();
    let Some(last) = TOLD.get_ptr_mut(u32::from_be(pod.raw()) & 0xff) else {
        return true;
    };
    // SAFETY: the element is valid while the program runs; where two CPUs write it, the pod is told twice.
    let last = unsafe { &mut *last };
    if *last != 0 && now.wrapping_sub(*last) < uplink.hz / TIMES_A_SECOND {
        return true;
    }
    *last = now;
    false
}

#[inline(always)]
fn write(ctx: &TcContext, node: Be32, pod: Be32, mac: Mac, quoted: [u32; QUOTED]) -> Option<()> {
    // RFC 1812, section 4.3.2.5: the precedence of what controls the network.
    const VERSION_TO_LENGTH: [u8; 4] = [0x45, 0xc0, 0, size_of::<Words>() as u8];
    const DO_NOT_FRAGMENT: [u8; 4] = [0, 0, 0x40, 0];
    const LIFE_AND_PROTOCOL: [u8; 4] = [64, 1, 0, 0];
    const KIND_AND_CODE: [u8; 4] = [3, 13, 0, 0];

    let ethernet = at::<Ethernet>(ctx, 0)?;
    // SAFETY: `at` has shown that the header is inside the packet.
    unsafe {
        (*ethernet).destination = mac;
        (*ethernet).source = Mac::FABRIC;
        (*ethernet).ether_type = ETHERTYPE_IPV4;
    }
    let ip = [
        u32::from_ne_bytes(VERSION_TO_LENGTH),
        u32::from_ne_bytes(DO_NOT_FRAGMENT),
        u32::from_ne_bytes(LIFE_AND_PROTOCOL),
        node.raw(),
        pod.raw(),
    ];
    let icmp = u32::from_ne_bytes(KIND_AND_CODE);
    let of_ip = checksum::folded(sum(&ip));
    let of_icmp = checksum::folded(sum(&[icmp]) + sum(&quoted));
    let words = at::<Words>(ctx, NETWORK)?;
    // SAFETY: `at` has shown that the words are inside the packet.
    let words = unsafe { &mut *words };
    words[0] = ip[0];
    words[1] = ip[1];
    words[2] = ip[2] | u32::from(of_ip) << 16;
    words[3] = ip[3];
    words[4] = ip[4];
    words[5] = icmp | u32::from(of_icmp) << 16;
    words[6] = 0;
    words[7] = quoted[0];
    words[8] = quoted[1];
    words[9] = quoted[2];
    words[10] = quoted[3];
    words[11] = quoted[4];
    words[12] = quoted[5];
    words[13] = quoted[6];
    Some(())
}

/// The sum of the half words; BPF is little-endian here, where the later half is the upper one.
#[inline(always)]
fn sum<const N: usize>(words: &[u32; N]) -> u32 {
    let mut sum = 0;
    let mut index = 0;
    while index < N {
        sum += (words[index] & 0xffff) + (words[index] >> 16);
        index += 1;
    }
    sum
}
