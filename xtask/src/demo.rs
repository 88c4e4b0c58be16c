//! `cargo xtask demo`: the simulated Azure with pods on two VMs, one row per kind of traffic.

use std::{fmt, process::Stdio, time::Duration};

use anyhow::Result;
use clap::Args;

use crate::{
    architecture::Architecture,
    command::{as_root, run},
    dist, plugins,
};

const LIMIT: Duration = Duration::from_mins(10);
const KEEP_LIMIT: Duration = Duration::from_hours(24);

/// What to show.
#[derive(Args, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub struct Options {
    /// Which tier masquerades: auto, ebpf, netfilter
    #[arg(long)]
    pub datapath: Option<String>,
    /// Pods on each VM
    #[arg(long)]
    pub pods: Option<u16>,
    /// Whether bridges hand what they forward to iptables, 0 or 1; without it the traffic is tried with both
    #[arg(long)]
    pub bridge_nf: Option<u8>,
    /// Attach the eBPF programs with cls_bpf even where the kernel has TCX (6.6 and later)
    #[arg(long)]
    pub cls_bpf: bool,
    /// Show what the operator's commands say on the running simulation
    #[arg(long)]
    pub tour: bool,
    /// With the programs that `dist` builds, instead of those with debug checks
    #[arg(long)]
    pub released: bool,
    /// Leave everything up until Enter or Ctrl-C, and print how to look around
    #[arg(long)]
    pub keep: bool,
}

impl Options {
    /// The arguments of the demo program.
    fn arguments(&self) -> Vec<String> {
        let datapath = self
            .datapath
            .iter()
            .map(|tier| format!("--datapath={tier}"));
        let pods = self.pods.iter().map(|pods| format!("--pods={pods}"));
        let bridge_nf = self.bridge_nf.iter();
        let bridge_nf = bridge_nf.map(|value| format!("--bridge-nf={value}"));
        let tour = self.tour.then(|| "--tour".to_owned());
        let keep = self.keep.then(|| "--keep".to_owned());
        datapath
            .chain(pods)
            .chain(bridge_nf)
            .chain(tour)
            .chain(keep)
            .collect()
    }
}

/// The command line that asks for these options.
impl fmt::Display for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cls_bpf = if self.cls_bpf { " --cls-bpf" } else { "" };
        let released = if self.released { " --released" } else { "" };
        let arguments = self.arguments().join(" ");
        write!(out, "demo {arguments}{cls_bpf}{released}")
    }
}

/// Builds what is needed and runs the demo; any deviation is an error.
pub fn main(options: &Options) -> Result<()> {
    plugins::build()?;
    show(options)
}

/// Runs the demo with what was built before.
pub fn show(options: &Options) -> Result<()> {
    let testbed = plugins::directory()?;
    let mut demo = as_root(testbed.join("demo"));
    let plugins = if options.released {
        dist::build(Architecture::here()?)?
    } else {
        testbed
    };
    demo.args(options.arguments())
        .env(plugins::BIN_DIR, plugins);
    if options.cls_bpf {
        demo.env("AZURE_VNET_FORCE_CLS_BPF", "1");
    }
    if options.keep {
        demo.stdin(Stdio::inherit()); // where Enter comes from
        return run(&mut demo, KEEP_LIMIT);
    }
    run(&mut demo, LIMIT)
}
