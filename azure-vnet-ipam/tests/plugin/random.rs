//! A long random life of a node: ADDs and DELs in parallel, kills, damaged files, boots. Every address is watched.
//!
//! `AZURE_VNET_RANDOM_SECONDS=600` makes it long, `AZURE_VNET_RANDOM_ADDRESSES=200` the node large; the seed is printed,
//! and `AZURE_VNET_RANDOM_SEED` takes it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::json;

use crate::node::{Node, address};

/// Few enough to run out of them in a few seconds.
const ADDRESSES: u64 = 50;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The node, and what its runtime knows of it.
struct Life {
    node: Node,
    random: Rng,
    addresses: usize,
    /// A few more than have room.
    containers: usize,
    /// Pods and their addresses.
    live: BTreeMap<usize, String>,
    /// Containers whose last call was killed: they may have an address, and have no network.
    unsure: BTreeSet<usize>,
    rounds: usize,
    boots: usize,
    counts: BTreeMap<&'static str, usize>,
}

#[test]
fn no_address_is_ever_had_twice_and_none_is_lost() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds = number("AZURE_VNET_RANDOM_SECONDS").unwrap_or(5);
    let seed = number("AZURE_VNET_RANDOM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("AZURE_VNET_RANDOM_SEED={seed}");
    let addresses = number("AZURE_VNET_RANDOM_ADDRESSES").unwrap_or(ADDRESSES);
    let mut life = Life::new(seed, addresses.try_into().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        life.round();
    }
    life.end();
    println!("{:?}", life.counts);
    unmount(BOOT_ID, UnmountFlags::DETACH).unwrap();
}

impl Life {
    fn new(seed: u64, addresses: usize) -> Self {
        let node = Node::with(addresses);
        fs::create_dir_all(node.state("attachments")).unwrap();
        let life = Life {
            node,
            random: Rng::with_seed(seed),
            addresses,
            containers: addresses + addresses / 8,
            live: BTreeMap::new(),
            unsure: BTreeSet::new(),
            rounds: 0,
            boots: 0,
            counts: BTreeMap::new(),
        };
        life.set_boot_id();
        mount_bind(life.node.beside("boot_id"), BOOT_ID).unwrap();
        life
    }

    fn round(&mut self) {
        self.rounds += 1;
        match self.random.u32(..200) {
            0..=2 => self.boot(),
            3..=30 => self.damage(),
            _ => {}
        }
        let mut containers: Vec<usize> = (0..self.containers).collect();
        self.random.shuffle(&mut containers);
        containers.truncate(self.random.usize(1..8));
        // Before the calls, as an address that goes may come to another at once.
        let taken = self.live.len() + self.unsure.len();
        let calls: Vec<_> = containers.into_iter().map(|it| self.start(it)).collect();
        let busy = taken + calls.len();
        for (container, command, child, killed) in calls {
            self.end_of(container, command, child, killed, busy);
        }
        let distinct: BTreeSet<&String> = self.live.values().collect();
        assert_eq!(distinct.len(), self.live.len(), "{:?}", self.live);
    }

    fn start(&mut self, container: usize) -> (usize, &'static str, Child, bool) {
        let is_del = if self.live.contains_key(&container) {
            // The node fills up for a while, and empties.
            let tide = if (self.rounds / 200).is_multiple_of(2) {
                1
            } else {
                7
            };
            self.random.u32(..10) < tide
        } else {
            self.random.u32(..10) < 2
        };
        let command = if is_del { "DEL" } else { "ADD" };
        if is_del {
            // The network plugin takes the link and its record away before it calls.
            self.live.remove(&container);
            let _ = fs::remove_file(self.attachment(container));
        }
        let mut child = self.node.start(command, &format!("c{container}"));
        let killed = self.random.u32(..6) == 0;
        if killed {
            thread::sleep(Duration::from_micros(self.random.u64(..6000)));
            child.kill().unwrap();
        }
        (container, command, child, killed)
    }

    fn end_of(&mut self, container: usize, command: &str, child: Child, killed: bool, busy: usize) {
        let output = child.wait_with_output().unwrap();
        // It may have been faster than the kill.
        if killed && output.status.code().is_none() {
            self.count("killed");
            if !self.live.contains_key(&container) {
                self.unsure.insert(container);
            }
            return;
        }
        if command == "DEL" {
            assert!(output.status.success(), "{output:?}");
            self.unsure.remove(&container);
            return self.count("DEL");
        }
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("pod addresses are in use"), "{output:?}");
            assert!(busy >= self.addresses, "{busy} busy: {text}");
            self.unsure.remove(&container);
            return self.count("exhausted");
        }
        let address = address(&output);
        if let Some(before) = self.live.get(&container) {
            assert_eq!(*before, address, "c{container} asked again");
        }
        self.unsure.remove(&container);
        let record = json!({"network": "azure", "container_id": format!("c{container}"), "ifname": "eth0",
            "netns": "/x", "host_veth": "lo", "bridge": "azure0", "address": address.trim_end_matches("/22"),
            "mac": "0a:58:00:00:00:01"});
        fs::write(self.attachment(container), record.to_string()).unwrap();
        self.live.insert(container, address);
        self.count("ADD");
    }

    /// One file or both, by a crash or a hand.
    fn damage(&mut self) {
        self.count("damage");
        let files = ["ipam.json", "ipam.json.backup"];
        let first = self.random.usize(..2);
        for name in &files[first..first + self.random.usize(1..=2 - first)] {
            let path = self.node.state(name);
            let Ok(mut bytes) = fs::read(&path) else {
                continue;
            };
            match self.random.u32(..4) {
                0 => {
                    fs::remove_file(&path).unwrap();
                    continue;
                }
                1 => bytes.truncate(self.random.usize(..=bytes.len())),
                2 => bytes.fill(0),
                _ => {
                    let at = self.random.usize(..bytes.len().max(1));
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 0x10;
                    }
                }
            }
            fs::write(&path, bytes).unwrap();
        }
    }

    /// No pod is left, nor the network plugin's records; the record of addresses is, and is void.
    fn boot(&mut self) {
        self.count("boot");
        self.boots += 1;
        self.set_boot_id();
        for container in std::mem::take(&mut self.live).into_keys() {
            fs::remove_file(self.attachment(container)).unwrap();
        }
        self.unsure.clear();
    }

    fn set_boot_id(&self) {
        let text = format!("{:08}-2222-4333-8444-555555555555\n", self.boots);
        fs::write(self.node.beside("boot_id"), text).unwrap();
    }

    /// Everybody goes, and everything is free.
    fn end(&mut self) {
        for container in 0..self.containers {
            let _ = fs::remove_file(self.attachment(container));
            self.node.del(&format!("c{container}"));
        }
        assert_eq!(self.node.record()["pool"]["leases"], json!([]));
    }

    fn attachment(&self, container: usize) -> std::path::PathBuf {
        self.node
            .state("attachments")
            .join(format!("c{container}.json"))
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}
