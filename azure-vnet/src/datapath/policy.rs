//! The policy in the maps of the eBPF tier.
//!
//! It is written whole under a generation of its own, then one element says that it is in force: no packet
//! is judged by a half of it, and a call that is killed leaves only entries that nobody looks at.

use std::net::Ipv4Addr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData};
use azure_vnet_abi::{
    Action as KernelAction, Be32, Flow, FlowKey, FlowKind, Judgement, PolicyKey, PolicyState,
    RuleKey, maps,
};
use rustix::time::{ClockId, clock_gettime};

use super::Uplink;
use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::maps::{found, open};
use crate::masquerade::{Action, Compiled, Packet, Policy, UNCARRIED};

/// What a policy is made of: which generation is in force, and the entries of the generations.
const MAPS: [&str; 3] = [maps::POLICIES, maps::POLICY, maps::RULES];

/// Where a pin is lost, what is left is about entries that are not there any more: the pins of the rest go, so that the
/// policy is written anew. The programs that run have all of it, until they are replaced.
pub fn forget_halves(pins: &Pins) -> Result<(), EbpfError> {
    if MAPS.iter().all(|map| pins.map(map).exists()) {
        return Ok(());
    }
    MAPS.iter().try_for_each(|map| pins.remove_map(map))
}

/// Whether there is nothing to do for this policy.
pub fn is_current(pins: &Pins, policy: &Policy) -> Result<bool, EbpfError> {
    let state = state(&state_map(pins)?)?;
    Ok(says(&state, &policy.compile()) && !has_outlived(&state))
}

/// Puts the policy of `uplink` in force. Flows that are masqueraded go on, and so do TCP connections that the policy
/// before let out; only what is closed now ends. To be called under the bridge's lock.
pub fn install(pins: &Pins, uplink: &Uplink) -> Result<(), EbpfError> {
    let policy = &uplink.policy;
    // For so long may connections go on that the policy before let out with the pod's address, and have no entry
    // of their own yet: as long as an idle one lives.
    let grace = u64::from(uplink.timeouts.tcp_established);
    let compiled = policy.compile();
    let mut map = state_map(pins)?;
    let before = state(&map)?;
    if says(&before, &compiled) {
        if has_outlived(&before) {
            let alone = PolicyState {
                previous: 0,
                ..before
            };
            set_state(&mut map, alone)?;
            forget_others(pins, before.current)?;
        }
        return Ok(());
    }
    // Whoever looks must not find half of what goes.
    set_state(
        &mut map,
        PolicyState {
            previous: 0,
            ..before
        },
    )?;
    forget_others(pins, before.current)?;
    let current = before.current.checked_add(1).unwrap_or(1);
    write(pins, current, &compiled)?;
    let [digest, more_digest] = compiled.digest();
    let after = PolicyState {
        current,
        previous: before.current,
        until: now() + grace * 1_000_000_000,
        digest,
        more_digest,
    };
    set_state(&mut map, after)?;
    tracing::info!(
        "masquerade policy {current}: {} prefixes, {} verdicts",
        compiled.prefixes().len(),
        compiled.verdicts().len()
    );
    // A table without a policy may have been another version's.
    end_closed(pins, policy)
}

fn says(state: &PolicyState, compiled: &Compiled) -> bool {
    state.current != 0 && [state.digest, state.more_digest] == compiled.digest()
}

fn has_outlived(state: &PolicyState) -> bool {
    state.previous != 0 && now() > state.until
}

/// Entries of other generations: of a policy before, or of a call that was killed.
fn forget_others(pins: &Pins, current: u32) -> Result<(), EbpfError> {
    let mut policy = policy_map(pins)?;
    let keys: Vec<Key<PolicyKey>> = (policy.iter().map(|entry| entry.map(|(key, _)| key)))
        .collect::<Result<_, _>>()
        .map_err(|source| EbpfError::map(maps::POLICY, source))?;
    for key in keys
        .iter()
        .filter(|key| { key.data() }.generation != current)
    {
        found(policy.remove(key)).map_err(|source| EbpfError::map(maps::POLICY, source))?;
    }
    let mut rules = rules_map(pins)?;
    let keys: Vec<Key<RuleKey>> = (rules.iter().map(|entry| entry.map(|(key, _)| key)))
        .collect::<Result<_, _>>()
        .map_err(|source| EbpfError::map(maps::RULES, source))?;
    for key in keys
        .iter()
        .filter(|key| { key.data() }.generation != current)
    {
        found(rules.remove(key)).map_err(|source| EbpfError::map(maps::RULES, source))?;
    }
    Ok(())
}

fn write(pins: &Pins, generation: u32, compiled: &Compiled) -> Result<(), EbpfError> {
    let mut rules = rules_map(pins)?;
    let mut judgements = Vec::new();
    for verdicts in compiled.verdicts() {
        let protocols = verdicts.protocols();
        let number = if protocols.is_empty() {
            0
        } else {
            judgements.len() + 1
        };
        judgements.push(Judgement {
            action: kernel_action(verdicts.otherwise()),
            rules: u32::try_from(number).unwrap_or(u32::MAX),
        });
        for protocol in protocols {
            for (port, bits, action) in protocol.prefixes() {
                let number = u16::try_from(number).unwrap_or(u16::MAX);
                let key = RuleKey::new(generation, number, protocol.number, port.to_be_bytes());
                let key = Key::new(RuleKey::HEAD + u32::from(bits), key);
                rules
                    .insert(&key, kernel_action(action), 0)
                    .map_err(|source| EbpfError::map(maps::RULES, source))?;
            }
        }
    }
    let mut policy = policy_map(pins)?;
    for &(prefix, verdicts) in compiled.prefixes() {
        let key = PolicyKey {
            generation,
            destination: Be32::from(prefix.network()),
        };
        let key = Key::new(PolicyKey::HEAD + u32::from(prefix.prefix_len()), key);
        policy
            .insert(&key, judgements[verdicts], 0)
            .map_err(|source| EbpfError::map(maps::POLICY, source))?;
    }
    Ok(())
}

/// Flows remember that they are masqueraded, so those whose destination is closed now are forgotten.
fn end_closed(pins: &Pins, policy: &Policy) -> Result<(), EbpfError> {
    if !closes_more_than_nothing(policy) {
        return Ok(());
    }
    let failed = |source| EbpfError::map(maps::FLOWS, source);
    let mut flows: HashMap<MapData, FlowKey, Flow> = open(pins, maps::FLOWS)?;
    let mut closed = Vec::new();
    for entry in &flows {
        let (key, flow) = entry.map_err(failed)?;
        let packet = Packet {
            destination: Ipv4Addr::from(key.destination),
            protocol: key.protocol,
            port: Some(key.destination_port.to_host()),
        };
        if flow.kind == FlowKind::MASQUERADE && policy.action(&packet) == Action::Drop {
            let mut sent = key;
            (sent.source, sent.source_port) = (flow.address, flow.port);
            closed.extend([key, sent.reversed()]);
        }
    }
    for key in &closed {
        found(flows.remove(key)).map_err(failed)?;
    }
    Ok(())
}

/// Nothing is masqueraded to what the fabric does not carry, so nothing of that can be closed.
fn closes_more_than_nothing(policy: &Policy) -> bool {
    let compiled = policy.compile();
    let closes = |number: usize| {
        let verdicts = &compiled.verdicts()[number];
        let drops = |protocol: &crate::masquerade::Protocol| {
            protocol
                .prefixes()
                .iter()
                .any(|&(_, _, action)| action == Action::Drop)
        };
        verdicts.otherwise() == Action::Drop || verdicts.protocols().iter().any(drops)
    };
    (compiled.prefixes().iter())
        .any(|(prefix, number)| !UNCARRIED.contains(prefix) && closes(*number))
}

fn kernel_action(action: Action) -> u32 {
    match action {
        Action::Masquerade => KernelAction::MASQUERADE,
        Action::InRange => KernelAction::IN_RANGE,
        Action::Exempt => KernelAction::EXEMPT,
        Action::Drop => KernelAction::DROP,
    }
}

/// The programs' `bpf_ktime_get_ns`.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

fn state(map: &Array<MapData, PolicyState>) -> Result<PolicyState, EbpfError> {
    map.get(&0, 0)
        .map_err(|source| EbpfError::map(maps::POLICIES, source))
}

fn set_state(map: &mut Array<MapData, PolicyState>, state: PolicyState) -> Result<(), EbpfError> {
    map.set(0, state, 0)
        .map_err(|source| EbpfError::map(maps::POLICIES, source))
}

fn state_map(pins: &Pins) -> Result<Array<MapData, PolicyState>, EbpfError> {
    open(pins, maps::POLICIES)
}

fn policy_map(pins: &Pins) -> Result<LpmTrie<MapData, PolicyKey, Judgement>, EbpfError> {
    open(pins, maps::POLICY)
}

fn rules_map(pins: &Pins) -> Result<LpmTrie<MapData, RuleKey, u32>, EbpfError> {
    open(pins, maps::RULES)
}
