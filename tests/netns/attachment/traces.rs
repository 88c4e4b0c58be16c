//! What attachments leave on a node, as far as anybody can see it.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use azure_vnet_abi::{ABI_VERSION, Be32, Pod, Port, maps};
use azure_vnet_testbed::Vm;
use serde_json::Value;

use crate::fixture::{Tier, sh};

/// Everything there is of attachments, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces(pub BTreeSet<String>);

const STATE: &str = "/run/azure-vnet";

impl Traces {
    pub fn of(vm: &Vm, tier: Tier) -> Self {
        let mut lines = BTreeSet::new();
        lines.extend(
            vm.links()
                .unwrap()
                .into_iter()
                .map(|link| format!("link {link}")),
        );
        let neighbours = sh(vm.namespace(), "ip neighbour show nud permanent");
        lines.extend(neighbours.lines().map(|line| format!("neighbour {line}")));
        lines.extend(vm.namespace().run(files).unwrap());
        lines.extend(vm.namespace().run(reservations).unwrap());
        lines.extend(match tier {
            Tier::Netfilter => elements(&sh(vm.namespace(), "nft -j list ruleset")),
            Tier::Tcx | Tier::ClsBpf => vm.namespace().run(entries).unwrap(),
        });
        Self(lines)
    }

    /// The lines that say something of this address or name.
    pub fn about(&self, what: &str) -> Vec<&String> {
        self.0.iter().filter(|line| line.contains(what)).collect()
    }
}

/// Records, and pins of links.
fn files() -> Vec<String> {
    let directories = [format!("{STATE}/attachments"), pins("links")];
    let entries = directories
        .into_iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten());
    entries
        .map(|entry| format!("file {}", entry.unwrap().path().display()))
        .collect()
}

fn reservations() -> Vec<String> {
    let record = fs::read(format!("{STATE}/ipam.json")).unwrap_or_default();
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    let leases = record["state"]["pool"]["leases"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    leases
        .iter()
        .map(|lease| format!("lease {lease}"))
        .collect()
}

fn entries() -> Vec<String> {
    let (Some(pods), Some(ports)) = (map(maps::PODS), map(maps::PORTS)) else {
        return Vec::new();
    };
    let pods: HashMap<MapData, Be32, Pod> = pods.try_into().unwrap();
    let ports: HashMap<MapData, u32, Port> = ports.try_into().unwrap();
    let pods = pods
        .iter()
        .map(|entry| format!("pods {}", Ipv4Addr::from(entry.unwrap().0)));
    let ports = ports
        .iter()
        .map(|entry| format!("ports {}", Ipv4Addr::from(entry.unwrap().1.address)));
    pods.chain(ports).collect()
}

fn map(name: &str) -> Option<Map> {
    let path = pins("maps") + "/" + name;
    Path::new(&path)
        .exists()
        .then(|| Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap())
}

/// Takes a pod out of the map of pods.
pub fn remove_from_pods(vm: &Vm, address: Ipv4Addr) {
    vm.namespace()
        .run(|| {
            let mut pods: HashMap<MapData, Be32, Pod> =
                map(maps::PODS).unwrap().try_into().unwrap();
            pods.remove(&Be32::from(address)).unwrap();
        })
        .unwrap();
}

fn pins(kind: &str) -> String {
    format!("/sys/fs/bpf/azure-vnet/v{ABI_VERSION}/azure0/{kind}")
}

/// The elements of all sets.
fn elements(ruleset: &str) -> Vec<String> {
    let ruleset: Value = serde_json::from_str(ruleset).unwrap();
    let objects = ruleset["nftables"].as_array().unwrap().iter();
    let sets = objects.flat_map(|object| [&object["set"], &object["map"]]);
    let elements = sets.flat_map(|set| {
        let elements = set["elem"].as_array().cloned().unwrap_or_default();
        elements
            .into_iter()
            .map(|element| format!("{} {element}", set["name"].as_str().unwrap()))
    });
    elements.collect()
}
