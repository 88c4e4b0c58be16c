//! Shell completions and man pages, from the definition of the command line, and the page of the checks, from their table: for packages
//! and the release archive.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Arguments, Failure, Outcome};
use crate::health::check;

/// What, and where to.
#[derive(Args)]
pub struct Options {
    /// Directory that gets `completions/`, `man/` and `checks.md`.
    directory: PathBuf,
}

/// Writes all of them.
pub fn run(options: &Options) -> Result<Outcome, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!(
            "cannot write to {}: {error}",
            options.directory.display()
        ))
    };
    let command = Arguments::command().version(env!("CARGO_PKG_VERSION"));
    completions(command.clone(), &options.directory.join("completions")).map_err(failed)?;
    fs::create_dir_all(options.directory.join("man")).map_err(failed)?;
    clap_mangen::generate_to(command, options.directory.join("man")).map_err(failed)?;
    fs::write(options.directory.join("checks.md"), check::page()).map_err(failed)?;
    Ok(Outcome::Fine)
}

fn completions(mut command: Command, directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "azure-vnet", directory)?;
    }
    Ok(())
}
