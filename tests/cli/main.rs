//! The operator's command line on the simulated Azure: what every command prints, compared with `tests/golden/cli`.
//!
//! What differs from run to run is normalised first. `UPDATE_GOLDEN=1` writes the files anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod checks;
mod doctor;
mod explain;
mod flows;
mod golden;
mod log;
mod metrics;
mod monitor;
mod not_set_up;
mod plan;
mod pods;
mod scene;
mod status;
mod teardown;
mod top;
mod usage;
