//! A checksum that the kernel has yet to finish (`CHECKSUM_PARTIAL`), and where it is going to write it.
//!
//! Who sends whole frames may choose that place (`PACKET_VNET_HDR`), be it an address or a port. Where a NIC does not
//! compute the checksum itself, the kernel writes it behind our last hook: what was judged is not what leaves.
//!
//! A program cannot read the place. It can try to cut the packet before it (`bpf_skb_change_tail`), and kernels are of two kinds: those
//! before the autumn of 2026 refuse, and leave the packet as it is; since "bpf: Fix `bpf_skb_change_tail` wrt csum partial skbs"
//! (6.1.192, 6.12.117 and 6.18.54 have it) they cut, and forget the checksum with its place.
//!
//! A kernel that cuts is asked with a copy of the packet, which goes to `to_uplink` on the same CPU and no further. Which kind it is, is
//! found out by the first packet.

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{Array, PerCpuArray},
    helpers::generated::{bpf_clone_redirect, bpf_skb_change_tail},
    macros::btf_map,
    programs::TcContext,
};
use azure_vnet_abi::Reason;

use crate::{
    config,
    packet::{NETWORK, TCP, at},
};

/// Offset of the IPv4 header's checksum.
const FIELD: usize = NETWORK + 10;

/// What a copy is asked, and what it answers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Question {
    /// The packet's length if it is cut one byte before the end of its own transport's checksum.
    length: u32,
    /// [`ASKED`], or one of the answers.
    answer: u32,
}

/// Nothing is asked, so the packet is no copy.
const NOTHING: u32 = 0;
/// The copy has not come by.
const ASKED: u32 = 1;
/// The kernel is going to write in the checksum's place, or behind it.
const IN_PLACE: u32 = 2;
const ELSEWHERE: u32 = 3;

/// Not pinned, nor is [`KERNEL`]: nothing in it is of another packet.
#[btf_map(name = "question")]
static QUESTION: PerCpuArray<Question, 1> = PerCpuArray::new();

/// Which kind the kernel is: 0 until that is known.
#[btf_map(name = "kernel")]
static KERNEL: Array<u32, 1> = Array::new();

/// It does not cut before a checksum that is to be written. This is believed; if it is wrong, the first packet that is cut tells.
const REFUSES: u32 = 1;
/// It does. That was seen.
const CUTS: u32 = 2;

/// [`Reason::PartialChecksum`] if the kernel is going to write before the checksum of the packet's own transport header, which
/// begins at `transport`. What is behind that is nobody's concern: a tunnel has such a checksum in the packet that it carries.
#[inline(always)]
pub fn refuse_misplaced(ctx: &TcContext, protocol: u8, transport: usize) -> Result<(), Reason> {
    // One byte less than reaches to the end of the checksum. UDP's is the first of all protocols whose checksum the kernel leaves to
    // a NIC.
    let behind = if protocol == TCP { 17 } else { 7 };
    match judge_place(ctx.skb.skb, transport as u32 + behind) {
        IN_PLACE => Ok(()),
        _ => Err(Reason::PartialChecksum),
    }
}

/// A packet without such a checksum has it in its place.
///
/// A global function (see [`taking`](crate::taking)): the verifier walks it once, and not for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge_place(skb: *mut __sk_buff, length: u32) -> u32 {
    let ctx = TcContext::new(skb);
    match is_partial(&ctx) {
        Some(true) => {}
        Some(false) => return IN_PLACE,
        None => return ELSEWHERE,
    }
    if kind() == REFUSES {
        return match cut(&ctx, length) {
            Cut::REFUSED => IN_PLACE,
            Cut::FORGOTTEN => {
                // It does not refuse. This packet is lost, the next one is asked with a copy.
                set_kind(CUTS);
                ELSEWHERE
            }
            _ => ELSEWHERE,
        };
    }
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    if unsafe { (*skb).gso_size } != 0 {
        // Too dear to copy. The kernel never finishes what is still to be cut into segments, and writes into a segment by its headers.
        return IN_PLACE;
    }
    ask_copy(&ctx, length)
}

/// `bpf_l4_csum_replace` leaves a partial checksum alone, unless it is told of a pseudo-header; the field may be any. `None` if
/// there is none.
#[inline(always)]
fn is_partial(ctx: &TcContext) -> Option<bool> {
    const HALF_WORD: u64 = 2;

    let before = read(ctx)?;
    ctx.l4_csum_replace(FIELD, 0, 1, HALF_WORD).ok()?;
    if read(ctx)? == before {
        return Some(true);
    }
    let field = at::<u16>(ctx, FIELD)?;
    // SAFETY: `at` has shown that the field is inside the packet.
    unsafe { *field = before };
    Some(false)
}

#[inline(always)]
fn read(ctx: &TcContext) -> Option<u16> {
    let field = at::<u16>(ctx, FIELD)?;
    // SAFETY: `at` has shown that the field is inside the packet.
    Some(unsafe { *field })
}

/// What became of a packet that was to be cut. Numbers and not an enum, of which the compiler makes a branch for each pair.
struct Cut;

impl Cut {
    /// It is whole.
    const REFUSED: u32 = 0;
    /// It was cut, and its checksum with it.
    const FORGOTTEN: u32 = 1;
    /// It was cut, and the kernel is still to write: before that.
    const KEPT: u32 = 2;
}

/// Tries to cut a packet with such a checksum.
#[inline(always)]
fn cut(ctx: &TcContext, length: u32) -> u32 {
    const EINVAL: i64 = 22;

    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    let answer = unsafe { bpf_skb_change_tail(ctx.skb.skb, length, 0) } as i64;
    if answer == -EINVAL {
        Cut::REFUSED
    } else if answer == 0 && is_partial(ctx) == Some(false) {
        Cut::FORGOTTEN
    } else {
        Cut::KEPT
    }
}

/// Sends a copy to [`answer_for_copy`], which is there when this returns.
#[inline(always)]
fn ask_copy(ctx: &TcContext, length: u32) -> u32 {
    let (Some(question), Ok(uplink)) = (question(), config::uplink()) else {
        return ELSEWHERE;
    };
    *question = Question {
        length,
        answer: ASKED,
    };
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs; the helper takes it and two numbers.
    unsafe {
        let index = (*ctx.skb.skb).tc_index;
        (*ctx.skb.skb).tc_index = COPY;
        bpf_clone_redirect(ctx.skb.skb, uplink.ifindex, 0);
        (*ctx.skb.skb).tc_index = index;
    }
    let answer = question.answer;
    question.answer = NOTHING;
    answer
}

/// `tc_index` of a copy.
const COPY: u32 = 0xa5e0;

/// Whether a packet at the NIC may be a copy.
#[inline(always)]
pub fn may_be_copy(ctx: &TcContext) -> bool {
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    unsafe { (*ctx.skb.skb).tc_index == COPY }
}

/// Cuts the copy; 0 if it is none.
///
/// Another global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_for_copy(skb: *mut __sk_buff) -> u32 {
    /// A tunnel that is neither TCP nor UDP has the transport header that the kernel knows of in the packet that it carries, and no kernel
    /// cuts before that. So it is cut eight bytes further back each time: wherever it is cut first, a checksum in its place is behind.
    const TRIES: u32 = 16;

    let Some(question) = question().filter(|question| question.answer == ASKED) else {
        return 0;
    };
    let ctx = TcContext::new(skb);
    question.answer = ELSEWHERE;
    for turn in 0..TRIES {
        match cut(&ctx, question.length + 8 * turn) {
            Cut::REFUSED if kind() == CUTS => continue,
            Cut::REFUSED => set_kind(REFUSES),
            Cut::FORGOTTEN => set_kind(CUTS),
            _ => return 1,
        }
        question.answer = IN_PLACE;
        return 1;
    }
    1
}

#[inline(always)]
fn question() -> Option<&'static mut Question> {
    // SAFETY: a per-CPU element is written by programs on this CPU only. TC programs do not preempt each other there, and while a copy
    // is under way nothing else of its CPU is.
    QUESTION
        .get_ptr_mut(0)
        .map(|question| unsafe { &mut *question })
}

#[inline(always)]
fn kind() -> u32 {
    KERNEL.get(0).copied().unwrap_or(0)
}

#[inline(always)]
fn set_kind(kind: u32) {
    if let Some(element) = KERNEL.get_ptr_mut(0) {
        // SAFETY: the element's memory is valid while the program runs, and aligned; several CPUs may write it at once, and any of the
        // values is a good one.
        unsafe { element.write_volatile(kind) };
    }
}
