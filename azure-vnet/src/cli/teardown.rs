//! `azure-vnet teardown`: the node as it was before its first pod.

use std::fmt;

use clap::Args;
use serde::Serialize;

use super::output::Output;
use super::{Failure, Outcome};
use crate::teardown::{Teardown, teardown};

/// What is to be taken down.
#[derive(Args)]
pub struct Options {
    /// Only this bridge.
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// Also while pods are attached: they lose their network.
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct TakenDown {
    /// The bridges that were taken down.
    bridges: Vec<String>,
}

/// Puts the node back. What keeps it from that is a failure, and nothing was changed then if it was pods.
pub async fn run(options: Options, output: Output) -> Result<Outcome, Failure> {
    let Options { bridge, force } = options;
    let bridges = teardown(&Teardown { bridge, force })
        .await
        .map_err(|error| Failure::of(&error))?;
    output.show(&TakenDown { bridges })?;
    Ok(Outcome::Fine)
}

impl fmt::Display for TakenDown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bridges.is_empty() {
            return writeln!(out, "Nothing of azure-vnet is on this node.");
        }
        for bridge in &self.bridges {
            writeln!(out, "{bridge} taken down")?;
        }
        Ok(())
    }
}
