//! Attachments as the network plugin makes, checks and removes them, on a simulated VM and in every tier: what it says is what the
//! kernel has, and what goes goes whole.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod addresses;
mod check;
mod files;
#[allow(
    dead_code,
    reason = "the stages `faults` and `never_twice` use the rest"
)]
mod fixture;
mod gc;
mod killed;
mod leaving;
mod original;
mod parallel;
mod picture;
mod refused;
mod result;
mod status;
mod teardown;
mod traces;
mod under_load;
