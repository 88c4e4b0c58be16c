//! Shows the plugins at work: two VMs of a simulated Azure, pods on both, every kind of traffic, and what the fabric and the kernel
//! counted. Exits with 1 on any deviation from what must be seen.

#[path = "demo/tour.rs"]
mod tour;

use std::error::Error as StdError;
use std::io::{self, IsTerminal as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::traffic::{HOST_PORT, Row, Scenario, late_packets};
use azure_vnet_testbed::{Azure, CONFIG_DIR, Error, PLUGIN_DIR, Vm};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

/// Run the azure-vnet plugins on a simulated Azure and compare what everybody sees with what they must see.
#[derive(Debug, Parser)]
struct Options {
    /// The datapath to ask for; without it the configuration is used exactly as shipped.
    #[arg(long, value_enum)]
    datapath: Option<Datapath>,
    /// Pods on each VM.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=250))]
    pods: u8,
    /// Whether bridges hand what they forward to iptables, 0 or 1. Without it the traffic is tried with both.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=1))]
    bridge_nf: Option<u8>,
    /// Show what the operator's commands say on the running simulation.
    #[arg(long)]
    tour: bool,
    /// Leave everything up until Enter or Ctrl-C, and print how to look around.
    #[arg(long)]
    keep: bool,
    /// The directory of `azure-vnet` and `azure-vnet-ipam` [default: `$AZURE_VNET_BIN_DIR`, else where this program is].
    #[arg(long)]
    bin_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Datapath {
    Auto,
    Ebpf,
    Netfilter,
}

fn main() -> ExitCode {
    match demo(&Options::parse()) {
        Ok(0) => {
            println!("\nAll as it must be.");
            ExitCode::SUCCESS
        }
        Ok(deviations) => {
            println!("\n{deviations} deviation(s), marked NO above.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The whole demonstration; returns how much deviated.
fn demo(options: &Options) -> Result<usize, Error> {
    // Some are left free: a full pool is a problem, and `status` says so.
    let mut builder = Azure::builder()
        .vms(2)
        .pool(options.pods.saturating_add(10).clamp(40, 250));
    if let Some(bin_dir) = &options.bin_dir {
        builder = builder.bin_dir(bin_dir);
    }
    let azure = builder.build()?;
    let list = configure(&azure, options.datapath)?;
    let pods = add_pods(&azure.vms[0], &list, options.pods)?;
    let remote = add_pods(&azure.vms[1], &list, options.pods)?;

    let scenario = Scenario::new(&azure, &pods, &remote)?;
    let mut deviations = 0;
    for enabled in options.bridge_nf.map_or(vec![1, 0], |value| vec![value]) {
        for vm in &azure.vms {
            vm.set_bridge_nf(enabled == 1)?;
        }
        println!("\nnet.bridge.bridge-nf-call-iptables = {enabled}");
        deviations += print_rows(&scenario.rows());
    }
    drop(scenario);
    if options.pods == 1 {
        println!("  (no row for pods of the same node: that needs two)");
    }
    deviations += print_fabric(&azure)?;
    for vm in &azure.vms {
        deviations += print_datapath(vm, options.datapath)?;
    }
    if options.tour {
        deviations += tour::show(&azure.vms[0], &pods)?;
    }
    if options.keep {
        keep(&azure, &pods, &remote);
    }
    let addresses: Vec<_> = pods.iter().chain(&remote).map(|pod| pod.address).collect();
    for pod in pods.into_iter().chain(remote) {
        let name = pod.address;
        if let Err(error) = pod.delete() {
            println!("DEL of {name}: {}  NO", chain(&error));
            deviations += 1;
        }
    }
    deviations += print_leftovers(&azure)?;
    deviations += print_late_packets(&azure, &addresses)?;
    Ok(deviations)
}

/// Installs the configuration on the VMs as an administrator does.
fn configure(azure: &Azure, datapath: Option<Datapath>) -> Result<Conflist, Error> {
    let path = format!("{CONFIG_DIR}/10-azure.conflist");
    let shipped = Conflist::shipped();
    let (list, text) = match datapath.and_then(|datapath| datapath.to_possible_value()) {
        None => {
            println!("Configuration: conf/10-azure.conflist, as shipped.");
            (shipped, Conflist::SHIPPED.to_owned())
        }
        Some(datapath) => {
            let masquerade = json!({ "datapath": datapath.get_name() });
            println!("Configuration: conf/10-azure.conflist with \"masquerade\": {masquerade}.");
            let list = shipped.with_setting("azure-vnet", "masquerade", &masquerade);
            let text = list.to_json();
            (list, text)
        }
    };
    azure
        .vms
        .iter()
        .try_for_each(|vm| vm.write_file(&path, &text))?;
    Ok(list)
}

/// Pods with all of the list's plugins, the first with a port of the node.
fn add_pods<'vm>(vm: &'vm Vm, list: &Conflist, count: u8) -> Result<Vec<Pod<'vm>>, Error> {
    let spec = |number| {
        let spec = PodSpec::named(&format!("{}-pod{number}", vm.name));
        if number == 0 {
            spec.host_port(HOST_PORT, REPORT_PORT)
        } else {
            spec
        }
    };
    let pods = (0..count)
        .map(|number| vm.add_pod(list, &spec(number)))
        .collect::<Result<Vec<_>, _>>()?;
    let shown: Vec<_> = pods
        .iter()
        .take(4)
        .map(|pod| pod.address.to_string())
        .collect();
    let more = if pods.len() > 4 {
        format!(" and {} more", pods.len() - 4)
    } else {
        String::new()
    };
    println!(
        "{} {} {}: pods {}{more}",
        vm.name,
        vm.nic.mac,
        vm.nic.primary,
        shown.join(", ")
    );
    Ok(pods)
}

fn print_rows(rows: &[Row]) -> usize {
    println!(
        "{:<46} {:<20} {:<15} {:<15} ok",
        "traffic", "to", "expected source", "seen source"
    );
    for row in rows {
        let to = if row.to.port() == 0 {
            row.to.ip().to_string()
        } else {
            row.to.to_string()
        };
        let seen = row
            .seen
            .as_ref()
            .map_or_else(|_| "-".to_owned(), ToString::to_string);
        println!(
            "{:<46} {to:<20} {:<15} {seen:<15} {}",
            row.kind,
            row.expected,
            yes_or_no(row.ok())
        );
        if let Err(error) = &row.seen {
            println!("    from {}: {error}", row.from);
        }
    }
    rows.iter().filter(|row| !row.ok()).count()
}

/// What the fabric held against the VMs; all of it must be nothing.
fn print_fabric(azure: &Azure) -> Result<usize, Error> {
    println!("\nDropped by the fabric's anti-spoofing, in frames:");
    let mut deviations = 0;
    for (number, vm) in azure.vms.iter().enumerate() {
        let verdicts = azure.fabric.verdicts(number)?;
        let fine = verdicts.spoofed() == 0;
        deviations += usize::from(!fine);
        println!(
            "  {}  MAC {}  ARP {}  IPv4 {}  IPv6 {}  {}",
            vm.name,
            verdicts.mac,
            verdicts.arp,
            verdicts.ip,
            verdicts.ip6,
            yes_or_no(fine)
        );
    }
    let leaked = azure.fabric.leaked()?;
    let refused = azure
        .imds_log()
        .iter()
        .filter(|access| access.status != 200)
        .count();
    println!(
        "Packets that left the range with a pod's address: {leaked}  {}",
        yes_or_no(leaked == 0)
    );
    println!(
        "Requests that the metadata service refused: {refused}  {}",
        yes_or_no(refused == 0)
    );
    Ok(deviations + usize::from(leaked != 0) + usize::from(refused != 0))
}

/// What the plugin says of itself and what its programs counted in the kernel; it must be what was
/// asked for.
fn print_datapath(vm: &Vm, wanted: Option<Datapath>) -> Result<usize, Error> {
    let status = |arguments: &[&str]| -> Result<String, Error> {
        let plugin = format!("{PLUGIN_DIR}/azure-vnet");
        Ok(vm.program(&plugin)?.args(arguments).checked()?)
    };
    println!("\n{}: azure-vnet status", vm.name);
    for line in status(&["status"])?.lines() {
        println!("  {line}");
    }
    let json: Value = serde_json::from_str(&status(&["status", "--json"])?).unwrap_or_default();
    let tier = &json["bridges"][0]["tier"];
    let fine = match wanted {
        None | Some(Datapath::Auto) => !tier.is_null(),
        Some(Datapath::Netfilter) => tier == "netfilter",
        Some(Datapath::Ebpf) if std::env::var_os("AZURE_VNET_FORCE_CLS_BPF").is_some() => {
            tier["ebpf"] == "cls_bpf"
        }
        Some(Datapath::Ebpf) => tier["ebpf"].is_string(),
    };
    println!("  the datapath that was asked for: {}", yes_or_no(fine));
    Ok(usize::from(!fine))
}

/// After the last DEL neither a pod's link nor its namespace may be there; the bridge stays, as documented.
fn print_leftovers(azure: &Azure) -> Result<usize, Error> {
    let mut deviations = 0;
    for vm in &azure.vms {
        let links: Vec<_> = vm
            .links()?
            .into_iter()
            .filter(|link| link.starts_with("azv") || link.starts_with("veth"))
            .collect();
        deviations += usize::from(!links.is_empty());
        println!(
            "{}: after DEL of all pods {} of their links are left  {}",
            vm.name,
            links.len(),
            yes_or_no(links.is_empty())
        );
    }
    Ok(deviations)
}

/// What still comes for deleted pods must end on the node.
fn print_late_packets(azure: &Azure, addresses: &[Ipv4Addr]) -> Result<usize, Error> {
    let frames = late_packets(azure, addresses)?;
    println!(
        "late packets for {} deleted pods: {frames} frames came back to the fabric  {}",
        addresses.len(),
        yes_or_no(frames == 0)
    );
    Ok(usize::from(frames != 0))
}

/// Ctrl-C needs no handling: the kernel removes everything with the process.
fn keep(azure: &Azure, pods: &[Pod<'_>], remote: &[Pod<'_>]) {
    println!(
        "\nEverything stays up until Enter (which runs DEL for all pods) or Ctrl-C. To look around, as root:"
    );
    azure
        .vms
        .iter()
        .for_each(|vm| println!("  {:<12} {}", vm.name, vm.namespace().nsenter()));
    for pod in pods.iter().chain(remote).take(8) {
        println!("  {:<12} {}", pod.address, pod.namespace().nsenter());
    }
    println!("  {:<12} {}", "fabric", azure.fabric.namespace().nsenter());
    println!(
        "  {:<12} {}",
        "internet",
        azure.internet.namespace().nsenter()
    );
    if io::stdin().is_terminal() {
        // An error of the terminal ends the wait like Enter.
        let _ = io::stdin().read_line(&mut String::new());
    } else {
        loop {
            std::thread::park();
        }
    }
}

fn yes_or_no(fine: bool) -> &'static str {
    if fine { "yes" } else { "NO" }
}

/// An error with all its causes, on one line.
fn chain(error: &dyn StdError) -> String {
    error.source().map_or_else(
        || error.to_string(),
        |cause| format!("{error}: {}", chain(cause)),
    )
}
