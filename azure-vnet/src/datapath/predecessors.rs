//! Taking over from another version of the ABI, whose pins are elsewhere (decision 20).
//!
//! The flow table and the policy are not copied: they get a second pin, so programs of both versions work on the same while they change places.
//! Every step can be done again, and the predecessor's pins go last: as long as they are there, the next call takes over once more.

use std::io;
use std::path::Path;

use azure_vnet_abi::{ABI_VERSION, maps as names, programs};

use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::{Pod, chain, maps};

/// What other versions have pinned for a bridge, the newest first. That is one, unless a version before this file was written has
/// left another's behind.
pub struct Predecessors(Vec<(u32, Pins)>);

impl Predecessors {
    pub fn of(pins: &Pins) -> Self {
        Self(pins.of_other_versions())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Pins the maps that hold flows and the policy here as well, where this version knows what is in them: not those of a later one. To be called
    /// before the programs are loaded.
    pub fn hand_over_maps(&self, pins: &Pins) -> Result<(), EbpfError> {
        let Some((version, theirs)) = self.0.first() else {
            return Ok(());
        };
        for (name, since) in names::TAKEN_OVER {
            let is_known = (since..ABI_VERSION).contains(version);
            if is_known && maps::is_as_expected(theirs, name)? {
                take(
                    |from, to| std::fs::hard_link(from, to),
                    &theirs.map(name),
                    &pins.map(name),
                )?;
            } else if name == names::FLOWS {
                tracing::warn!("the flows of version {version} are not known here, and begin anew");
            }
        }
        Ok(())
    }

    /// Moves the links of the NIC, the bridge and `pods`, so that programs are put into them in place.
    pub fn hand_over_links(&self, pins: &Pins, pods: &[Pod]) -> Result<(), EbpfError> {
        let of_pods = pods.iter().map(|pod| pod.host_veth.as_str());
        for name in of_pods.chain([
            programs::FROM_UPLINK,
            programs::TO_UPLINK,
            programs::TO_PODS,
        ]) {
            for (_, theirs) in &self.0 {
                take(
                    |from, to| std::fs::rename(from, to),
                    &theirs.link(name),
                    &pins.link(name),
                )?;
            }
        }
        Ok(())
    }

    /// Forgets the flows of pods that went while nobody looked after them, then their pins. What cannot be removed is for the next call.
    pub fn forget(&self, pins: &Pins) {
        for (_, theirs) in &self.0 {
            let removed = maps::forget_dead_flows(pins).and_then(|()| theirs.remove());
            if let Err(error) = removed {
                tracing::warn!("{}", chain(&error));
            }
        }
    }
}

/// Makes a pin of ours of one of theirs, unless there is one of ours or none of theirs.
fn take(
    step: fn(&Path, &Path) -> io::Result<()>,
    theirs: &Path,
    ours: &Path,
) -> Result<(), EbpfError> {
    if ours.exists() {
        return Ok(());
    }
    match step(theirs, ours) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EbpfError::TakeOver {
            path: theirs.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use azure_vnet_abi::LAYOUT;

    /// What `maps::TAKEN_OVER` was written for. Until ABI 8 `Flow.acknowledged` was a number that both entries of a flow had in common; no
    /// bit of theirs says that it is more. If this fails, it is about other maps than those: what differs here needs the new
    /// version there.
    #[test]
    fn what_is_taken_over_is_laid_out_as_it_was() {
        let taken_over = [
            "FlowKey",
            "Flow",
            "FragmentKey",
            "Fragment",
            "PolicyKey",
            "Judgement",
            "RuleKey",
            "PolicyState",
        ];
        let entries = (LAYOUT.iter()).filter(|entry| taken_over.contains(&entry.0));
        let present: Vec<String> = entries
            .map(|(name, field, offset)| format!("{name}.{field} {offset}"))
            .collect();
        let accepted = "FlowKey.size 16 FlowKey.source 0 FlowKey.destination 4 FlowKey.source_port 8 \
             FlowKey.destination_port 10 FlowKey.protocol 12 Flow.size 32 Flow.last_seen 0 Flow.timeout 4 \
             Flow.address 8 Flow.port 12 Flow.kind 14 Flow.tcp_state 15 Flow.acknowledged 16 Flow.ifindex 20 \
             Flow.mac 24 Flow.flags 30 FragmentKey.size 12 FragmentKey.source 0 FragmentKey.destination 4 \
             FragmentKey.identification 8 FragmentKey.protocol 10 Fragment.size 20 Fragment.seen 0 \
             Fragment.address 4 Fragment.mac 8 Fragment.ifindex 16 \
             PolicyKey.size 8 PolicyKey.generation 0 PolicyKey.destination 4 Judgement.size 8 Judgement.action 0 \
             Judgement.rules 4 RuleKey.size 12 RuleKey.generation 0 RuleKey.rules 4 RuleKey.protocol 6 RuleKey.port 7 \
             PolicyState.size 32 PolicyState.current 0 PolicyState.previous 4 PolicyState.until 8 \
             PolicyState.digest 16 PolicyState.more_digest 24";
        assert_eq!(present.join(" "), accepted);
    }
}
