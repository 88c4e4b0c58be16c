//! Spoofing that is going on: what the wall around the pods drops, counted twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use azure_vnet_abi::Reason;

use crate::datapath::{self, Record, Tier};
use crate::health::{Check, Finding};

/// Between the two looks, at least. What comes less often than that is in the counters.
const PAUSE: Duration = Duration::from_millis(300);

/// A first look at the counters.
pub struct Spoofing {
    when: Instant,
    before: BTreeMap<(String, &'static str), u64>,
}

impl Spoofing {
    /// Looks for the first time.
    pub fn begin() -> Self {
        Self {
            when: Instant::now(),
            before: counted(),
        }
    }

    /// Looks again, and says what has become more.
    pub async fn end(self) -> Finding {
        tokio::time::sleep(PAUSE.saturating_sub(self.when.elapsed())).await;
        let risen = counted().into_iter().filter_map(|(key, after)| {
            let more = after.saturating_sub(*self.before.get(&key)?);
            let (bridge, reason) = key;
            (more > 0).then(|| format!("{more} of {reason} on {bridge}"))
        });
        let risen: Vec<String> = risen.collect();
        if risen.is_empty() {
            let found = "no pod sends with an address that is not its own";
            return Finding::ok(Check::Spoofing, found);
        }
        Finding::warning(
            Check::Spoofing,
            format!(
                "a pod sends with an address that is not its own; dropped within {} ms: {}",
                self.when.elapsed().as_millis(),
                risen.join(", ")
            ),
            "azure-vnet monitor --drops names the pod (eBPF tier); have it masquerade inside, or delete it",
        )
    }
}

fn counted() -> BTreeMap<(String, &'static str), u64> {
    let mut counted = BTreeMap::new();
    for (bridge, record) in Record::all() {
        match record.tier {
            Tier::Ebpf(_) => {
                let counters = datapath::counters(&bridge).unwrap_or_default();
                let spoofed = counters.into_iter().filter(|(reason, _)| {
                    matches!(reason, Reason::SpoofedAddress | Reason::SpoofedMac)
                });
                for (reason, packets) in spoofed {
                    counted.insert((bridge.clone(), reason.name()), packets);
                }
            }
            Tier::Netfilter => {
                if let Some(packets) = datapath::spoofed(record.rules, &bridge) {
                    counted.insert((bridge, "spoofed frames"), packets);
                }
            }
        }
    }
    counted
}
