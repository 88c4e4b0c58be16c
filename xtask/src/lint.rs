//! `cargo xtask lint`: formatting, lints, the stored layouts and the pages; a warning is an error.

use std::time::Duration;

use anyhow::Result;

use crate::{
    abi_layout, build_ebpf,
    command::{cargo, output, run},
    pages, reference, workspace,
};

const LIMIT: Duration = Duration::from_mins(15);

/// Runs all checks; the first that fails ends it.
pub fn main() -> Result<()> {
    // Fails when Cargo.lock is not that of the manifests.
    output(
        cargo().args(["metadata", "--format-version=1", "--locked"]),
        LIMIT,
    )?;
    run(cargo().args(["fmt", "--all", "--", "--check"]), LIMIT)?;
    abi_layout::check()?;
    reference::check()?;
    pages::check()?;
    build_ebpf::main()?;
    run(
        cargo().args(["clippy", "--all-targets", "--", "-D", "warnings"]),
        LIMIT,
    )?;
    run(&mut clippy_ebpf(), LIMIT)
}

/// The eBPF programs are linted as if for this machine: the toolchain that has clippy has no `core`
/// for the BPF target. The gate and the profile are those of the real build (no unwinding).
fn clippy_ebpf() -> std::process::Command {
    let mut clippy = cargo();
    clippy
        .args([
            "clippy",
            "--package",
            "azure-vnet-ebpf",
            "--profile",
            "ebpf",
            "--target-dir",
        ])
        .arg(workspace::root().join("target/ebpf-lint"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1");
    clippy
}
