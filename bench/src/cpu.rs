//! Work on one CPU, so that a figure does not depend on where the scheduler puts it.

use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Where senders and clients run, and servers that clients wait for: on another CPU they would sleep between two questions, and to wake it takes
/// a VM ten times as long as all that is measured. Interrupts of a VM tend to go to CPU 0.
pub const NEAR: usize = 1;
/// Where a stream ends.
pub const FAR: usize = 0;

/// Runs `work` on a thread of its own that stays on `cpu`; without such a CPU, wherever it is.
pub fn pinned<T: Send>(cpu: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || {
            stay(cpu);
            work()
        });
        let thread = thread.context("cannot start a thread")?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Keeps the calling thread on `cpu`.
pub fn stay(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // Fails on a machine that has no such CPU.
    let _ = sched_setaffinity(None, &set);
}
