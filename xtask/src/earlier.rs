//! The plugins of v0.1.0, from which the stage `takeover` upgrades: built once, from this repository's history, into `target/v0.1.0`.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    command::{cargo, command, run},
    workspace,
};

/// The environment variable that tells the stage where they are.
pub const EARLIER: &str = "AZURE_VNET_EARLIER";

/// The last commit of v0.1.0.
const COMMIT: &str = "a98a5ec0c8749888c733a5e605a9de33dd1e1b78";

const LIMIT: Duration = Duration::from_mins(20);

/// Builds them where they are not yet.
pub fn build() -> Result<()> {
    let directory = directory();
    if directory.join("azure-vnet").exists() && directory.join("azure-vnet-ipam").exists() {
        return Ok(());
    }
    println!("building the plugins of v0.1.0 (a few minutes, once)");
    let source = workspace::root().join("target/v0.1.0");
    fs::create_dir_all(source.join("target"))?;
    let archive = source.join("target/source.tar");
    let mut pack = command("git");
    pack.current_dir(workspace::root())
        .args(["archive", "--output"])
        .arg(&archive)
        .arg(COMMIT);
    run(&mut pack, LIMIT).context("this clone does not have v0.1.0: git fetch --unshallow")?;
    let mut unpack = command("tar");
    unpack.arg("-xf").arg(&archive).arg("-C").arg(&source);
    run(&mut unpack, LIMIT)?;
    let tools = source.join("target/tools");
    if !tools.exists() {
        symlink(workspace::root().join("target/tools"), &tools)?;
    }
    for arguments in [
        &["xtask", "build-ebpf"][..],
        &["build", "-p", "azure-vnet", "-p", "azure-vnet-ipam"],
    ] {
        let mut build = cargo();
        build.current_dir(&source).args(arguments);
        run(&mut build, LIMIT)?;
    }
    if !directory.join("azure-vnet").exists() {
        bail!("no plugins of v0.1.0 in {}", directory.display());
    }
    Ok(())
}

/// Where [`build`] puts them.
pub fn directory() -> PathBuf {
    workspace::root().join("target/v0.1.0/target/debug")
}
