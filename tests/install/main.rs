//! Installing from an archive, upgrading, going back and uninstalling, with pods that go on: on a VM of the simulated Azure whose
//! folders are empty before. `cargo xtask test` packs the archives, two versions of the same plugins.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod archives;
mod by_hand;
mod managers;
mod node;
mod pods;
mod privileges;
mod refused;
mod signed;
