//! The list's "state S0": what there is of attachments on a node, from the outside: links, reserved addresses, what masquerades,
//! files and pins.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData};
use azure_vnet_abi::{ABI_VERSION, Be32, Flow, FlowKey, Pod, Port, maps};
use azure_vnet_testbed::namespace::Namespace;
use serde_json::Value;

use crate::fixture::{Node, Subject, links};
use crate::row::{Verdict, expect};

const STATE: &str = "/run/azure-vnet";
const RESERVATIONS: &str = "/var/lib/cni/networks";

/// All traces of attachments at one moment, each as a line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Node {
    /// What there is now.
    pub fn snapshot(&self) -> Snapshot {
        let mut lines: BTreeSet<String> = links(self.vm().namespace())
            .into_iter()
            .map(|link| format!("link {link}"))
            .collect();
        lines.extend(self.reservations());
        lines.extend(self.masquerade());
        lines.extend(self.inside(|| files(&[STATE, "/sys/fs/bpf/azure-vnet"])));
        Snapshot(lines)
    }

    /// The addresses that IPAM has given away.
    pub fn reservations(&self) -> BTreeSet<String> {
        if self.subject.is_ours() {
            let path = format!("{STATE}/ipam.json");
            let text = self.inside(|| fs::read(path)).unwrap_or_default();
            let record: Value = serde_json::from_slice(&text).unwrap_or_default();
            let leases = record["state"]["pool"]["leases"]
                .as_array()
                .into_iter()
                .flatten();
            let text =
                |lease: &Value, key: &str| lease[key].as_str().unwrap_or_default().to_owned();
            leases
                .map(|lease| {
                    let of =
                        ["network", "containerId", "ifname", "address"].map(|key| text(lease, key));
                    format!("reservation {}", of.join(" "))
                })
                .collect()
        } else {
            let files = self.inside(|| files(&[RESERVATIONS]));
            let is_address = |path: &String| {
                path.rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .parse::<Ipv4Addr>()
                    .is_ok()
            };
            files
                .into_iter()
                .filter(is_address)
                .map(|path| path.replace("file", "reservation"))
                .collect()
        }
    }

    /// What masquerades: entries of the eBPF maps, or netfilter's rules and set elements.
    pub fn masquerade(&self) -> BTreeSet<String> {
        match self.subject {
            Subject::Ebpf => self.inside(|| map_entries(self.subject.bridge())),
            Subject::Netfilter => {
                let rules = output(self.vm().namespace(), "nft", "list ruleset");
                // A set is one line with all its elements: each of them counts.
                let tokens = rules.split(['\n', ',', '{', '}']).map(str::trim);
                tokens
                    .filter(|token| token.parse::<Ipv4Addr>().is_ok() || token.contains(" : "))
                    .map(|token| format!("rule element {token}"))
                    .collect()
            }
            Subject::Reference => {
                let rules = output(self.vm().namespace(), "iptables", "-t nat -S");
                rules.lines().map(|line| format!("rule {line}")).collect()
            }
        }
    }

    /// Fails if the kernel remembers masqueraded flows of an address that no pod has any more: the next pod with it would meet
    /// them. They are entries of the eBPF tier; netfilter's connection tracking is nobody's attachment.
    pub fn no_flows_of(&self, address: Ipv4Addr) -> Verdict {
        if self.subject != Subject::Ebpf {
            return Ok(());
        }
        let flows: Vec<_> = self.inside(|| {
            let map = open::<FlowKey, Flow>(self.subject.bridge(), maps::FLOWS);
            let text = |key: FlowKey| {
                format!(
                    "{} to {}",
                    Ipv4Addr::from(key.source),
                    Ipv4Addr::from(key.destination)
                )
            };
            let of_pod = map.iter().flatten().filter(|(key, flow)| {
                [key.source, key.destination, flow.address].contains(&address.into())
            });
            of_pod.map(|(key, _)| text(key)).collect()
        });
        expect(
            flows.is_empty(),
            format!("no flow of {address} in the map"),
            flows.join("; "),
        )
    }

    /// Takes away what masquerades an address, as if somebody had flushed it.
    pub fn remove_masquerade(&self, address: Ipv4Addr) {
        match self.subject {
            Subject::Ebpf => self.inside(|| {
                let key = Be32::from(address);
                open::<Be32, Pod>(self.subject.bridge(), maps::PODS)
                    .remove(&key)
                    .unwrap();
            }),
            Subject::Netfilter => {
                let set = format!(
                    "delete element ip azure-vnet-{} pods {{ {address} }}",
                    self.subject.bridge()
                );
                self.vm()
                    .program("nft")
                    .unwrap()
                    .arg(set)
                    .checked()
                    .unwrap();
            }
            Subject::Reference => {
                let of = format!("-A POSTROUTING -s {address}/32");
                let rules = output(self.vm().namespace(), "iptables", "-t nat -S");
                let rule = rules
                    .lines()
                    .find(|line| line.starts_with(&of))
                    .expect("a rule of the pod");
                let chain = rule.rsplit(' ').next().unwrap_or_default();
                output(
                    self.vm().namespace(),
                    "iptables",
                    &format!("-t nat -F {chain}"),
                );
            }
        }
    }
}

impl Snapshot {
    /// Fails if there is more now than there was: the list's "S0".
    pub fn nothing_left(&self, node: &Node) -> Verdict {
        let left: Vec<_> = node.snapshot().0.difference(&self.0).cloned().collect();
        expect(
            left.is_empty(),
            "nothing is left of the attachment",
            format!("left: {}", left.join("; ")),
        )
    }

    /// Fails if anything is left but reservations: for checks in which IPAM could not do its part.
    pub fn nothing_left_but_reservations(&self, node: &Node) -> Verdict {
        let mut left: Vec<_> = node.snapshot().0.difference(&self.0).cloned().collect();
        // The record of the attachment is what a repeated DEL goes by.
        left.retain(|line| {
            !line.starts_with("reservation ") && !line.starts_with("file /run/azure-vnet/")
        });
        expect(
            left.is_empty(),
            "veth and masquerade are gone",
            format!("left: {}", left.join("; ")),
        )
    }

    /// Fails if anything came or went.
    pub fn unchanged(&self, node: &Node) -> Verdict {
        let now = node.snapshot();
        let differences: Vec<_> = now.0.symmetric_difference(&self.0).cloned().collect();
        expect(
            differences.is_empty(),
            "nothing changed",
            format!("different: {}", differences.join("; ")),
        )
    }

    /// The lines that contain this text.
    pub fn with(&self, text: &str) -> Vec<&str> {
        self.0
            .iter()
            .map(String::as_str)
            .filter(|line| line.contains(text))
            .collect()
    }
}

/// The standard output of a program of the VM.
pub fn output(namespace: &Namespace, program: &str, line: &str) -> String {
    let program = namespace.program(program).unwrap().args(line.split(' '));
    program.checked().unwrap_or_else(|error| panic!("{error}"))
}

/// All files below these directories. A file that vanishes while we look was not there.
pub fn files(directories: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<PathBuf> = directories.iter().map(PathBuf::from).collect();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else {
                found.insert(format!("file {}", entry.path().display()));
            }
        }
    }
    found
}

fn map_entries(bridge: &str) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    if !Path::new("/sys/fs/bpf/azure-vnet").exists() {
        return lines;
    }
    let pods = open::<Be32, Pod>(bridge, maps::PODS);
    lines.extend(
        pods.keys()
            .flatten()
            .map(|address| format!("map pods {}", Ipv4Addr::from(address))),
    );
    let ports = open::<u32, Port>(bridge, maps::PORTS);
    lines.extend(
        ports
            .keys()
            .flatten()
            .map(|port| format!("map ports {port}")),
    );
    lines
}

fn open<K: aya::Pod, V: aya::Pod>(bridge: &str, name: &str) -> HashMap<MapData, K, V> {
    let path = format!("/sys/fs/bpf/azure-vnet/v{ABI_VERSION}/{bridge}/maps/{name}");
    assert!(Path::new(&path).exists(), "{path} is not there");
    let data = MapData::from_pin(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    HashMap::try_from(Map::HashMap(data)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
