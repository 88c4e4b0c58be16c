//! What happens to a pod's packets by where they go.
//!
//! Asked once for each flow that is translated, since its entries remember the answer, and for each
//! packet that is not.

use aya_ebpf::{
    btf_maps::{Array, LpmTrie, lpm_trie::Key},
    helpers::generated::bpf_ktime_get_ns,
    macros::btf_map,
};
use azure_vnet_abi::{
    Action, Be16, Be32, FlowKey, Judgement, MAX_PREFIXES, MAX_RULES, PolicyKey, PolicyState,
    RuleKey,
};

use crate::packet::{Ipv4, Part, TCP, UDP};

#[btf_map(name = "policy")]
static POLICY: LpmTrie<PolicyKey, Judgement, { MAX_PREFIXES as usize }> = LpmTrie::new();

#[btf_map(name = "rules")]
static RULES: LpmTrie<RuleKey, u32, { MAX_RULES as usize }> = LpmTrie::new();

#[btf_map(name = "policies")]
static POLICIES: Array<PolicyState, 1> = Array::new();

/// One of [`Action`]'s constants for packets with this key from a pod.
#[inline(always)]
pub fn action(key: &FlowKey) -> u32 {
    let generation = state().map_or(0, |state| state.current);
    by_ports(generation, key)
}

/// What the policy says of a packet without ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Portless {
    /// This, whatever its port would be.
    Action(u32),
    /// It goes by the port.
    ByPort,
}

/// The same for a packet whose ports cannot be told.
#[inline(always)]
pub fn without_ports(ip: &Ipv4) -> Portless {
    let generation = state().map_or(0, |state| state.current);
    let judgement = by_destination(generation, ip.destination);
    if judgement.rules == 0 {
        return Portless::Action(judgement.action);
    }
    if matches!(ip.protocol, TCP | UDP) || ip.part == Part::Later {
        return Portless::ByPort;
    }
    Portless::Action(by_rule(generation, judgement, ip.protocol, Be16::default()))
}

/// Whether packets with this key, which are masqueraded now, left with the pod's address before the
/// policy changed, so lately that a connection may have lasted from then.
#[inline(always)]
pub fn let_out_before(key: &FlowKey) -> bool {
    let Some(state) = state() else {
        return false;
    };
    // SAFETY: the helper takes nothing and only reads a clock.
    if state.previous == 0 || unsafe { bpf_ktime_get_ns() } > state.until {
        return false;
    }
    matches!(
        by_ports(state.previous, key),
        Action::IN_RANGE | Action::EXEMPT
    )
}

#[inline(always)]
fn state() -> Option<&'static PolicyState> {
    POLICIES.get(0)
}

/// A function of its own, so that the verifier walks it once for each call and not once for each way
/// to it.
#[inline(never)]
fn by_ports(generation: u32, key: &FlowKey) -> u32 {
    let judgement = by_destination(generation, key.destination);
    if judgement.rules == 0 {
        return judgement.action;
    }
    by_rule(generation, judgement, key.protocol, key.destination_port)
}

#[inline(always)]
fn by_destination(generation: u32, destination: Be32) -> Judgement {
    let key = PolicyKey {
        generation,
        destination,
    };
    let found = POLICY.get(&Key::new(PolicyKey::HEAD + 32, key));
    found.copied().unwrap_or(Judgement {
        action: Action::MASQUERADE,
        rules: 0,
    })
}

#[inline(always)]
fn by_rule(generation: u32, judgement: Judgement, protocol: u8, port: Be16) -> u32 {
    let port = port.raw().to_ne_bytes();
    let key = RuleKey::new(generation, judgement.rules as u16, protocol, port);
    let found = RULES.get(&Key::new(RuleKey::BITS, key));
    found.copied().unwrap_or(judgement.action)
}
