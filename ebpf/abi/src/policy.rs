//! The masquerade policy as the kernel reads it: a longest-prefix-match trie of destinations.

use crate::Be32;

/// Key of the `policy` trie behind the prefix length (`BPF_MAP_TYPE_LPM_TRIE` wants the bits in
/// network order).
pub type PolicyKey = Be32;

/// What happens to a pod's packet by its destination; the value (`u32`) of the `policy` trie.
/// A destination without an entry is [`Action::MASQUERADE`].
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
