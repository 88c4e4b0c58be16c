//! From outcome to action.

use aya_ebpf::bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use azure_vnet_abi::Reason;

use crate::{counters, events};

/// What a hook found: `Err` is only the early way out, the reason alone says what happens.
pub type Outcome = Result<Reason, Reason>;

/// Counts the outcome, tells who watches, and turns it into the action for the kernel.
///
/// A packet that goes on gets `TC_ACT_UNSPEC`, which is `TCX_NEXT`: other programs on the hook run
/// as if ours were not there, on TCX and on `cls_bpf` alike. One that is redirected goes where
/// [`fast::redirect`](crate::fast::redirect) was told, past them.
#[inline(always)]
pub fn settle(ctx: &TcContext, outcome: Outcome) -> i32 {
    let (Ok(reason) | Err(reason)) = outcome;
    if !matches!(reason, Reason::NotOurs) {
        counters::count(reason);
        events::tell(ctx, reason);
    }
    match reason {
        Reason::MasqueradedFast
        | Reason::UnmasqueradedFast
        | Reason::ToNewMac
        | Reason::ByOtherNic
        | Reason::ArpAnswered => TC_ACT_REDIRECT,
        reason if reason.passes() => TC_ACT_UNSPEC,
        _ => TC_ACT_SHOT,
    }
}
