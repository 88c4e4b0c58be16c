//! What happens to a pod's packets by where they go.

use aya_ebpf::{
    btf_maps::{LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use azure_vnet_abi::{Action, Be32, MAX_PREFIXES, PolicyKey};

#[btf_map(name = "policy")]
static POLICY: LpmTrie<PolicyKey, u32, { MAX_PREFIXES as usize }> = LpmTrie::new();

/// One of [`Action`]'s constants for packets from a pod to `destination`.
#[inline(always)]
pub fn action(destination: Be32) -> u32 {
    let key = Key::new(32, destination);
    POLICY.get(&key).copied().unwrap_or(Action::MASQUERADE)
}
