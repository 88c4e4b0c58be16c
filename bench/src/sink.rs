//! Where measured packets end: the first hook of a device, before anything else there has a cost, and a counter, so that a figure
//! is one of packets that arrived.

use anyhow::{Context, Result, ensure};
use azure_vnet_testbed::namespace::Namespace;
use serde_json::Value;

use crate::blast::PAYLOAD;

/// A rule on a device's ingress that takes what a [`crate::blast::Blast`] sends and nothing else.
pub struct Sink<'a> {
    namespace: &'a Namespace,
    device: String,
}

impl<'a> Sink<'a> {
    /// Before the anti-spoofing of the fabric, which is at priority 0.
    pub fn at(namespace: &'a Namespace, device: &str) -> Result<Self> {
        let length = 8 + PAYLOAD;
        let rules = format!(
            "table netdev bench_{device} {{
  counter arrived {{ }}
  chain sink {{
    type filter hook ingress device {device} priority -500;
    udp length {length} counter name arrived drop
  }}
}}
"
        );
        let nft = namespace.program("nft")?.args(["-f", "-"]).stdin(rules);
        nft.checked()
            .with_context(|| format!("cannot drop at {device}"))?;
        Ok(Self {
            namespace,
            device: device.to_owned(),
        })
    }

    /// Packets that ended here so far.
    pub fn arrived(&self) -> Result<u64> {
        let table = format!("bench_{}", self.device);
        let nft = self.namespace.program("nft")?;
        let listing = nft
            .args(["-j", "list", "counters", "table", "netdev", &table])
            .checked()?;
        let listing: Value = serde_json::from_str(&listing)?;
        let mut entries = listing["nftables"].as_array().into_iter().flatten();
        entries
            .find_map(|entry| entry["counter"]["packets"].as_u64())
            .with_context(|| format!("no counter in {table}"))
    }

    /// Runs `send`, which sends `count` packets; an error if not all of them arrived.
    pub fn all_of(&self, count: u64, send: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.arrived()?;
        send()?;
        let arrived = self.arrived()? - before;
        // One in a thousand may be in a queue still.
        ensure!(
            arrived + count / 1000 >= count,
            "only {arrived} of {count} packets came to {}",
            self.device
        );
        Ok(())
    }
}

impl Drop for Sink<'_> {
    fn drop(&mut self) {
        let table = format!("bench_{}", self.device);
        // The namespace takes the table along if this fails.
        let _ = self
            .namespace
            .program("nft")
            .map(|nft| nft.args(["delete", "table", "netdev", &table]).checked());
    }
}
