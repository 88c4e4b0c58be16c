//! `azure-vnet doctor --bundle FILE`: what a maintainer needs to see of a node, in one JSON document. Nothing is sent anywhere; names
//! and addresses of pods are in it, and what looks like a secret is not.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rtnetlink::packet_route::AddressFamily;
use serde::Serialize;
use serde_json::Value;

use super::super::metrics::collect;
use super::super::{Failure, status};
use crate::datapath::foreign;
use crate::health::Finding;
use crate::netlink::Netlink;
use crate::state;

/// Of each file, its end: a log may be 5 MB.
const MOST_OF_A_FILE: u64 = 128 * 1024;
/// Of a folder: a node has some hundred pods.
const MOST_FILES: usize = 600;

/// Where what is, beside what this plugin remembers.
const FILES: [&str; 8] = [
    "/etc/os-release",
    "/etc/resolv.conf",
    "/proc/version",
    "/proc/sys/net/ipv4/ip_local_port_range",
    "/proc/sys/net/ipv4/ip_local_reserved_ports",
    "/proc/sys/net/ipv4/conf/all/rp_filter",
    "/var/log/azure-vnet.log",
    "/var/log/azure-vnet-ipam.log",
];
/// Folders with JSON files.
const FOLDERS: [&str; 2] = ["", "attachments"];
const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// Parts of a key's name that say that its value is nobody's business.
const SECRETS: [&str; 6] = ["secret", "token", "password", "credential", "key", "cert"];

/// What is collected. What cannot be read says why.
#[derive(Serialize)]
struct Bundle {
    version: &'static str,
    findings: Vec<Finding>,
    status: Value,
    metrics: String,
    /// As the kernel lists them.
    links: Vec<String>,
    addresses: Vec<String>,
    routes: Vec<String>,
    rules: Vec<String>,
    neighbours: Vec<String>,
    /// Of iptables, without counters of packets.
    firewall: Vec<String>,
    chains: Vec<String>,
    configurations: BTreeMap<String, Value>,
    files: BTreeMap<String, String>,
}

/// Writes it, for root alone; a file that is there is left alone.
pub async fn write(path: &Path, findings: Vec<Finding>) -> Result<(), Failure> {
    let bundle = Bundle::collect(findings).await?;
    let text = serde_json::to_string_pretty(&bundle).map_err(|error| Failure::of(&error))?;
    let mut options = OpenOptions::new();
    let created = options.write(true).create_new(true).mode(0o600).open(path);
    created
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| {
            Failure::new(format!(
                "cannot write {}: {error}; name a file that is not there yet",
                path.display()
            ))
        })
}

impl Bundle {
    async fn collect(findings: Vec<Finding>) -> Result<Self, Failure> {
        let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
        let status = serde_json::to_value(status::gather(&netlink).await?);
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            metrics: collect::all(&findings).to_string(),
            findings,
            status: status.unwrap_or_default(),
            links: listed(netlink.links().await),
            addresses: listed(netlink.ipv4_addresses().await),
            routes: listed(netlink.routes().await),
            rules: listed(netlink.rules(AddressFamily::Inet).await),
            neighbours: listed(netlink.neighbours().await),
            firewall: match foreign::iptables() {
                Ok(lines) => lines
                    .into_iter()
                    .map(|line| format!("{} {}: {}", line.program, line.table, line.text))
                    .collect(),
                Err(error) => vec![error.to_string()],
            },
            chains: listed(foreign::chains::all()),
            configurations: configurations(),
            files: files(),
        })
    }
}

fn listed<T: std::fmt::Debug, E: std::fmt::Display>(all: Result<Vec<T>, E>) -> Vec<String> {
    match all {
        Ok(all) => all.iter().map(|it| format!("{it:?}")).collect(),
        Err(error) => vec![error.to_string()],
    }
}

fn files() -> BTreeMap<String, String> {
    let folders = FOLDERS.map(|folder| Path::new(state::DIRECTORY).join(folder));
    let records = folders
        .iter()
        .flat_map(|folder| below(folder, &["json", "damaged"]));
    let all = FILES.iter().map(PathBuf::from).chain(records);
    all.map(|path| {
        let text = end_of(&path).unwrap_or_else(|error| format!("cannot be read: {error}"));
        (path.display().to_string(), text)
    })
    .collect()
}

/// The configurations of the runtime, without what looks like a secret.
fn configurations() -> BTreeMap<String, Value> {
    let all = below(Path::new(CONFIGURATIONS), &["conf", "conflist", "json"]);
    all.into_iter()
        .map(|path| {
            let read = end_of(&path).map_err(|error| error.to_string());
            let read = read
                .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
            let value = read.map_or_else(
                |error| Value::from(format!("cannot be read: {error}")),
                without_secrets,
            );
            (path.display().to_string(), value)
        })
        .collect()
}

fn without_secrets(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let entries = entries.into_iter().map(|(key, value)| {
                let name = key.to_ascii_lowercase();
                let is_secret = SECRETS.iter().any(|part| name.contains(part));
                let value = if is_secret {
                    Value::from("removed")
                } else {
                    without_secrets(value)
                };
                (key, value)
            });
            Value::Object(entries.collect())
        }
        Value::Array(items) => items.into_iter().map(without_secrets).collect(),
        value => value,
    }
}

/// The regular files of a folder with one of these extensions.
fn below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| {
        let extension = path.extension().and_then(|it| it.to_str());
        extension.is_some_and(|it| extensions.contains(&it))
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_one).collect();
    paths.sort();
    paths.truncate(MOST_FILES);
    paths
}

fn end_of(path: &Path) -> Result<String, azure_vnet_files::ReadError> {
    let bytes = azure_vnet_files::read_end(path, MOST_OF_A_FILE)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_removed_at_any_depth() {
        let value = serde_json::json!({
            "name": "azure", "plugins": [{ "type": "x", "etcdKeyFile": "a", "args": { "API_TOKEN": "b", "mtu": 1 } }],
        });
        let expected = serde_json::json!({
            "name": "azure",
            "plugins": [{ "type": "x", "etcdKeyFile": "removed", "args": { "API_TOKEN": "removed", "mtu": 1 } }],
        });
        assert_eq!(without_secrets(value), expected);
    }
}
