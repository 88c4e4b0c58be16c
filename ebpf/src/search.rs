//! Finding a port: the pod's own, a free one near one that nobody can tell, or, where nearly all are in use, whichever
//! there is.
//!
//! One packet looks at a bounded number of ports, and the next packet to the same destination goes on
//! where this one stopped, whichever pod sent it. Ports that were seen in use in a row are counted, and
//! until when the first of them can end: once they are the whole range it is known, without another
//! look, that there is none. No packet is told so before.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{HashMap, LruHashMap},
    macros::btf_map,
};
use azure_vnet_abi::{Destination, FlowKey, MAX_SEARCHES, Search};

use crate::{
    config, life,
    ports::Range,
    taking::{self, Taken},
};

/// How many ports are tried for a free one before the search, which is dearer, begins.
const TRIES: u32 = 32;

/// How many ports one packet looks at in the search. The verifier walks each turn, which is a call of a global function and
/// little else.
const WINDOW: u32 = 256;

/// LRU: a search that is forgotten begins anew.
#[btf_map(name = "searches")]
static SEARCHES: LruHashMap<Destination, Search, { MAX_SEARCHES as usize }> = LruHashMap::new();

/// The destinations for which a CPU is at it. An entry made where there is none is the lock: what was
/// counted is only true if nobody else counts on, and kernels before 5.12 have no other way to see that.
#[btf_map(name = "searching")]
static SEARCHING: HashMap<
    Destination,
    u32,
    { MAX_SEARCHES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Takes a port for [`wanted`](taking::wanted), from that at place `first` of the range upwards. Returns it
/// or one of [`Taken`].
#[inline(always)]
pub fn find_port(first: u32) -> u32 {
    // One after the other and not one from within the other: the stacks of all that call each other may have 512 bytes
    // together, and older kernels count each as a multiple of 32.
    match try_ports(first) {
        Taken::IN_USE if may_search() => search_port(first.wrapping_add(TRIES)),
        taken => taken,
    }
}

/// Whether it is searched for this packet: where one pod floods, others have to get the lock.
#[inline(always)]
fn may_search() -> bool {
    taking::wanted().is_some_and(|wanted| wanted.may_search != 0)
}

/// The same, but for free ports only, and only for the first few.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn try_ports(first: u32) -> u32 {
    let Ok(uplink) = config::uplink() else {
        return Taken::IN_USE;
    };
    let range = Range::of(uplink);
    for turn in 0..TRIES {
        let taken = taking::take_free(range.port(first.wrapping_add(turn)));
        if taken != Taken::IN_USE {
            return taken;
        }
    }
    Taken::IN_USE
}

/// The same by searching on.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search_port(first: u32) -> u32 {
    let Some(wanted) = taking::wanted() else {
        return Taken::IN_USE;
    };
    let destination = destination(&wanted.reply_key);
    let now = wanted.reply.last_seen;
    if SEARCHING
        .insert(destination, 1, BPF_NOEXIST.into())
        .is_err()
    {
        // On another CPU. This packet is lost, and would have seen the same.
        return Taken::IN_USE;
    }
    let taken = go_on(&destination, first, now);
    let _ = SEARCHING.remove(destination);
    taken
}

#[inline(always)]
fn go_on(destination: &Destination, first: u32, now: u32) -> u32 {
    let Ok(uplink) = config::uplink() else {
        return Taken::IN_USE;
    };
    let range = Range::of(uplink);
    let Some(mut search) = begin(destination, first) else {
        return Taken::IN_USE;
    };
    // What one packet can see is seen anew.
    if range.size <= WINDOW || search.in_use != 0 && is_past(search.until, now) {
        search.in_use = 0;
    }
    if search.in_use >= range.size {
        return Taken::NONE;
    }
    if search.in_use == 0 {
        search.until = now.wrapping_add(life::least_time(uplink));
    }
    set_left(search.until.wrapping_sub(now));
    let start = range.within(search.next);
    let taken = look_from(&range, start);
    if taken != Taken::IN_USE {
        // What was counted ends here, and the next search begins elsewhere.
        let _ = SEARCHES.remove(destination);
        return taken;
    }
    search.next = start + WINDOW;
    search.in_use += WINDOW;
    search.until = now.wrapping_add(left());
    // Not where somebody made it void meanwhile.
    let _ = SEARCHES.insert(destination, search, BPF_EXIST.into());
    if search.in_use >= range.size {
        Taken::NONE
    } else {
        Taken::IN_USE
    }
}

/// Looks at [`WINDOW`] ports from that at place `start` upwards; around, if the range is smaller.
#[inline(always)]
fn look_from(range: &Range, start: u32) -> u32 {
    for turn in 0..WINDOW {
        let taken = taking::take_over(range.port(start.wrapping_add(turn)));
        if taken != Taken::IN_USE {
            return taken;
        }
    }
    Taken::IN_USE
}

#[inline(always)]
fn set_left(jiffies: u32) {
    if let Some(wanted) = taking::wanted() {
        wanted.left = jiffies;
    }
}

#[inline(always)]
fn left() -> u32 {
    taking::wanted().map_or(0, |wanted| wanted.left)
}

/// The search towards a destination, which may be a new one.
#[inline(always)]
fn begin(destination: &Destination, first: u32) -> Option<Search> {
    // SAFETY: nobody else writes to the entry, and what is read of one that is being evicted is a
    // search of another destination at worst, which the next packet finds out.
    if let Some(search) = unsafe { SEARCHES.get(destination) } {
        return Some(*search);
    }
    let search = Search {
        next: first,
        ..Search::default()
    };
    SEARCHES
        .insert(destination, search, BPF_NOEXIST.into())
        .is_ok()
        .then_some(search)
}

/// A port was given back before its time: what is known about its destination is void.
#[inline(always)]
pub fn begin_anew(reply_key: &FlowKey) {
    let _ = SEARCHES.remove(destination(reply_key));
}

#[inline(always)]
fn destination(reply_key: &FlowKey) -> Destination {
    Destination {
        address: reply_key.source,
        port: reply_key.source_port,
        protocol: reply_key.protocol.into(),
    }
}

#[inline(always)]
fn is_past(time: u32, now: u32) -> bool {
    now.wrapping_sub(time).cast_signed() >= 0
}
