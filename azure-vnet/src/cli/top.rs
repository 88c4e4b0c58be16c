//! `azure-vnet top`: a page of the terminal with what the pods of this node do now, looked at again and again.

mod look;
mod page;
mod screen;

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;

use super::output::Output;
use super::{Failure, Outcome};
use look::Look;
use page::Page;

/// How often, and for how long.
#[derive(Args)]
pub struct Options {
    /// One page on standard output, with the rates of one interval; so without a terminal, and with --json.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    interval: u64,
}

/// Shows pages until somebody presses q, or one.
pub fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let interval = Duration::from_secs(options.interval);
    if options.once || output.is_json() || !std::io::stdout().is_terminal() {
        let before = Look::take()?;
        std::thread::sleep(interval);
        output.show(&Page::between(&before, &Look::take()?))?;
    } else {
        screen::show(interval)?;
    }
    Ok(Outcome::Fine)
}
