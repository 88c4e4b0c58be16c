//! `azure-vnet verify`: whether an archive is its maker's, before anything of it is unpacked.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::output::Output;
use super::{Failure, Outcome};
use crate::signature;

/// What to look at, and whose it should be.
#[derive(Args)]
pub struct Options {
    /// The archive; its signature is beside it, under its name and .minisig.
    file: PathBuf,
    /// The public key of who makes the archives, as minisign writes it.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/azure-vnet/release.pub"
    )]
    key: PathBuf,
}

#[derive(Serialize)]
struct Verified {
    file: PathBuf,
    key: PathBuf,
    comment: String,
}

/// Looks, and fails unless it is.
pub fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let comment =
        signature::verify(&options.key, &options.file).map_err(|error| Failure::of(&error))?;
    output.show(&Verified {
        file: options.file.clone(),
        key: options.key.clone(),
        comment,
    })?;
    Ok(Outcome::Fine)
}

impl fmt::Display for Verified {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, key) = (self.file.display(), self.key.display());
        writeln!(out, "{file} is signed with {key}: {}", self.comment)
    }
}
