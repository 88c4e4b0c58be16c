//! What nftables has of ours, as nft lists it, and whether it is what was installed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::super::elements::{Elements, SETS};
use super::super::program::output;
use super::super::seal::Digest;
use super::{NetfilterError, PROGRAM, check_name, is_missing, table};
use crate::lock::Lock;

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
        let lock = lock.share().map_err(NetfilterError::of(PROGRAM))?;
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
    output(PROGRAM, &["-j", &commands], stdin)
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
        let mut document = document.map_err(NetfilterError::of(PROGRAM))?;
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
    let parts: Option<Vec<&str>> = parts.into_iter().map(Value::as_str).collect();
    parts.map(|parts| parts.join(" "))
}

/// An element in nft's syntax: names are quoted, and a dot is between the parts.
pub fn written(element: &str) -> String {
    let part = |part: &str| {
        if part.parse::<Ipv4Addr>().is_ok() {
            part.to_owned()
        } else {
            format!("\"{part}\"")
        }
    };
    let parts: Vec<String> = element.split(' ').map(part).collect();
    parts.join(" . ")
}

/// Commands that `add` or `delete` elements in the tables of this name.
pub fn script(elements: &Elements, verb: &str, table: &str) -> String {
    let mut script = String::new();
    for (family, set) in SETS {
        let elements: Vec<String> = elements.in_set(set).map(written).collect();
        if !elements.is_empty() {
            let elements = elements.join(", ");
            let _ = writeln!(
                script,
                "{verb} element {family} {table} {set} {{ {elements} }}"
            );
        }
    }
    script
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
        assert_eq!(of("ports"), ["azv1"]);
        assert_eq!(of("sources"), ["azv1 10.0.0.5"]);
        assert_eq!(of("pods"), ["10.0.0.5"]);
        assert!(of("addresses").is_empty());
        assert!(installed.has_rules("bridge", "prerouting"));
        assert!(!installed.has_rules("bridge", "idle") && !installed.has_rules("ip", "prerouting"));
    }

    #[test]
    fn a_script_quotes_names() {
        let mut elements = Elements::default();
        elements.insert("ports", "azv3".into());
        elements.insert("sources", "azv3 10.0.0.7".into());
        elements.insert("pods", "10.0.0.7".into());
        assert_eq!(
            script(&elements, "delete", "t"),
            "delete element ip t pods { 10.0.0.7 }\n\
             delete element bridge t ports { \"azv3\" }\n\
             delete element bridge t sources { \"azv3\" . 10.0.0.7 }\n"
        );
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
