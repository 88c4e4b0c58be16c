//! `azure-vnet metrics`: what there is to count, as Prometheus reads it.

mod collect;
mod exposition;
mod serve;

use std::net::SocketAddr;

use clap::Args;

use super::output::Output;
use super::{Failure, Outcome};
use exposition::Metrics;

/// Once on standard output, or for whoever asks.
#[derive(Args)]
pub struct Options {
    /// Serves /metrics and /healthz over HTTP here, such as 127.0.0.1:9437, until stopped.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "json")]
    listen: Option<SocketAddr>,
}

/// Prints or serves the metrics.
pub async fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    if let Some(address) = options.listen {
        serve::serve(address).await?;
        return Ok(Outcome::Fine);
    }
    let metrics: Metrics = collect::all();
    output.show(&metrics)?;
    Ok(if metrics.is_whole() {
        Outcome::Fine
    } else {
        Outcome::Problem
    })
}
