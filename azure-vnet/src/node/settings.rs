//! Kernel settings of the whole node that pods need. What they were is written down first, so that it can be set back.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::NodeError;
use super::record;
use crate::lock;
use crate::state;
use crate::sysctl::{self, Sysctl};

/// What was set before the plugin changed it.
const FORMER: &str = "/run/azure-vnet/settings.json";

const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// Asked beside the setting of each link's own: either sends redirects.
const SEND_REDIRECTS: &str = "net/ipv4/conf/all/send_redirects";

/// A setting and the value that it had.
#[derive(Debug, Serialize, Deserialize)]
struct Former {
    path: String,
    value: String,
}

/// Whether this node is its pods' router.
pub fn is_forwarding() -> Result<bool, NodeError> {
    Ok(sysctl::read(IP_FORWARD)?.as_deref() == Some("1"))
}

/// Switches IPv4 forwarding on: this node is its pods' router.
pub fn forward() -> Result<(), NodeError> {
    if is_forwarding()? {
        return Ok(());
    }
    let _lock = lock::acquire(Path::new(super::LOCK))?;
    forward_under_lock()
}

/// Likewise. The caller holds the node's lock.
pub fn forward_under_lock() -> Result<(), NodeError> {
    if is_forwarding()? {
        return Ok(());
    }
    remember()?;
    let forward = Sysctl {
        path: IP_FORWARD.to_owned(),
        value: "1".to_owned(),
    };
    if forward.set()? {
        tracing::info!("switched IPv4 forwarding on: this node is its pods' router");
    }
    Ok(())
}

/// No link sends ICMP redirects just because all do: from a bridge of ours a pod would be told to ask for another pod's MAC.
/// Links that send them by their own setting, as the kernel makes them, go on. The caller holds the node's lock.
pub fn without_redirects() -> Result<(), NodeError> {
    let setting = Sysctl {
        path: SEND_REDIRECTS.to_owned(),
        value: "0".to_owned(),
    };
    if sysctl::read(SEND_REDIRECTS)?.as_ref() != Some(&setting.value) {
        remember()?;
        setting.set()?;
    }
    Ok(())
}

/// Sets back what was changed, unless a bridge other than this is left that needs it. The caller holds the
/// node's lock.
pub fn restore(bridge: &str) -> Result<(), NodeError> {
    if record::all().iter().any(|record| record.bridge != bridge) {
        return Ok(());
    }
    let former: Vec<Former> = state::read_json(Path::new(FORMER)).unwrap_or_default();
    for Former { path, value } in former {
        Sysctl { path, value }.set()?;
    }
    let path = Path::new(FORMER);
    state::remove_file(path).map_err(|error| NodeError::file("remove", path, error))
}

/// Writes down what changes with `ip_forward`: the kernel sets the `forwarding` of every link with it,
/// and what it thinks of redirects (ip-sysctl, `ip_forward`). `ip_forward` itself comes first, so
/// that setting it back does not undo the others.
fn remember() -> Result<(), NodeError> {
    let mut former: Vec<Former> = state::read_json(Path::new(FORMER)).unwrap_or_default();
    let mut paths = vec![SEND_REDIRECTS.to_owned()];
    if former.is_empty() {
        paths.insert(0, IP_FORWARD.to_owned());
        paths.push("net/ipv4/conf/all/accept_redirects".to_owned());
        let links = sysctl::keys("net/ipv4/conf")?;
        let forwarding = links
            .iter()
            .map(|link| format!("net/ipv4/conf/{link}/forwarding"));
        paths.extend(forwarding);
    }
    // v0.1.0 did not touch all of them.
    paths.retain(|path| former.iter().all(|known| known.path != *path));
    if paths.is_empty() {
        return Ok(());
    }
    for path in paths {
        if let Some(value) = sysctl::read(&path)? {
            former.push(Former { path, value });
        }
    }
    let path = Path::new(FORMER);
    state::write_json(path, &former).map_err(|error| NodeError::file("write", path, error))
}
