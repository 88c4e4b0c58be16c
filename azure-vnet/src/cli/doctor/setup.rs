//! What is installed, and what of it is in place.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use azure_vnet_cni::json;
use serde_json::Value;

use super::super::bridges::{Bridge, Problem};
use crate::config::Config;
use crate::config::masquerade::Masquerade;
use crate::datapath::Wanted;
use crate::health::{ANY_CALL, Check, Finding};
use crate::node::NO_FORWARDING;

/// Where runtimes look for network configurations.
const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// Where they look for plugins, unless told otherwise.
const PLUGINS: &str = "/opt/cni/bin";

/// Whether the folders of the node are to be seen, which a container need not have.
pub fn is_node() -> bool {
    Path::new(CONFIGURATIONS).is_dir()
}

/// The configuration that a runtime would take, and the plugins that it names.
pub fn check() -> Vec<Finding> {
    let all = configurations();
    let Some(first) = all.first() else {
        return vec![Finding::warning(
            Check::Configuration,
            format!("no network configuration in {CONFIGURATIONS}: a runtime has nothing to call"),
            "install conf/10-azure.conflist there",
        )];
    };
    let ours = all.iter().find_map(|path| Some((path, ours(path)?)));
    let Some((path, list)) = ours else {
        return vec![Finding::warning(
            Check::Configuration,
            format!("no network configuration in {CONFIGURATIONS} has a plugin of type azure-vnet"),
            "install conf/10-azure.conflist there",
        )];
    };
    let mut findings = Vec::new();
    if path != first {
        findings.push(Finding::warning(
            Check::ConfigurationOrder,
            format!(
                "{} comes before {}, and runtimes take the first",
                first.display(),
                path.display()
            ),
            "remove or rename the former, unless another network is meant to be the default",
        ));
    }
    match meaning(&list) {
        Ok(config) => {
            let found = format!("{} is understood", path.display());
            findings.push(Finding::ok(Check::Configuration, found));
            findings.extend(ports(&config.masquerade));
        }
        Err(error) => findings.push(Finding::problem(
            Check::Configuration,
            format!("{} is refused: {error}", path.display()),
            "correct it (docs/configuration.md); pods that run are not affected",
        )),
    }
    findings.extend(plugins(&list));
    findings
}

/// What `azure-vnet status` says is wrong.
pub fn check_bridges(bridges: &[Bridge]) -> Vec<Finding> {
    let problem = |bridge: &Bridge, problem: &Problem| {
        let found = format!("{}: {}", bridge.name, problem.what);
        match &problem.fix {
            Some(fix) => Finding::problem(Check::Datapath, found, fix),
            None => Finding::mended(Check::Datapath, found),
        }
    };
    let note = |bridge: &Bridge, note: &String| {
        let found = format!("{}: {note}; traffic does not miss it", bridge.name);
        Finding::warning(Check::Datapath, found, ANY_CALL)
    };
    let of = |bridge: &Bridge| {
        // That has a check of its own.
        let problems = bridge.problems.iter().filter(|it| it.what != NO_FORWARDING);
        let mut findings: Vec<Finding> = problems.map(|what| problem(bridge, what)).collect();
        // One command mends all of these.
        let is_mended = |it: &&Finding| it.is_mended_by_add;
        let more = findings
            .iter()
            .filter(is_mended)
            .count()
            .saturating_sub(MOST);
        if more > 0 {
            let mut left = MOST;
            findings.retain(|it| {
                let is_kept = !it.is_mended_by_add || left > 0;
                left -= usize::from(it.is_mended_by_add && is_kept);
                is_kept
            });
            let found = format!(
                "{}: {more} more that the same mends (azure-vnet status)",
                bridge.name
            );
            findings.push(Finding::mended(Check::Datapath, found));
        }
        findings.extend(bridge.notes.iter().map(|it| note(bridge, it)));
        if findings.is_empty() {
            let found = format!("{}: in place, for {} pods", bridge.name, bridge.pods);
            vec![Finding::ok(Check::Datapath, found)]
        } else {
            findings
        }
    };
    bridges.iter().flat_map(of).collect()
}

/// Of what one call mends; a lost record is missed by every address of the pool.
const MOST: usize = 5;

/// In the order of their names, as runtimes take them.
fn configurations() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(CONFIGURATIONS)
        .into_iter()
        .flatten()
        .flatten();
    let is_one = |path: &PathBuf| {
        let extension = path.extension().and_then(OsStr::to_str);
        matches!(extension, Some("conf" | "conflist" | "json"))
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_one).collect();
    paths.sort();
    paths
}

/// Bytes of a list of plugins.
const LARGEST: u64 = 1 << 20;

/// The list, if our plugin is in it.
fn ours(path: &Path) -> Option<Value> {
    let list: Value = json::from_slice(&azure_vnet_files::read(path, LARGEST).ok()?).ok()?;
    our_plugin(&list).is_some().then_some(list)
}

fn our_plugin(list: &Value) -> Option<&Value> {
    let mut plugins = list["plugins"].as_array().into_iter().flatten();
    plugins.find(|plugin| plugin["type"] == "azure-vnet")
}

/// The configuration as an ADD would take it.
fn meaning(list: &Value) -> Result<Config, String> {
    let mut object = our_plugin(list).cloned().unwrap_or_default();
    object["name"] = list["name"].clone();
    object["cniVersion"] = list["cniVersion"].clone();
    object
        .to_string()
        .parse::<azure_vnet_cni::NetConf>()
        .map_err(|error: azure_vnet_cni::CniError| error.msg)
        .and_then(|conf| {
            Config::read(&conf).map_err(|error| super::super::Failure::of(&error).to_string())
        })
}

/// Ports are a precondition of the eBPF tier.
fn ports(masquerade: &Masquerade) -> Option<Finding> {
    const FIX: &str = "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\", or another range in masquerade.ports";
    let error = masquerade.port_range().err()?;
    match masquerade.datapath {
        Wanted::Netfilter => None,
        Wanted::Ebpf => Some(Finding::problem(
            Check::PortsFree,
            format!("an ADD fails, as the eBPF tier has no ports to masquerade with: {error}"),
            FIX,
        )),
        Wanted::Auto => Some(Finding::warning(
            Check::PortsFree,
            format!(
                "a node without pods gets the netfilter tier, as the eBPF tier has no ports to masquerade with: {error}"
            ),
            FIX,
        )),
    }
}

/// The programs that the list names, where a runtime looks for them.
fn plugins(list: &Value) -> Vec<Finding> {
    let objects = list["plugins"].as_array().into_iter().flatten();
    let types =
        objects.flat_map(|plugin| [plugin["type"].as_str(), plugin["ipam"]["type"].as_str()]);
    let mut names: Vec<&str> = types.flatten().chain(["loopback"]).collect();
    names.sort_unstable();
    names.dedup();
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !Path::new(PLUGINS).join(name).is_file())
        .collect();
    if missing.is_empty() {
        return vec![Finding::ok(
            Check::Plugins,
            format!("{} are in {PLUGINS}", names.join(", ")),
        )];
    }
    vec![Finding::problem(
        Check::Plugins,
        format!("not in {PLUGINS}: {}", missing.join(", ")),
        "install them; portmap and loopback are of containernetworking/plugins",
    )]
}
