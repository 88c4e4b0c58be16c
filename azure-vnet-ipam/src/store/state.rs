//! What is recorded, beside the pool: when the source was asked, and how that ended.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::pool::{Lease, Pool, Subnet};

/// What is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub(super) boot_id: String,
    /// Counts the writes.
    pub(super) generation: u64,
    /// When the source was last asked, with or without success; milliseconds since 1970.
    pub asked_at: u64,
    /// When the question was put that it last answered; 0 if it never has.
    pub fetched_at: u64,
    /// How often it was asked to the end, with or without success: whoever sees another number need not ask.
    #[serde(default)]
    pub outcomes: u64,
    /// Why it did not answer the last question; empty if it did.
    #[serde(default)]
    pub problem: String,
    /// What a call without standard error wants to be said.
    #[serde(default)]
    pub notices: Vec<String>,
    pub pool: Pool,
}

impl State {
    /// Whether the source should be asked again: never asked, longer ago than `interval`, or the clock jumped.
    pub fn is_due(&self, now: u64, interval: Duration) -> bool {
        !self.has_snapshot()
            || now < self.asked_at
            || u128::from(now - self.asked_at) >= interval.as_millis()
    }

    /// Whether the source has ever answered.
    pub fn has_snapshot(&self) -> bool {
        self.fetched_at != 0
    }

    /// Takes over an answer to a question of `asked_at`, unless another call has had a later one. Returns the leases
    /// that have lost their addresses by it.
    pub fn learn(&mut self, subnets: Vec<Subnet>, asked_at: u64) -> Vec<Lease> {
        if asked_at < self.fetched_at {
            return Vec::new();
        }
        self.asked_at = asked_at.max(self.asked_at);
        self.fetched_at = asked_at;
        self.problem.clear();
        self.pool.refresh(subnets)
    }

    /// The state as it is in this boot. Pods do not survive one, and what the VM's NICs had may be another VM's: an image is
    /// made of a machine that ran, and where `/run` is on a disk, our directory is in it.
    pub(super) fn in_boot(mut self, boot_id: String) -> State {
        if self.boot_id == boot_id {
            self.pool.forget_unfit();
            return self;
        }
        State {
            boot_id,
            generation: self.generation,
            ..State::default()
        }
    }
}

/// Milliseconds of the wall clock since 1970; it outlives the process, and a jump of it costs one question.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}
