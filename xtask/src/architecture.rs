//! The processors that there are archives for.

use std::{env::consts::ARCH, path::Path, process::Command};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{command::command, setup};

/// As Go names them, and with it CNI's archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// The 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// That of this machine.
    pub fn here() -> Result<Self> {
        match ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!(
                "no archives are made for {other}: build the plugins there with `cargo build --release`"
            ),
        }
    }

    /// Whether programs for it run here as they are.
    pub fn is_here(self) -> bool {
        Self::here().is_ok_and(|here| here == self)
    }

    /// Go's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's name, which is qemu's too.
    pub fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Runs a program that was built for it, under user emulation where this machine is another.
    pub fn run(self, program: &Path) -> Result<Command> {
        if self.is_here() {
            return Ok(command(program));
        }
        setup::emulation()?;
        let mut emulated = command(format!("qemu-{}", self.rust()));
        emulated.arg(program);
        Ok(emulated)
    }
}
