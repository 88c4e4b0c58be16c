//! The node's own way out. Routes and addresses are the NIC's manager's: what is lost, it sets again.

use super::Finding;
use crate::netlink::Netlink;
use crate::node;

/// Whether a node with pods has a default route.
pub fn check(netlink: &Netlink) -> Option<Finding> {
    const CHECK: &str = "default_route";
    let (_, nic) = node::remembered().into_iter().next()?;
    let routes = match netlink.default_routes() {
        Ok(routes) => routes,
        Err(error) => return Some(Finding::problem(CHECK, error.to_string(), "see the error")),
    };
    if !routes.is_empty() {
        return Some(Finding::ok(CHECK, "the node has a default route"));
    }
    Some(Finding::problem(
        CHECK,
        "the node has no IPv4 default route: its NIC was down, or somebody removed it; pods reach nothing outside the node",
        format!(
            "let the NIC's manager set it again: networkctl reconfigure {nic}, or nmcli device reapply {nic}, or ifdown and ifup {nic}"
        ),
    ))
}
