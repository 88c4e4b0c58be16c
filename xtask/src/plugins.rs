//! What demo and test run: the two plugins and the testbed's programs, in the dev profile (built in
//! half the time, with overflow checks on).

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use crate::{
    build_ebpf,
    command::{cargo, command, is_root, probe, run},
    setup,
    workspace::Metadata,
};

/// The environment variable that tells demo and tests where the plugins are.
pub const BIN_DIR: &str = "AZURE_VNET_BIN_DIR";

/// Readies the machine and builds everything.
///
/// All cargo calls of demo and test name no package: with one selection throughout, cargo resolves
/// features once and compiles each dependency once.
pub fn build() -> Result<()> {
    if !is_root() && probe(command("sudo").arg("--version")).is_none() {
        bail!("network namespaces and eBPF need root: run this as root, or install sudo");
    }
    setup::main()?;
    build_ebpf::main()?;
    run(cargo().arg("build"), Duration::from_mins(20))
}

/// Where [`build`] puts the binaries.
pub fn directory() -> Result<PathBuf> {
    Ok(Metadata::read()?.target_directory()?.join("debug"))
}
