//! What demo and test run: the two plugins and the testbed's programs, in the dev profile (built in
//! half the time, with overflow checks on).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    build_ebpf,
    command::{cargo, command, is_root, probe, run},
    setup,
    workspace::Metadata,
};

/// The environment variable that tells demo and tests where the plugins are.
pub const BIN_DIR: &str = "AZURE_VNET_BIN_DIR";

/// The two names of the one program: the network plugin, and the IPAM plugin that it has in itself.
pub const NAMES: [&str; 2] = ["azure-vnet", "azure-vnet-ipam"];

/// Where beside the plugins the same two are, as two files: then one executes the other.
const APART: &str = "apart";

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
    run(cargo().arg("build"), Duration::from_mins(20))?;
    arrange()
}

/// Names the program that cargo has built as [`NAMES`] says, together and apart. To be done again when cargo may have built it
/// anew, as it does for tests that run it.
pub fn arrange() -> Result<()> {
    let folder = directory()?;
    link(&folder)?;
    apart(&folder)
}

/// Gives the program in `folder` its second name.
pub fn link(folder: &Path) -> Result<()> {
    let [program, ipam] = NAMES.map(|name| folder.join(name));
    remove(&ipam)?;
    fs::hard_link(&program, &ipam).with_context(|| format!("no {}", program.display()))
}

fn apart(folder: &Path) -> Result<()> {
    let [program, ipam] = NAMES.map(|name| folder.join(APART).join(name));
    fs::create_dir_all(folder.join(APART))?;
    for path in [&program, &ipam] {
        remove(path)?;
    }
    fs::hard_link(folder.join(NAMES[0]), &program)?;
    fs::copy(&program, &ipam)?;
    Ok(())
}

/// Whoever runs it goes on with it.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where [`build`] puts the binaries.
pub fn directory() -> Result<PathBuf> {
    Ok(Metadata::read()?.target_directory()?.join("debug"))
}
