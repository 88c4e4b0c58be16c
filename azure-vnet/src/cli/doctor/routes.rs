//! The node's own way out. A link that goes down loses its routes, and the bridge has those of the node: pods go on, as their
//! packets are not routed, and the node is cut off.

use super::Finding;
use crate::netlink::{Netlink, route};
use crate::node;

/// Whether a node that had a default route when its bridge was made has one.
pub async fn check(netlink: &Netlink) -> Option<Finding> {
    const CHECK: &str = "default_route";
    let (bridge, gateway) = node::default_gateway()?;
    let routes = match netlink.routes().await {
        Ok(routes) => routes,
        Err(error) => return Some(Finding::problem(CHECK, error.to_string(), "see the error")),
    };
    if routes.iter().any(route::is_default) {
        return Some(Finding::ok(CHECK, "the node has a default route"));
    }
    Some(Finding::problem(
        CHECK,
        format!(
            "the node has no IPv4 default route, and had one by {gateway} when {bridge} was made: {bridge} or its NIC was down, \
             or somebody removed it"
        ),
        format!(
            "ip route add default via {gateway} dev {bridge}, or let the DHCP client set it again"
        ),
    ))
}
