//! The way out of a NIC that does not have the node's default route. Azure takes from a NIC only what has one of its own
//! addresses, so what its pods send leaves by that NIC, and what the node sends from its address as well.
//!
//! A rule for what comes from the bridge leads to a table of its own. That has a default route, and a route to every
//! pod of the node, of all bridges: with a default route alone pods of two bridges would not reach each other.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;

use crate::netlink::link::Link;
use crate::netlink::{Netlink, NetlinkError, Request, gone_is_fine, route, rule};

/// Asked after the rules of whoever configures the node (cloud-init, networkd), before the main table.
const PRIORITY: u32 = 32_000;

/// The routes are in this table plus the index of the bridge, so that no two NICs share one.
const FIRST_TABLE: u32 = 0x617a_0000;

/// The part of a table's number that the index of the bridge is.
const INDEX: u32 = 0xffff;

/// The table of a bridge.
pub fn table(bridge: u32) -> u32 {
    FIRST_TABLE | (bridge & INDEX)
}

/// The gateway of a NIC that needs a way out of its own: the node has a default route, and not by this NIC.
pub fn gateway(
    routes: &[RouteMessage],
    addresses: &[(u32, Ipv4Net)],
    nic: &Link,
) -> Option<Ipv4Addr> {
    let mut defaults = routes.iter().filter(|entry| route::is_default(entry));
    if defaults
        .next()
        .is_none_or(|first| route::uses(first, nic.index))
    {
        return None;
    }
    let own = defaults.find(|entry| route::uses(entry, nic.index));
    own.and_then(route::default_gateway).or_else(|| {
        let mut here = addresses.iter().filter(|(index, _)| *index == nic.index);
        here.find_map(|(_, net)| first_host(*net))
    })
}

/// The rules that lead to the table of a bridge whose NIC has this address.
pub fn rules(bridge: &Link, primary: Option<Ipv4Addr>) -> Vec<RuleMessage> {
    let table = table(bridge.index);
    let from_pods = rule::coming_in(&bridge.name, table, PRIORITY);
    let from_node = primary.map(|address| rule::from(address.into(), table, PRIORITY));
    from_node.into_iter().chain([from_pods]).collect()
}

/// What is to be done so that of the rules that lead to our tables there are the `wanted` ones and no others.
pub fn repairs(there: &[RuleMessage], wanted: &[RuleMessage]) -> Vec<(String, Request)> {
    let ours = |it: &&RuleMessage| is_ours(rule::table(it));
    let lacking = wanted
        .iter()
        .filter(|it| !there.iter().any(|other| rule::same(other, it)));
    let stale = there
        .iter()
        .filter(ours)
        .filter(|it| !wanted.iter().any(|other| rule::same(other, it)));
    let lacking = lacking.map(|it| {
        let what = format!("the routing rule {} is missing", rule::text(it));
        (what, rule::append(it))
    });
    let stale = stale.map(|it| {
        let what = format!("the routing rule {} is of no NIC", rule::text(it));
        (what, rule::delete(it))
    });
    lacking.chain(stale).collect()
}

/// Takes away what was made for the bridge with this index, and where it is the last what is left of others.
pub async fn remove(
    netlink: &Netlink,
    bridge: Option<u32>,
    is_last: bool,
) -> Result<(), NetlinkError> {
    let is_going = |number: u32| {
        bridge.is_some_and(|bridge| table(bridge) == number) || is_last && is_ours(number)
    };
    let rules = netlink.rules(AddressFamily::Inet).await?;
    for rule in rules.iter().filter(|rule| is_going(rule::table(rule))) {
        gone_is_fine(netlink.run(rule::delete(rule)).await)?;
    }
    let routes = netlink.ipv4_routes().await?;
    for entry in routes.iter().filter(|it| is_going(route::table(it))) {
        gone_is_fine(netlink.run(route::delete(entry)).await)?;
    }
    Ok(())
}

/// Whether a table is the way out of some bridge.
pub fn is_ours(table: u32) -> bool {
    table & !INDEX == FIRST_TABLE
}

/// Azure's gateway is the first host of the subnet.
fn first_host(subnet: Ipv4Net) -> Option<Ipv4Addr> {
    subnet.hosts().next().filter(|_| subnet.prefix_len() < 31)
}
