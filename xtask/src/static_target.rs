//! What the released plugins are built for: a target whose programs need nothing of the node but its kernel
//! (docs/decisions/0023-musl.md).

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::{
    architecture::Architecture,
    command::{command, probe, run},
};

const INSTALL_LIMIT: Duration = Duration::from_mins(5);

/// A target for static programs.
pub struct StaticTarget {
    /// As cargo has it.
    pub triple: String,
    /// What cargo has to be told beside.
    pub arguments: Vec<String>,
}

impl StaticTarget {
    /// musl, installed where it is missing; or static glibc where that cannot be done (a distribution's own Rust, or
    /// no network), which serves as well and starts later. For another machine there is musl alone: Rust brings all that it needs, its
    /// linker too.
    pub fn ensure(architecture: Architecture) -> Result<Self> {
        let musl = format!("{}-unknown-linux-musl", architecture.rust());
        if !is_installed(&musl) {
            println!(
                "setup: installing rustup's target {musl} (what the released plugins are linked with)"
            );
            if let Err(error) = install(&musl) {
                if !architecture.is_here() {
                    return Err(error.context(format!(
                        "no target {musl}: `rustup target add {musl}` mends that"
                    )));
                }
                println!(
                    "setup: no target {musl} ({error:#}): the plugins are linked with glibc instead, and each call takes \
                     about a millisecond longer. `rustup target add {musl}` mends that"
                );
                return Ok(Self::glibc(architecture));
            }
        }
        let linker = format!(r#"target.{musl}.linker="rust-lld""#);
        let arguments = if architecture.is_here() {
            Vec::new()
        } else {
            vec!["--config".to_owned(), linker]
        };
        Ok(Self {
            triple: musl,
            arguments,
        })
    }

    fn glibc(architecture: Architecture) -> Self {
        let triple = format!("{}-unknown-linux-gnu", architecture.rust());
        // Beside the flags of .cargo/config.toml, and of the target's code only: build scripts and macros are not static.
        let flags = format!(r#"target.{triple}.rustflags=["-Ctarget-feature=+crt-static"]"#);
        Self {
            arguments: vec!["--config".to_owned(), flags],
            triple,
        }
    }
}

fn is_installed(triple: &str) -> bool {
    let mut rustc = command("rustc");
    rustc.args(["--print", "target-libdir", "--target", triple]);
    // The path is printed also where nothing is.
    probe(&mut rustc).is_some_and(|folder| Path::new(folder.trim()).is_dir())
}

fn install(triple: &str) -> Result<()> {
    run(
        command("rustup").args(["target", "add", triple]),
        INSTALL_LIMIT,
    )
}
