//! Waiting for systemd-networkd. It configures a NIC anew that has left a bridge, and takes routes away that lead over no link, as
//! our blackholes do. `azure-vnet install` tells it to leave them alone, which it reads when it starts, and nobody restarts it
//! for a takeover.

use std::path::Path;
use std::time::{Duration, Instant};

/// Where networkd writes down what state each link is in, by its index (what sd-network(3) reads).
const LINKS: &str = "/run/systemd/netif/links";
/// It takes well below a second. What it takes away later is mended by the call after this one.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until networkd is done with the NIC, if it has it.
pub async fn wait(nic: u32) {
    let path = Path::new(LINKS).join(nic.to_string());
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        match std::fs::read_to_string(&path) {
            Ok(state) if is_busy(&state) => tokio::time::sleep(PAUSE).await,
            _ => return,
        }
    }
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
