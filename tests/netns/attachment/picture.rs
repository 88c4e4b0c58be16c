//! The whole VM, word for word, to be compared with what it was before the plugin came, and the command that puts it back there.

use std::path::Path;
use std::time::Duration;

use azure_vnet_testbed::PLUGIN_DIR;
use azure_vnet_testbed::process::Program;

use crate::fixture::{Node, Tier};

const COMMANDS: [&str; 10] = [
    "ip -d addr",
    "ip route show table all",
    "ip -6 route show table all",
    "ip rule",
    "ip -6 rule",
    "ip neighbour show nud permanent",
    "tc qdisc show",
    "tc filter show dev eth0 ingress",
    "tc filter show dev eth0 egress",
    "nft --stateless list ruleset",
];

/// Kernel settings of the network, by file.
const SETTINGS: &str = "/proc/sys/net";

/// What the kernel counts by itself, and what others of this machine share.
const NOT_SETTINGS: [&str; 4] = ["nf_conntrack_count", "sock_", "dentry", "/core/"];

impl Node {
    /// `azure-vnet teardown`.
    pub fn teardown(&self, arguments: &[&str]) -> Program {
        let forced = if self.tier == Tier::ClsBpf { "1" } else { "0" };
        let program = self.vm().program(&format!("{PLUGIN_DIR}/azure-vnet"));
        program
            .unwrap()
            .env("AZURE_VNET_FORCE_CLS_BPF", forced)
            .args(["teardown"])
            .args(arguments)
    }

    /// Everything that the plugin may leave on the VM, word for word.
    pub fn picture(&self) -> Vec<String> {
        self.wait_for_ipv6();
        let outputs = COMMANDS.iter().map(|command| self.sh(command));
        let lines =
            outputs.flat_map(|output| output.lines().map(without_timers).collect::<Vec<_>>());
        let seen = || [settings(), remains()].concat();
        lines
            .chain(self.vm().namespace().run(seen).unwrap())
            .collect()
    }

    /// Until detection of duplicates is over, and until the kernel has noticed all carriers, addresses and routes come and go by
    /// themselves.
    fn wait_for_ipv6(&self) {
        for _ in 0..500 {
            if self.sh("ip -6 addr show tentative").is_empty() && self.has_multicast_routes() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{}{}", self.sh("ip -6 addr"), self.sh("ip link"));
    }

    /// Whether every link with a carrier has the route that the kernel makes then.
    fn has_multicast_routes(&self) -> bool {
        let routes = self.sh("ip -6 route show table local type multicast");
        let links = self.sh("ip -o link show up");
        let with_carrier = links
            .lines()
            .filter(|link| link.contains("LOWER_UP") && link.contains("BROADCAST"));
        let names = with_carrier.filter_map(|link| link.split([':', '@']).nth(1));
        names
            .map(|name| format!(" dev {} ", name.trim()))
            .all(|device| routes.contains(&device))
    }
}

/// In what a picture differs from one before; none if in nothing.
pub fn difference(after: &[String], before: &[String]) -> Option<String> {
    let without = |these: &[String], those: &[String]| -> Vec<String> {
        let others = these.iter().filter(|line| !those.contains(line));
        others.cloned().collect()
    };
    let (new, lost) = (without(after, before), without(before, after));
    if !new.is_empty() || !lost.is_empty() {
        return Some(format!("there is {new:#?}, lost {lost:#?}"));
    }
    (after != before).then(|| format!("another order: {after:#?}, before: {before:#?}"))
}

/// The line without what a bridge counts down (`gc_timer  296.73`).
fn without_timers(line: &str) -> String {
    let mut of_timer = false;
    let words = line.split_inclusive(' ').filter(|word| {
        let is_time =
            of_timer && (*word == " " || word.starts_with(|first: char| first.is_ascii_digit()));
        of_timer = word.trim_end().ends_with("_timer") || (of_timer && *word == " ");
        !is_time
    });
    words.collect()
}

fn settings() -> Vec<String> {
    let mut found = Vec::new();
    for path in files(Path::new(SETTINGS)) {
        // Some may only be written; a secret that is not set is an error.
        let Ok(value) = std::fs::read_to_string(&path) else {
            continue;
        };
        if !NOT_SETTINGS.iter().any(|part| path.contains(part)) {
            found.push(format!("{path} = {}", value.trim()));
        }
    }
    found
}

/// Pins, and state that is not a lock nor IPAM's.
fn remains() -> Vec<String> {
    let pins = Path::new("/sys/fs/bpf/azure-vnet");
    let mut found = files(pins);
    found.extend(files(Path::new("/run/azure-vnet")));
    found.retain(|path| {
        let is_lock = Path::new(path)
            .extension()
            .is_some_and(|kind| kind == "lock");
        !is_lock && !path.starts_with("/run/azure-vnet/ipam")
    });
    if pins.exists() {
        found.push(pins.display().to_string());
    }
    found
}

/// All files below a place, in order.
fn files(place: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut places = vec![place.to_owned()];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(&place).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                places.push(path);
            } else {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}
