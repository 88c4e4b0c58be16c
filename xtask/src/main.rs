//! The tasks of this repository: `cargo xtask <task>`. This file only dispatches; each task has a
//! file of its own name.

mod abi_layout;
mod architecture;
mod bench;
mod bpf_compiler;
mod bpf_linker;
mod build_ebpf;
mod ci;
mod command;
mod decisions;
mod demo;
mod dist;
mod earlier;
mod ebpf_object;
mod lint;
mod neighbour_table;
mod pages;
mod plugins;
mod reference;
mod setup;
mod size;
mod static_target;
mod tally;
mod test;
mod verifier_cost;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The tasks of this repository"
)]
enum Task {
    /// Install what this machine lacks, and say what and why
    Setup,
    /// Build the eBPF object that azure-vnet embeds, and show what it costs the verifier
    BuildEbpf,
    /// Show pods of two VMs at work on a simulated Azure (as root)
    Demo(demo::Options),
    /// Run every test, stage by stage (as root)
    Test(test::Options),
    /// Measure the datapath and the plugins, beside what else there is (as root)
    Bench(bench::Options),
    /// Check formatting, lints and stored layouts
    Lint,
    /// Write docs/configuration.md from the code that reads the keys
    Reference,
    /// Build what is released: an archive with the static plugins, and its checksum
    Dist(dist::Options),
    /// Lock the layouts of a new `ABI_VERSION`
    AcceptAbi,
    /// Run all that a change must pass: lint, build-ebpf, test, and the demo in its variants
    Ci,
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Setup => setup::main(),
        Task::BuildEbpf => build_ebpf::main(),
        Task::Demo(options) => demo::main(&options),
        Task::Test(options) => test::main(&options),
        Task::Bench(options) => bench::main(&options),
        Task::Lint => lint::main(),
        Task::Reference => reference::main(),
        Task::Dist(options) => dist::main(&options),
        Task::AcceptAbi => abi_layout::accept(),
        Task::Ci => ci::main(),
    };
    if let Err(error) = result {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
