//! Real runtimes, as Debian packages them, calling the plugins on a VM of the simulated Azure. Nobody here imitates a runtime: what
//! a runtime asks of a plugin beyond the specification, only the runtime knows.
//!
//! | client | what it is the only one to do |
//! |---|---|
//! | containerd, through CRI | `loopback` at the same time, Go-cased keys, three DELs for a pod, the last two without a namespace |
//! | podman | VERSION before everything, a second network for a running container, `CNI_ARGS` without a pod's namespace |
//! | cnitool, i.e. libcni | CHECK, GC, STATUS; the newest version of the specification |
//! | docker, with `scripts/docker-run.sh` | no CNI at all: the scripts are the runtime |
//! | kubelet | probes from the node; with docker it calls the plugins itself, and VERSION every five seconds |
//!
//! Packages and how to get them: `cargo xtask setup`. Nothing is pulled from a registry: the image is made of Debian's busybox.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod cgroup;
mod cnitool;
mod containerd;
mod cri;
mod debian;
mod docker;
mod image;
mod kubelet;
mod leftovers;
mod node;
mod podman;
mod reach;
mod recorder;

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Says what ran, past libtest, which shows only what failed.
fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "runtime: {line}");
}

/// How long anything may take. kubelet gives a container half a minute of grace before it kills it.
const LIMIT: Duration = Duration::from_secs(100);

/// Waits for what happens soon but not at once. The limit is generous, since others use the machine as well.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not within {} s: {what}", LIMIT.as_secs());
}
