//! `azure-vnet metrics`: what there is to count, as Prometheus reads it.

mod clients;
pub mod collect;
mod exposition;
mod serve;

use std::net::{AddrParseError, Ipv4Addr, SocketAddr};

use clap::Args;

use super::output::Output;
use super::{Failure, Outcome, doctor};
use exposition::Metrics;

/// Once on standard output, or for whoever asks.
#[derive(Args)]
pub struct Options {
    /// Serves /metrics and /healthz over HTTP here until stopped; with a port alone for this node only (127.0.0.1).
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = listen, conflicts_with = "json")]
    listen: Option<SocketAddr>,
}

/// A port alone is nobody's but the node's.
fn listen(text: &str) -> Result<SocketAddr, AddrParseError> {
    match text.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text.parse(),
    }
}

/// Prints or serves the metrics.
pub async fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    if let Some(address) = options.listen {
        serve::serve(address).await?;
        return Ok(Outcome::Fine);
    }
    let metrics: Metrics = collect::all(&doctor::examine().await?);
    output.show(&metrics)?;
    Ok(if metrics.is_whole() {
        Outcome::Fine
    } else {
        Outcome::Problem
    })
}
