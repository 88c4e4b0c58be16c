//! The operator's command line: `azure-vnet <command>` where no runtime has set `CNI_COMMAND`.
//!
//! A command gathers facts into a value, which is printed as text of at most 80 columns or as JSON.
//! Nothing here changes the node but `gc`, `teardown`, `install` and `uninstall`.

mod bridges;
mod doctor;
mod explain;
mod find_pod;
mod flows;
mod gc;
mod generate;
mod install;
mod metrics;
mod monitor;
mod output;
mod plan;
mod pods;
mod pool;
mod status;
mod table;
mod teardown;
mod top;
mod verify;

use std::process::ExitCode;

use azure_vnet_cni::log;
use clap::{ArgAction, Parser, Subcommand};

use crate::LOG;
use output::Output;

/// Gives pods addresses of the Azure virtual network, and masquerades what leaves it.
///
/// A container runtime runs this program with `CNI_COMMAND` set; the commands below are for people, and
/// for the programs that watch over a node.
#[derive(Parser)]
#[command(
    name = "azure-vnet",
    disable_version_flag = true,
    arg_required_else_help = true,
    max_term_width = 80,
    after_help = "Exit codes: 0 all is well; 1 a problem was found, or the answer is no; \
                  2 the command line is wrong; 3 the command could not be carried out."
)]
struct Arguments {
    /// Prints `Azure CNI Version v<version>`.
    #[arg(short, long, action = ArgAction::SetTrue)]
    version: bool,
    /// Prints JSON, whose field names stay (docs/json.md).
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// What is in place: node, bridge, tier and why, programs, pool, pods, and what is wrong.
    Status,
    /// The pods of this node: address, container, links, flows.
    Pods,
    /// The connections that are masqueraded, or came in from outside the ranges.
    Flows(flows::Options),
    /// The pods' rates, flows, drops, ports and addresses, as they change.
    Top(top::Options),
    /// What becomes of a pod's packets for a destination, and why.
    Explain(explain::Options),
    /// Drops with their reason, and new flows, as they come (eBPF tier).
    Monitor(monitor::Options),
    /// Counters and gauges as Prometheus text.
    Metrics(metrics::Options),
    /// What a cluster definition needs: its faults, the addresses to allocate, the files for it.
    Plan(plan::Options),
    /// Everything that has to be so, and everything known to get in the way, with its fix.
    Doctor(doctor::Options),
    /// Takes away what pods left whose DEL never came.
    Gc(gc::Options),
    /// Puts the node back as it was before its first pod: NIC, routes, datapath, state.
    Teardown(teardown::Options),
    /// Writes shell completions, man pages, and the page of the checks.
    #[command(hide = true)]
    Generate(generate::Options),
    /// Puts the plugins and their configuration in place, or replaces another version.
    Install(install::Install),
    /// Takes the plugins and their configuration away.
    Uninstall(install::Uninstall),
    /// Whether an archive is what the owner of a key has signed, before it is unpacked.
    Verify(verify::Options),
}

/// How a command ended; the documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Fine,
    /// A problem was found, or the answer is no.
    Problem,
}

/// The command could not be carried out: what failed, on what, what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

const USAGE: u8 = 2;
const FAILED: u8 = 3;

impl Failure {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    /// An error with its causes on one line.
    fn of(error: &dyn std::error::Error) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        Self(causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let output = Output::new(arguments.json);
    if arguments.version {
        // Tools read the fourth word of the original's line.
        output::line(concat!("Azure CNI Version v", env!("CARGO_PKG_VERSION")));
        return ExitCode::SUCCESS;
    }
    let Some(command) = arguments.command else {
        eprint_usage();
        return ExitCode::from(USAGE);
    };
    match run(command, output) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Problem) => ExitCode::FAILURE,
        Err(failure) => {
            output::complain(&failure.0);
            ExitCode::from(FAILED)
        }
    }
}

fn run(command: Command, output: Output) -> Result<Outcome, Failure> {
    if let Command::Generate(options) = &command {
        return generate::run(options);
    }
    if !matches!(
        command,
        Command::Plan(_) | Command::Install(_) | Command::Verify(_)
    ) {
        need_root()?;
    }
    // What changes the node is in its log; what only looks says on standard error what it stumbles over.
    log::start(matches!(command, Command::Gc(_) | Command::Teardown(_)).then_some(LOG));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of(&error))?;
    match command {
        Command::Status => runtime.block_on(status::run(output)),
        Command::Pods => runtime.block_on(pods::run(output)),
        Command::Flows(options) => flows::run(&options, output),
        Command::Top(options) => top::run(&options, output),
        Command::Metrics(options) => runtime.block_on(metrics::run(&options, output)),
        Command::Plan(options) => plan::run(&options, output),
        Command::Explain(options) => runtime.block_on(explain::run(&options, output)),
        Command::Monitor(options) => monitor::run(&options, output),
        Command::Doctor(options) => runtime.block_on(doctor::run(&options, output)),
        Command::Gc(options) => runtime.block_on(gc::run(&options, output)),
        Command::Teardown(options) => runtime.block_on(teardown::run(options, output)),
        Command::Generate(_) => Ok(Outcome::Fine),
        Command::Install(options) => install::install(&options, output),
        Command::Uninstall(options) => install::uninstall(&options, output),
        Command::Verify(options) => verify::run(&options, output),
    }
}

/// Maps, links and the record of addresses are root's to read.
fn need_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(
        "this needs root, as eBPF maps and /run/azure-vnet are root's to read: try sudo",
    ))
}

fn eprint_usage() {
    use clap::CommandFactory as _;
    use std::io::Write as _;
    let help = Arguments::command().render_help();
    let _ = write!(std::io::stderr(), "{help}");
}
