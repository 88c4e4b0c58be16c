//! bpf-linker, pinned and kept in `target/tools`. It links with the LLVM library of the Rust
//! toolchain, so compiler, toolchain and linker must be of one LLVM.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use crate::{
    command::{cargo, command, probe, run},
    workspace,
};

/// The last version that links with [`LLVM_MAJOR`]; 0.13 wants LLVM 23.
pub const VERSION: &str = "0.10.1";

/// The LLVM of the toolchain in `rust-toolchain.toml`, whose library bpf-linker loads.
pub const LLVM_MAJOR: u32 = 22;

/// The linker's path; `None` when it has yet to be installed.
pub fn installed() -> Option<PathBuf> {
    let path = workspace::tools().join("bin/bpf-linker");
    let version = probe(command(&path).arg("--version"))?;
    (version.trim() == format!("bpf-linker {VERSION}")).then_some(path)
}

/// The linker's path, after installing it if need be.
pub fn ensure() -> Result<PathBuf> {
    if let Some(path) = installed() {
        return Ok(path);
    }
    println!(
        "setup: installing bpf-linker {VERSION} into target/tools (links the eBPF programs); \
         a minute or two"
    );
    let build = workspace::tools().join("build");
    let mut install = cargo();
    install
        .args(["install", "bpf-linker", "--version", VERSION])
        .args(["--locked", "--force", "--root"])
        .arg(workspace::tools())
        .arg("--target-dir")
        .arg(&build);
    run(&mut install, Duration::from_mins(20))?;
    let _ = fs::remove_dir_all(build); // 400 MB that nobody needs again; harmless if it stays
    installed().context("bpf-linker was installed but does not start")
}
