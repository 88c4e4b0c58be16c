//! `cargo xtask bench`: release builds of the plugins, measured on the simulated Azure.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::{
    architecture::Architecture,
    command::{as_root, run},
    dist, plugins,
    workspace::{self, Metadata},
};

const LIMIT: Duration = Duration::from_hours(1);

/// What to measure.
#[derive(Args, Clone, Default)]
pub struct Options {
    /// In under three minutes: fewer rounds, no scaling
    #[arg(long)]
    quick: bool,
    /// Further arguments of the bench program; --help lists them
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds what is needed and measures; the report is in `target/bench`.
pub fn main(options: &Options) -> Result<()> {
    // The bench program itself is not what is measured.
    plugins::build()?;
    let binaries = dist::build(Architecture::here()?)?;

    let target = Metadata::read()?.target_directory()?;
    let mut bench = as_root(plugins::directory()?.join("azure-vnet-bench"));
    bench
        .arg("--output")
        .arg(target.join("bench"))
        .args(options.quick.then_some("--quick"))
        .args(&options.arguments)
        .env(plugins::BIN_DIR, &binaries)
        .current_dir(workspace::root());
    run(&mut bench, LIMIT)
}
