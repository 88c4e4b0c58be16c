//! `azure-vnet gc`: the DELs that never came. An attachment goes if both its link and its namespace are gone; whatever
//! else the datapath knows of pods without links goes as well.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

use azure_vnet_cni::{NetConf, foreign, json};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::output::{self, Output};
use super::{Failure, Outcome, bridges};
use crate::datapath::{self, Depth, Refreshed};
use crate::netlink::Netlink;
use crate::netns::NetNs;
use crate::state::{self, Attachment};
use crate::{config, del, lease, node, takeover, uplink};

/// Where runtimes look for network configurations.
const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// Where they look for plugins, unless told otherwise.
const PLUGINS: &str = "/opt/cni/bin";

/// How to go about it.
#[derive(Args)]
pub struct Options {
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Directory of the IPAM plugin.
    #[arg(long, value_name = "DIRECTORY", default_value = PLUGINS)]
    plugins: String,
    /// Directory of the network configurations.
    #[arg(long, value_name = "DIRECTORY", default_value = CONFIGURATIONS)]
    configurations: String,
}

#[derive(Serialize)]
struct Collected {
    /// Whether nothing was done.
    dry_run: bool,
    /// Attachments that went, or would go.
    attachments: Vec<Gone>,
    /// Addresses that the datapath still knew of pods that are gone.
    forgotten: Vec<Ipv4Addr>,
    /// What could not be done.
    failures: Vec<String>,
}

#[derive(Serialize)]
struct Gone {
    address: Ipv4Addr,
    container_id: String,
    ifname: String,
    network: String,
    #[serde(skip)]
    who: String,
}

/// Collects; a problem if something could not be done.
pub async fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
    if !options.dry_run {
        takeover::complete(&netlink)
            .await
            .map_err(|error| Failure::of(&error))?;
    }
    let mut collected = Collected {
        dry_run: options.dry_run,
        attachments: Vec::new(),
        forgotten: Vec::new(),
        failures: Vec::new(),
    };
    for attachment in state::everything() {
        let link = netlink
            .link(&attachment.host_veth)
            .await
            .map_err(|error| Failure::of(&error))?;
        if link.is_some() || !is_gone(&attachment.netns) {
            continue;
        }
        if !options.dry_run
            && let Err(failure) = collect(&netlink, options, &attachment).await
        {
            collected
                .failures
                .push(format!("{}: {failure}", bridges::who(&attachment)));
            continue;
        }
        collected.attachments.push(Gone {
            who: bridges::who(&attachment),
            address: attachment.address,
            container_id: attachment.container_id,
            ifname: attachment.ifname,
            network: attachment.network,
        });
    }
    if !options.dry_run {
        let forgotten = datapath::sweep();
        let failures = forgotten
            .failures
            .iter()
            .map(|error| Failure::of(error).to_string());
        collected.failures.extend(failures);
        collected.forgotten = forgotten
            .pods
            .into_iter()
            .map(|(_, address)| address)
            .collect();
        let (seen, mended) = node::mend(&netlink).await;
        if let Err(error) = mended {
            collected.failures.push(Failure::of(&error).to_string());
        }
        for plugin in configurations(Path::new(&options.configurations)) {
            if let Ok(conf) = plugin.to_string().parse() {
                uplink::revive_beside(&netlink, &conf).await;
            }
        }
        let refreshed = datapath::refresh(&seen).into_iter();
        for Refreshed { bridge, result } in refreshed.chain(datapath::attach_again()) {
            if let Err(error) = result {
                let failure = format!("{bridge}: {}", Failure::of(&error));
                collected.failures.push(failure);
            }
        }
        datapath::tell_ports(&netlink, &seen, Depth::Programs).await;
    }
    output.show(&collected)?;
    Ok(if collected.failures.is_empty() {
        Outcome::Fine
    } else {
        Outcome::Problem
    })
}

fn is_gone(netns: &str) -> bool {
    NetNs::open(netns).is_err_and(|error| error.is_gone())
}

/// The DEL, with the configuration that the network has now.
async fn collect(
    netlink: &Netlink,
    options: &Options,
    attachment: &Attachment,
) -> Result<(), Failure> {
    let confs = configurations_of(Path::new(&options.configurations), &attachment.network)?;
    let failed = |error: crate::error::Error| Failure::new(error.chain());
    tracing::info!("gc: {} goes", bridges::who(attachment));
    let detached = del::detach(netlink, &attachment.host_veth).await;
    detached.into_result().map_err(failed)?;
    // Last, so that nobody has the address while anything here still knows it.
    let Attachment {
        container_id,
        ifname,
        ..
    } = attachment;
    for conf in confs {
        let ipam = config::ipam_of(&conf).map_err(|error| Failure::of(&error))?;
        lease::release_orphan(&ipam, &options.plugins, &conf, container_id, ifname)
            .map_err(|error| Failure::new(error.msg))?;
    }
    Ok(())
}

/// Bytes of a list of plugins.
const LARGEST: u64 = 1 << 20;

/// What our plugin gets from the configurations of this network. If there is none of that name, the network may have been
/// renamed since the ADD: from all that have our plugin, under the old name. A DEL of what an IPAM plugin does not know is
/// nothing to it.
fn configurations_of(directory: &Path, network: &str) -> Result<Vec<NetConf>, Failure> {
    let mut plugins: Vec<Value> = configurations(directory).collect();
    if plugins.iter().any(|plugin| plugin["name"] == network) {
        plugins.retain(|plugin| plugin["name"] == network);
    }
    if plugins.is_empty() {
        return Err(Failure::new(format!(
            "no configuration with the plugin azure-vnet in {}, which says whom to give the address of the network \
             {network:?} back",
            directory.display()
        )));
    }
    let conf = |mut plugin: Value| {
        plugin["name"] = network.into();
        plugin
            .to_string()
            .parse()
            .map_err(|error: azure_vnet_cni::CniError| Failure::new(error.msg))
    };
    plugins.into_iter().map(conf).collect()
}

/// What our plugin gets from each list that has it.
fn configurations(directory: &Path) -> impl Iterator<Item = Value> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| azure_vnet_files::read(&entry.path(), LARGEST).ok());
    let lists = texts.filter_map(|text| json::from_slice::<Value>(&text).ok());
    lists.filter_map(|list| {
        let is_ours = |plugin: &&Value| plugin["type"] == "azure-vnet";
        let mut plugin = list["plugins"].as_array()?.iter().find(is_ours)?.clone();
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        Some(plugin)
    })
}

impl fmt::Display for Collected {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would go" } else { "went" };
        for gone in &self.attachments {
            writeln!(out, "{} {verb}", foreign::line(&gone.who))?;
        }
        for address in &self.forgotten {
            writeln!(out, "{address} forgotten by the datapath")?;
        }
        for failure in &self.failures {
            writeln!(
                out,
                "{}",
                output::wrapped(&format!("PROBLEM: {failure}"), 0)
            )?;
        }
        if self.attachments.is_empty() && self.forgotten.is_empty() && self.failures.is_empty() {
            writeln!(out, "Nothing is left of pods that are gone.")?;
        }
        Ok(())
    }
}
