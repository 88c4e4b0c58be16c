//! The kernel has one neighbour table for all network namespaces, with room for 1,024 entries: little for
//! two dozen simulated VMs and their pods, which in reality have a kernel each. A full one loses packets
//! and refuses neighbours, and a test fails that is right.

use std::{fs, time::Duration};

use anyhow::Result;

use crate::command::{as_root, is_root, run};

const SOFT_LIMIT: &str = "gc_thresh2";
const HARD_LIMIT: &str = "gc_thresh3";
const ENOUGH: u32 = 16_384;

/// Makes room, and says so. What cannot be changed here (a read-only /proc) is left, with a word.
pub fn make_room() {
    for family in ["ipv4", "ipv6"] {
        // The hard limit first: the soft one has to be below it.
        for (limit, wanted) in [(HARD_LIMIT, ENOUGH), (SOFT_LIMIT, ENOUGH / 2)] {
            raise(&format!("net/{family}/neigh/default/{limit}"), wanted);
        }
    }
}

fn raise(key: &str, wanted: u32) {
    let value = fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default();
    // Not there: no such family, or a namespace that does not see what belongs to the machine.
    let Ok(value) = value.trim().parse::<u32>() else {
        return;
    };
    if value >= wanted {
        return;
    }
    println!(
        "setup: {key} from {value} to {wanted} until the next boot (the simulated VMs share one table)"
    );
    if let Err(error) = set(key, wanted) {
        println!("setup: {error:#}: some tests may lose packets");
    }
}

fn set(key: &str, value: u32) -> Result<()> {
    if is_root() {
        return Ok(fs::write(format!("/proc/sys/{key}"), value.to_string())?);
    }
    let mut sysctl = as_root("sysctl");
    sysctl.args(["-q", "-w", &format!("{key}={value}")]);
    run(&mut sysctl, Duration::from_secs(10))
}
