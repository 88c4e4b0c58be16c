//! The operator's command line: `azure-vnet <command>` where no runtime has set `CNI_COMMAND`.

mod status;

use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

/// Gives pods addresses of the Azure virtual network.
#[derive(Parser)]
#[command(
    name = "azure-vnet",
    disable_version_flag = true,
    arg_required_else_help = true
)]
struct Arguments {
    /// Prints the version.
    #[arg(short, long, action = ArgAction::SetTrue)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the datapath of every bridge: tier, pods, packet counters.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.version {
        // Tools read the fourth word of the original's line.
        let _ = writeln_stdout(&format!("Azure CNI Version v{}", env!("CARGO_PKG_VERSION")));
        return ExitCode::SUCCESS;
    }
    match arguments.command {
        Some(Command::Status { json }) => status::run(json),
        None => ExitCode::SUCCESS,
    }
}

/// `println!` panics when nobody reads.
fn writeln_stdout(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}")
}
