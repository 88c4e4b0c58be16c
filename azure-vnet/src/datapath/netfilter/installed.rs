//! What nftables has of ours, as nft lists it, and whether it is what was installed.
//!
//! How nft lists a rule differs from how it was written, and from version to version. So what is compared is the
//! listing with the listing that was had right after the rules were installed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::elements::{self, Elements, SETS};
use super::{NetfilterError, PROGRAM, check_name, is_missing, run, table};
use crate::datapath::record;
use crate::lock::Lock;
use crate::state;

/// Both tables of a bridge.
#[derive(Debug, Default)]
pub struct Installed {
    /// Family and name of the chains that have a rule.
    chains: BTreeSet<(String, String)>,
    /// What of pods is in the sets.
    pub elements: Elements,
    /// All the rest.
    pub form: Digest,
}

/// Tells one text from another.
pub type Digest = [u8; 32];

/// What was installed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Of the text of the rules.
    pub rules: Digest,
    /// [`Installed::form`] of what became of it.
    pub form: Digest,
}

impl Installed {
    /// Lists both tables; one that is not there is empty.
    pub fn read(bridge: &str) -> Result<Self, NetfilterError> {
        let mut text = String::new();
        for family in FAMILIES {
            text.push_str(&list(&[family], bridge, "", Stdio::null()).or_else(no_text)?);
        }
        Self::parse(&text)
    }

    /// Lists both tables and runs `script`, which prints nothing, in the same process; none if something that they
    /// need is not there. What `script` changes is not in what is listed. (Without a script nft 1.0.6 finds only the
    /// table that is listed last.)
    pub fn read_then(
        bridge: &str,
        script: &str,
        lock: &Lock,
    ) -> Result<Option<Self>, NetfilterError> {
        if script.is_empty() {
            return Self::read(bridge).map(Some);
        }
        // Standard output is the listing's.
        let lock = lock.share().map_err(NetfilterError::Run)?;
        match list(&FAMILIES, bridge, script, lock.into()) {
            Err(NetfilterError::Refused { .. }) => Ok(None),
            result => Self::parse(&result?).map(Some),
        }
    }

    /// Lists the table of family `netdev`.
    pub fn of_nics(bridge: &str) -> Result<Self, NetfilterError> {
        Self::parse(&list(&["netdev"], bridge, "", Stdio::null()).or_else(no_text)?)
    }

    /// Whether a chain is there and does something.
    pub fn has_rules(&self, family: &str, chain: &str) -> bool {
        self.chains.contains(&(family.to_owned(), chain.to_owned()))
    }

    /// libnftables-json(5), one document for each command.
    fn parse(text: &str) -> Result<Self, NetfilterError> {
        let mut installed = Self::default();
        let mut form = Sha256::new();
        for object in objects(text)? {
            if object.get("metainfo").is_some() {
                continue;
            }
            let rule = &object["rule"];
            if let (Some(family), Some(chain)) = (rule["family"].as_str(), rule["chain"].as_str()) {
                let chain = (family.to_owned(), chain.to_owned());
                installed.chains.insert(chain);
            }
            let name = object["set"]["name"].as_str();
            let set = SETS.iter().find(|(_, set)| Some(*set) == name);
            let mut object = object;
            if let Some((_, set)) = set {
                let elements = object["set"]["elem"].take();
                for element in elements
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(element)
                {
                    installed.elements.insert(set, element);
                }
            }
            forget_what_changes(&mut object);
            form.update(object.to_string());
        }
        installed.form = form.finalize().into();
        Ok(installed)
    }
}

impl Seal {
    /// What an earlier call wrote since boot. Without it the rules are installed anew.
    pub fn read(bridge: &str) -> Option<Self> {
        Self::at(&path(bridge))
    }

    /// The same, of another table.
    pub fn at(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Writes it down, under the bridge's lock.
    pub fn write(&self, bridge: &str) -> Result<(), std::io::Error> {
        if Self::read(bridge).as_ref() == Some(self) {
            return Ok(());
        }
        state::write_json(&path(bridge), self)
    }

    /// Forgets it.
    pub fn forget(bridge: &str) -> Result<(), record::Error> {
        record::remove(path(bridge))
    }
}

/// The digest of a text.
pub fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

/// The table of `bridge` in `family` as nft lists it; none if it is not there.
pub fn listing(family: &str, bridge: &str) -> Result<Vec<Value>, NetfilterError> {
    objects(&list(&[family], bridge, "", Stdio::null()).or_else(no_text)?)
}

const FAMILIES: [&str; 2] = ["bridge", "ip"];

fn list(
    families: &[&str],
    bridge: &str,
    script: &str,
    stdin: Stdio,
) -> Result<String, NetfilterError> {
    check_name(bridge)?;
    let table = table(bridge);
    let lists = families
        .iter()
        .map(|family| format!("list table {family} {table}\n"));
    let commands = lists.chain([script.to_owned()]).collect::<String>();
    // A file in memory, unlike a pipe, never blocks nft until somebody reads.
    let output = memfd_create("nft", MemfdFlags::CLOEXEC)
        .map_err(|errno| NetfilterError::Run(errno.into()))?;
    let mut output = File::from(output);
    let stdout = output.try_clone().map_err(NetfilterError::Run)?;
    run(PROGRAM, &["-j", &commands], stdin, "", stdout)?;
    let mut text = String::new();
    output
        .rewind()
        .and_then(|()| output.read_to_string(&mut text))
        .map_err(NetfilterError::Run)?;
    Ok(text)
}

fn no_text(error: NetfilterError) -> Result<String, NetfilterError> {
    if is_missing(&error) {
        Ok(String::new())
    } else {
        Err(error)
    }
}

fn objects(text: &str) -> Result<Vec<Value>, NetfilterError> {
    let mut objects = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let mut document = document.map_err(|error| NetfilterError::Run(error.into()))?;
        if let Value::Array(some) = document["nftables"].take() {
            objects.extend(some);
        }
    }
    Ok(objects)
}

/// An element of a set of ours, in the form of [`Elements`].
fn element(value: &Value) -> Option<String> {
    let parts = match value["concat"].as_array() {
        Some(parts) => parts.iter().collect(),
        None => vec![value],
    };
    let parts: Option<Vec<String>> = parts
        .into_iter()
        .map(|part| part.as_str().map(elements::part))
        .collect();
    parts.map(|parts| parts.join(" . "))
}

/// Handles, and what was counted.
fn forget_what_changes(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("handle");
            for (name, value) in fields {
                if name == "counter" {
                    *value = Value::Null;
                }
                forget_what_changes(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(forget_what_changes),
        _ => {}
    }
}

fn path(bridge: &str) -> PathBuf {
    Path::new(state::DIRECTORY).join(format!("netfilter-{bridge}.json"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn listed(packets: u64, handle: u64, verdict: &str) -> String {
        let bridge = json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "bridge", "name": "azure-vnet-azure0", "handle": handle}},
            {"set": {"family": "bridge", "name": "ports", "elem": ["azv1"]}},
            {"set": {"family": "bridge", "name": "sources", "elem": [{"concat": ["azv1", "10.0.0.5"]}]}},
            {"set": {"family": "bridge", "name": "addresses"}},
            {"chain": {"family": "bridge", "name": "idle"}},
            {"rule": {"family": "bridge", "chain": "prerouting", "handle": handle, "expr": [
                {"counter": {"packets": packets, "bytes": 9}}, {verdict: null}
            ]}},
        ]});
        let ip =
            json!({"nftables": [{"set": {"family": "ip", "name": "pods", "elem": ["10.0.0.5"]}}]});
        format!("{bridge}\n{ip}\n")
    }

    #[test]
    fn a_listing_is_understood() {
        let installed = Installed::parse(&listed(0, 1, "drop")).unwrap();
        let of = |set| installed.elements.in_set(set).collect::<Vec<_>>();
        assert_eq!(of("ports"), ["\"azv1\""]);
        assert_eq!(of("sources"), ["\"azv1\" . 10.0.0.5"]);
        assert_eq!(of("pods"), ["10.0.0.5"]);
        assert!(of("addresses").is_empty());
        assert!(installed.has_rules("bridge", "prerouting"));
        assert!(!installed.has_rules("bridge", "idle") && !installed.has_rules("ip", "prerouting"));
    }

    #[test]
    fn only_a_change_is_a_change() {
        let form = |text: &str| Installed::parse(text).unwrap().form;
        let before = listed(0, 1, "drop");
        assert_eq!(form(&before), form(&listed(7, 2, "drop")));
        assert_eq!(form(&before), form(&before.replace("10.0.0.5", "10.0.0.6")));
        assert_ne!(form(&before), form(&listed(0, 1, "accept")));
    }
}
