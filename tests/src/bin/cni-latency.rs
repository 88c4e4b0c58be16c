//! How long ADD and DEL take, beside the reference `bridge` plugin with `host-local` and `ipMasq`, in interleaved rounds of one run.
//!
//! What is timed is what a runtime waits for: one plugin, from its start to its end. The first ADD, which makes the bridge, is not
//! among the rounds.

use std::error::Error as StdError;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::libcni::{self, Attachment};
use azure_vnet_testbed::{Azure, NETNS_DIR, Vm};
use clap::Parser;
use serde_json::json;

/// Time ADD and DEL of azure-vnet and of the reference bridge plugin.
#[derive(Debug, Parser)]
struct Options {
    /// How many rounds.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Pods that each node has all the time.
    #[arg(long, default_value_t = 2)]
    pods: u8,
}

/// A plugin on a VM of its own, and its times.
struct Candidate<'vm> {
    name: &'static str,
    vm: &'vm Vm,
    list: Conflist,
    add: Vec<Duration>,
    del: Vec<Duration>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cni-latency: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn StdError>> {
    let azure = Azure::builder().vms(3).pool(250).build()?;
    let on = |name, vm, list| Candidate {
        name,
        vm,
        list,
        add: Vec::new(),
        del: Vec::new(),
    };
    let mut candidates = [
        on("azure-vnet, ebpf", &azure.vms[0], ours("ebpf")?),
        on("azure-vnet, netfilter", &azure.vms[1], ours("netfilter")?),
        on(
            "bridge + host-local, ipMasq",
            &azure.vms[2],
            reference(&azure.vms[2])?,
        ),
    ];
    for candidate in &candidates {
        for number in 0..options.pods {
            let attachment = attachment(&format!("standing{number}"));
            let _sandbox = candidate.vm.new_sandbox(&attachment.netns)?;
            libcni::add(candidate.vm, &candidate.list, &attachment)?;
        }
    }
    for round in 0..options.rounds {
        for candidate in &mut candidates {
            candidate.round(round)?;
        }
    }
    println!(
        "{} interleaved rounds, {} standing pods; milliseconds",
        options.rounds, options.pods
    );
    println!(
        "{:<30} {:>8} {:>8} {:>8} {:>8}",
        "", "ADD p50", "ADD p95", "DEL p50", "DEL p95"
    );
    for candidate in &mut candidates {
        let (add, del) = (&mut candidate.add, &mut candidate.del);
        println!(
            "{:<30} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
            candidate.name,
            percentile(add, 50),
            percentile(add, 95),
            percentile(del, 50),
            percentile(del, 95)
        );
    }
    Ok(())
}

impl Candidate<'_> {
    fn round(&mut self, round: usize) -> Result<(), Box<dyn StdError>> {
        let attachment = attachment(&format!("round{round}"));
        let _sandbox = self.vm.new_sandbox(&attachment.netns)?;
        let start = Instant::now();
        libcni::add(self.vm, &self.list, &attachment)?;
        self.add.push(start.elapsed());
        let start = Instant::now();
        libcni::del(self.vm, &self.list, &attachment)?;
        self.del.push(start.elapsed());
        self.vm.remove_sandbox(&attachment.netns)?;
        Ok(())
    }
}

fn attachment(container_id: &str) -> Attachment {
    Attachment {
        container_id: container_id.to_owned(),
        netns: format!("{NETNS_DIR}/{container_id}"),
        ifname: "eth0".into(),
        ..Attachment::default()
    }
}

/// Our plugin alone: chained ones cost both sides the same.
fn ours(datapath: &str) -> Result<Conflist, Box<dyn StdError>> {
    let plugin = json!({
        "type": "azure-vnet", "mode": "bridge", "bridge": "azure0", "ipam": { "type": "azure-vnet-ipam" },
        "masquerade": { "datapath": datapath },
    });
    let list = json!({ "cniVersion": "0.3.1", "name": "azure", "plugins": [plugin] });
    Ok(Conflist::parse(&list.to_string())?)
}

fn reference(vm: &Vm) -> Result<Conflist, Box<dyn StdError>> {
    let (first, last) = (vm.nic.pool[0], vm.nic.pool[vm.nic.pool.len() - 1]);
    let range = json!([{ "subnet": "10.0.0.0/20", "rangeStart": first, "rangeEnd": last }]);
    let ipam =
        json!({ "type": "host-local", "ranges": [range], "routes": [{ "dst": "0.0.0.0/0" }] });
    let plugin = json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": ipam });
    let config = json!({ "cniVersion": "0.3.1", "name": "reference", "plugins": [plugin] });
    Ok(Conflist::parse(&config.to_string())?)
}

/// Nearest rank, in milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times
        .get(rank)
        .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
