//! Real network managers: Debian with systemd as its first process, booted in namespaces of its own, whose NIC is the simulated Azure's
//! and gets its lease from there. Pods are added by hand, as a runtime adds them, while the manager is restarted, told to apply,
//! renew and reload, while leases end and the NIC goes down: whatever it does, node and pods stay on the network, and nothing of the
//! NIC is ours.
//!
//! | test | Debian | what configures the NIC | resolver |
//! |---|---|---|---|
//! | `netplan` | 12 | netplan's file for networkd 252, as Azure's images have it | systemd-resolved |
//! | `network_manager` | 12 | `NetworkManager` 1.42 with a keyfile, as the RHEL family | what it writes |
//! | `ifupdown` | 12 | ifupdown with dhclient, as Debian's images | what dhclient writes |
//! | `networkd` | 13 | networkd 257, as Azure Linux and Flatcar | systemd-resolved |
//!
//! The first two are run always, the others by `cargo xtask test --stage managers --managers -- --include-ignored`. Each prints its
//! table, a row for each step; `takeover_of_v0_1_0_…` begins with the version that had the NIC in its bridge, `netfilter_tier_…` does
//! both in the other tier. The systems are made with mmdebstrap and kept below cargo's target directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod cgroup;
mod life;
mod machine;
mod manager;
mod picture;
mod reach;
mod root;
mod table;
mod takeover;

use std::io::Write as _;
use std::time::{Duration, Instant};

use machine::Tier;
use manager::{IFUPDOWN, NETPLAN, NETWORK_MANAGER, NETWORKD};

#[test]
fn netplan() {
    life::every_step(&NETPLAN, Tier::Ebpf);
}

#[test]
fn network_manager() {
    life::every_step(&NETWORK_MANAGER, Tier::Ebpf);
}

#[test]
#[ignore = "some minutes more: -- --include-ignored"]
fn ifupdown() {
    life::every_step(&IFUPDOWN, Tier::Ebpf);
}

#[test]
#[ignore = "another system and some minutes more: -- --include-ignored"]
fn networkd() {
    life::every_step(&NETWORKD, Tier::Ebpf);
}

#[test]
fn takeover_of_v0_1_0_netplan() {
    takeover::of_v0_1_0(&NETPLAN, Tier::Ebpf);
}

#[test]
fn takeover_of_v0_1_0_network_manager() {
    takeover::of_v0_1_0(&NETWORK_MANAGER, Tier::Ebpf);
}

#[test]
#[ignore = "some minutes more: -- --include-ignored"]
fn takeover_of_v0_1_0_ifupdown() {
    takeover::of_v0_1_0(&IFUPDOWN, Tier::Ebpf);
}

#[test]
#[ignore = "another system and some minutes more: -- --include-ignored"]
fn takeover_of_v0_1_0_networkd() {
    takeover::of_v0_1_0(&NETWORKD, Tier::Ebpf);
}

#[test]
#[ignore = "every manager once more: -- --include-ignored"]
fn netfilter_tier_netplan() {
    life::every_step(&NETPLAN, Tier::Netfilter);
    takeover::of_v0_1_0(&NETPLAN, Tier::Netfilter);
}

#[test]
#[ignore = "every manager once more: -- --include-ignored"]
fn netfilter_tier_network_manager() {
    life::every_step(&NETWORK_MANAGER, Tier::Netfilter);
    takeover::of_v0_1_0(&NETWORK_MANAGER, Tier::Netfilter);
}

#[test]
#[ignore = "every manager once more: -- --include-ignored"]
fn netfilter_tier_ifupdown() {
    life::every_step(&IFUPDOWN, Tier::Netfilter);
    takeover::of_v0_1_0(&IFUPDOWN, Tier::Netfilter);
}

#[test]
#[ignore = "another system, and every manager once more: -- --include-ignored"]
fn netfilter_tier_networkd() {
    life::every_step(&NETWORKD, Tier::Netfilter);
    takeover::of_v0_1_0(&NETWORKD, Tier::Netfilter);
}

/// Says what ran, past libtest, which shows only what failed.
fn report(lines: &str) {
    let _ = writeln!(std::io::stderr(), "{lines}");
}

/// Waits for what happens soon but not at once.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    const LIMIT: Duration = Duration::from_mins(1);
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not within {} s: {what}", LIMIT.as_secs());
}
