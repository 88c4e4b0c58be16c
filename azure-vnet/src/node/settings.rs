//! Kernel settings of the node: what the owner set for the NIC holds for its bridge, and what the
//! plugin changes is written down first, so that it can be set back.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::NodeError;
use super::journal::{self, failed};
use crate::lock::Lock;
use crate::state;
use crate::sysctl::{self, Sysctl, SysctlError};

/// What was set before the plugin changed it.
const FORMER: &str = "/run/azure-vnet/settings.json";

/// Where each link has settings of its own, below `/proc/sys`.
const PER_LINK: [&str; 4] = [
    "net/ipv4/conf",
    "net/ipv6/conf",
    "net/ipv4/neigh",
    "net/ipv6/neigh",
];

/// Settings that are a link's own: its MTU, a secret, what only a routing daemon may set.
const NOT_INHERITED: [&str; 3] = ["mtu", "stable_secret", "mc_forwarding"];

/// `IP6_RT_PRIO_USER`
const ADVERTISED_METRIC: u32 = 1024;

const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// A setting and the value that it had.
#[derive(Debug, Serialize, Deserialize)]
struct Former {
    path: String,
    value: String,
}

/// Sets for the link called `bridge` what is set for the one called `nic`. What the kernel does not
/// let anybody set is left as it is.
pub fn inherit(nic: &str, bridge: &str) -> Result<(), SysctlError> {
    for place in PER_LINK {
        for key in sysctl::keys(&format!("{place}/{nic}"))? {
            if NOT_INHERITED.contains(&key.as_str()) {
                continue;
            }
            let Ok(Some(value)) = sysctl::read(&format!("{place}/{nic}/{key}")) else {
                continue;
            };
            let setting = Sysctl {
                path: format!("{place}/{bridge}/{key}"),
                value,
            };
            if let Err(error) = setting.set() {
                tracing::debug!("{error}");
            }
        }
    }
    Ok(())
}

/// The metric of the default routes that the kernel makes for a link of router advertisements; none if it makes none. Others
/// may do it in its place, such as networkd, and have it switched off then.
pub fn advertised_metric(link: &str) -> Option<u32> {
    let read = |key: &str| sysctl::read(&format!("net/ipv6/conf/{link}/{key}")).ok()?;
    let is_taken = match read("accept_ra")?.as_str() {
        "0" => false,
        "2" => true,
        _ => read("forwarding")? == "0",
    };
    // Kernels before 5.13 have no such setting.
    let metric = || read("ra_defrtr_metric").and_then(|metric| metric.parse().ok());
    is_taken.then(|| metric().unwrap_or(ADVERTISED_METRIC))
}

/// Switches IPv4 forwarding on: a connection from outside to a hostPort is routed by this node to the
/// pod after DNAT.
pub fn forward() -> Result<(), NodeError> {
    let forward = Sysctl {
        path: IP_FORWARD.to_owned(),
        value: "1".to_owned(),
    };
    if sysctl::read(IP_FORWARD)?.as_ref() == Some(&forward.value) {
        return Ok(());
    }
    let _lock = Lock::acquire(Path::new(super::LOCK))?;
    remember_forwarding()?;
    if forward.set()? {
        tracing::info!("switched IPv4 forwarding on: hostPorts need it");
    }
    Ok(())
}

/// Sets back what was changed, unless a bridge of ours is left that needs it. The caller holds the
/// node's lock.
pub fn restore() -> Result<(), NodeError> {
    if journal::all().iter().any(journal::Journal::is_done) {
        return Ok(());
    }
    let former: Vec<Former> = match fs::read(FORMER) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", Path::new(FORMER), error)),
    };
    for Former { path, value } in former {
        Sysctl { path, value }.set()?;
    }
    let path = Path::new(FORMER);
    state::remove_file(path).map_err(|error| failed("remove", path, error))
}

/// Writes down what changes with `ip_forward`: the kernel sets the `forwarding` of every link with it,
/// and what it thinks of redirects (ip-sysctl, `ip_forward`). `ip_forward` itself comes first, so
/// that setting it back does not undo the others.
fn remember_forwarding() -> Result<(), NodeError> {
    if Path::new(FORMER).exists() {
        return Ok(());
    }
    let mut paths = vec![
        IP_FORWARD.to_owned(),
        "net/ipv4/conf/all/accept_redirects".to_owned(),
    ];
    let links = sysctl::keys("net/ipv4/conf")?;
    let forwarding = links
        .iter()
        .map(|link| format!("net/ipv4/conf/{link}/forwarding"));
    paths.extend(forwarding);
    let mut former = Vec::new();
    for path in paths {
        if let Some(value) = sysctl::read(&path)? {
            former.push(Former { path, value });
        }
    }
    let path = Path::new(FORMER);
    state::write_json(path, &former).map_err(|error| failed("write", path, error))
}
