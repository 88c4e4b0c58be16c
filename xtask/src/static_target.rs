//! What the released plugins are built for: a target whose programs need nothing of the node but its kernel
//! (docs/decisions/0023-musl.md).

use std::{env::consts::ARCH, path::Path, time::Duration};

use anyhow::Result;

use crate::command::{command, probe, run};

const INSTALL_LIMIT: Duration = Duration::from_mins(15);

/// A target for static programs.
pub struct StaticTarget {
    /// As cargo has it.
    pub triple: String,
    /// What rustc has to be told beside.
    pub flags: &'static str,
}

impl StaticTarget {
    /// musl, installed where it is missing; or static glibc where that cannot be done (a distribution's own Rust, or
    /// no network), which serves as well and starts later.
    pub fn ensure() -> Self {
        let musl = format!("{ARCH}-unknown-linux-musl");
        if is_installed(&musl) {
            return Self {
                triple: musl,
                flags: "",
            };
        }
        println!("setup: installing rustup's target {musl} (what the released plugins are linked with)");
        match install(&musl) {
            Ok(()) => Self {
                triple: musl,
                flags: "",
            },
            Err(error) => {
                println!(
                    "setup: no target {musl} ({error:#}): the plugins are linked with glibc instead, and each call takes \
                     about a millisecond longer. `rustup target add {musl}` mends that"
                );
                Self {
                    triple: format!("{ARCH}-unknown-linux-gnu"),
                    flags: "-C target-feature=+crt-static",
                }
            }
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
