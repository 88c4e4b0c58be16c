//! What nftables has of ours, as nft lists it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::Ipv4Addr;

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;

use super::{NetfilterError, check_name, is_missing, run, table};

/// One of our tables.
#[derive(Debug, Default)]
pub struct Table {
    /// Chains that have a rule.
    chains: BTreeSet<String>,
    /// The keys in each set or map, as far as they are addresses.
    addresses: BTreeMap<String, Vec<Ipv4Addr>>,
}

impl Table {
    /// Lists the table of `bridge` in `family`; one that is not there is empty.
    pub fn read(family: &str, bridge: &str) -> Result<Self, NetfilterError> {
        Ok(Self::parse(&listing(family, bridge)?))
    }

    /// Whether a chain is there and does something.
    pub fn has_rules(&self, chain: &str) -> bool {
        self.chains.contains(chain)
    }

    /// The addresses in a set or map.
    pub fn addresses(&self, set: &str) -> &[Ipv4Addr] {
        self.addresses.get(set).map_or(&[], Vec::as_slice)
    }

    /// libnftables-json(5).
    fn parse(listing: &Value) -> Self {
        let mut table = Self::default();
        for object in listing["nftables"].as_array().into_iter().flatten() {
            if let Some(chain) = object["rule"]["chain"].as_str() {
                table.chains.insert(chain.to_owned());
            }
            for set in [&object["set"], &object["map"]] {
                if let Some(name) = set["name"].as_str() {
                    let elements = set["elem"].as_array().into_iter().flatten();
                    let addresses = elements.filter_map(key).collect();
                    table.addresses.insert(name.to_owned(), addresses);
                }
            }
        }
        table
    }
}

/// The table of `bridge` in `family` as nft lists it; null if it is not there.
pub fn listing(family: &str, bridge: &str) -> Result<Value, NetfilterError> {
    check_name(bridge)?;
    // A file in memory, unlike a pipe, never blocks nft until somebody reads.
    let output = memfd_create("nft", MemfdFlags::CLOEXEC)
        .map_err(|errno| NetfilterError::Run(errno.into()))?;
    let mut output = File::from(output);
    let stdout = output.try_clone().map_err(NetfilterError::Run)?;
    match run(&["-j", "list", "table", family, &table(bridge)], "", stdout) {
        Err(error) if is_missing(&error) => return Ok(Value::Null),
        result => result?,
    }
    let mut text = String::new();
    output
        .rewind()
        .and_then(|()| output.read_to_string(&mut text))
        .map_err(NetfilterError::Run)?;
    serde_json::from_str(&text).map_err(|error| NetfilterError::Run(error.into()))
}

/// An element of a set is its key, one of a map a pair that begins with it.
fn key(element: &Value) -> Option<Ipv4Addr> {
    let key = element.get(0).unwrap_or(element);
    key.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_listing_is_understood() {
        let listing = json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "bridge", "name": "azure-vnet-azure0"}},
            {"map": {"name": "macs", "map": "ether_addr", "elem": [["10.0.0.5", "0a:58:0a:00:00:05"]]}},
            {"set": {"name": "local", "elem": ["10.0.0.4", "10.0.0.5"]}},
            {"set": {"name": "empty"}},
            {"chain": {"name": "idle"}},
            {"chain": {"name": "prerouting"}},
            {"rule": {"chain": "prerouting", "expr": []}},
        ]});
        let table = Table::parse(&listing);
        assert_eq!(table.addresses("macs"), [Ipv4Addr::new(10, 0, 0, 5)]);
        assert_eq!(table.addresses("local").len(), 2);
        assert!(table.addresses("empty").is_empty() && table.addresses("unknown").is_empty());
        assert!(table.has_rules("prerouting") && !table.has_rules("idle"));
    }
}
