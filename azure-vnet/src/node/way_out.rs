//! The ways out of a node with several NICs. Azure takes from a NIC only what has one of its own addresses, so what a NIC's pods
//! send leaves by that NIC, and what the node sends from its address as well. The main table has one way out for all, and
//! goes by the destination, so each bridge has a table of its own, that of the NIC with the node's default route too:
//! from there the other NIC's subnet is on the link in the main table.
//!
//! A rule for what comes from the bridge leads to it. It has a default route, a route to every pod of the node, of all
//! bridges, and what the main table has on links that are no NICs (`docker0`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;

use super::own_route::{self, OwnRoute, Way};
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

/// The gateway of a NIC that needs a way out of its own: there is another link with a default route, or another NIC among
/// these that have a bridge. `nets` are its addresses.
pub fn gateway(
    defaults: &[RouteMessage],
    nic: &Link,
    nets: &[Ipv4Net],
    mut nics: impl Iterator<Item = u32>,
) -> Option<Ipv4Addr> {
    let mut links = defaults.iter().flat_map(route::links);
    let is_other = |link| link != nic.index;
    if !links.any(is_other) && !nics.any(is_other) {
        return None;
    }
    let own = defaults.iter().find(|entry| route::uses(entry, nic.index));
    own.and_then(route::default_gateway)
        .or_else(|| nets.iter().find_map(|net| first_host(*net)))
}

/// The main table's routes on links that lead to no fabric, as they are to be in `table`: not those of a link with a default
/// route, nor of `known` ones, which are NICs and our bridges.
pub fn local_routes(
    routes: &[RouteMessage],
    defaults: &[RouteMessage],
    known: &BTreeSet<u32>,
    table: u32,
) -> impl Iterator<Item = OwnRoute> {
    let outward: BTreeSet<u32> = defaults.iter().flat_map(route::links).collect();
    // Of those with the same destination and metric the kernel asks the first alone, and has one here.
    let mut local = BTreeMap::new();
    for entry in routes {
        if let Some((to, metric, link)) = route::on_link(entry)
            && !outward.contains(&link)
            && !known.contains(&link)
        {
            local.entry((to, metric)).or_insert(link);
        }
    }
    local.into_iter().map(move |((to, metric), link)| OwnRoute {
        table,
        to,
        metric,
        way: Way::Link(link, None),
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
    let own = netlink.routes_of(own_route::PROTOCOL).await?;
    let mut tables: BTreeSet<u32> = own.iter().map(route::table).collect();
    let rules = netlink.rules(AddressFamily::Inet).await?;
    tables.extend(rules.iter().map(rule::table));
    tables.extend(bridge.map(table));
    for rule in rules.iter().filter(|rule| is_going(rule::table(rule))) {
        gone_is_fine(netlink.run(rule::delete(rule)).await)?;
    }
    // Those that v0.1.0 made have no number of ours.
    for table in tables.into_iter().filter(|it| is_going(*it)) {
        let routes = netlink.routes_in(table).await?;
        let requests = routes.iter().map(route::delete);
        for outcome in netlink.run_each(requests).await {
            gone_is_fine(outcome)?;
        }
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
