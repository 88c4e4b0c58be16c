//! Waiting for systemd-networkd. It takes the kernel's message that a port has left its bridge for one that the link is gone, then
//! configures it anew, and takes routes away that lead over no link, as our blackholes do. `azure-vnet install` tells it to leave
//! them alone, which it reads when it starts, and nobody restarts it for a takeover.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where networkd writes down what state each link is in, by its index (what sd-network(3) reads).
const LINKS: &str = "/run/systemd/netif/links";
/// It takes well below a second. What it takes away later is mended by the call after this one.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Whether networkd runs and knows the link.
pub fn is_known(nic: u32) -> bool {
    path(nic).exists()
}

/// Waits until networkd is done with a link that it knows. Between two of its states there is no file.
pub async fn wait(nic: u32) {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        match std::fs::read_to_string(path(nic)) {
            Ok(state) if !is_busy(&state) => return,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn path(nic: u32) -> PathBuf {
    Path::new(LINKS).join(nic.to_string())
}

/// Whether networkd has not seen yet that the link is no port of a bridge, or is at work on it.
fn is_busy(state: &str) -> bool {
    state.lines().any(|line| {
        matches!(
            line,
            "OPER_STATE=enslaved" | "ADMIN_STATE=pending" | "ADMIN_STATE=configuring"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::is_busy;

    #[test]
    fn networkd_is_done_when_the_link_is_routable_and_configured() {
        let state = |admin, oper| {
            format!("# Private.\nADMIN_STATE={admin}\nOPER_STATE={oper}\nCARRIER_STATE=carrier\n")
        };
        assert!(is_busy(&state("configured", "enslaved")));
        assert!(is_busy(&state("configuring", "degraded")));
        assert!(!is_busy(&state("configured", "routable")));
        assert!(!is_busy(&state("unmanaged", "routable")));
        assert!(!is_busy("what is not networkd's"));
    }
}
