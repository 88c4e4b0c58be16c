//! The masquerade policy as the kernel reads it: a longest-prefix-match trie of destinations, and one
//! of protocols and ports for the destinations whose verdict goes by them.
//!
//! A policy is written whole under a new generation and then named in [`PolicyState`], so that every
//! packet is judged by one policy or by the next, and never by half of one.

use crate::Be32;

/// Key of the `policy` trie behind the prefix length (`BPF_MAP_TYPE_LPM_TRIE` compares bytes in the
/// order of memory).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyKey {
    /// Of which policy; all its bits are part of every prefix.
    pub generation: u32,
    /// Where packets go.
    pub destination: Be32,
}

impl PolicyKey {
    /// Bits in front of the destination's prefix.
    pub const HEAD: u32 = 32;
}

/// Value of the `policy` trie. A destination without an entry is [`Action::MASQUERADE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// One of [`Action`]'s constants; where there are rules by port, for packets that none of them
    /// is about.
    pub action: u32,
    /// Which entries of the `rules` trie are about packets for this destination; 0 for none.
    pub rules: u32,
}

/// Key of the `rules` trie, whose value (`u32`) is one of [`Action`]'s constants. The prefix ends with
/// the protocol for rules about all of it, else with a prefix of the port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleKey {
    /// Of which policy.
    pub generation: u32,
    /// [`Judgement::rules`] of the destination.
    pub rules: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, in network order; 0 where the protocol has none.
    pub port: [u8; 2],
    // Scalars, because zeroing an array becomes a call to memset.
    padding: u8,
    more_padding: u16,
}

impl RuleKey {
    /// Bits of a prefix that ends with the protocol.
    pub const HEAD: u32 = 56;
    /// Bits of the whole key, without the padding.
    pub const BITS: u32 = 72;

    /// A key with its padding zeroed.
    #[inline]
    pub const fn new(generation: u32, rules: u16, protocol: u8, port: [u8; 2]) -> Self {
        Self {
            generation,
            rules,
            protocol,
            port,
            padding: 0,
            more_padding: 0,
        }
    }
}

/// The only element of the `policies` map: which policies are in force.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyState {
    /// Generation of the policy that new flows are judged by; 0 before there is one.
    pub current: u32,
    /// Generation of the policy before: TCP connections that it let out with the pod's address go on so.
    /// 0 if there is none.
    pub previous: u32,
    /// Until when they do, in nanoseconds of `CLOCK_MONOTONIC`.
    pub until: u64,
    /// First half of a digest of the current policy: tells whether another one is wanted.
    pub digest: u64,
    /// Second half of it.
    pub more_digest: u64,
}

/// What happens to a pod's packet.
pub struct Action;

impl Action {
    /// Leaves with the node's address.
    pub const MASQUERADE: u32 = 0;
    /// Inside the ranges: leaves with the pod's address.
    pub const IN_RANGE: u32 = 1;
    /// Outside the ranges, but leaves with the pod's address by rule (168.63.129.16).
    pub const EXEMPT: u32 = 2;
    /// Does not leave.
    pub const DROP: u32 = 3;
}
