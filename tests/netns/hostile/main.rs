//! A hostile pod: what it may send, what it cannot do to the node and to others, and that it is counted. In every tier, with real
//! frames from a pod's namespace.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod arp;
mod floods;
mod free_addresses;
mod kinds;
mod lookups;
mod macs;
mod never_leak;
mod victim;
mod wall;
