//! Moving addresses, routes, rules and neighbours from one link to another. Every
//! function may be cut short anywhere and called again: what has moved is left alone, and at every
//! moment each address is on at least one of the two links, so that no connection loses its local
//! address.

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;
use rustix::io::Errno;
use tracing::debug;

use crate::datapath::Pod;
use crate::netlink::link::Link;
use crate::netlink::route::{self, Place};
use crate::netlink::{Netlink, NetlinkError, Request, address, gone_is_fine, neighbour, rule};
use crate::{node, plan, sysctl};

/// `IP6_RT_PRIO_USER`
const ADVERTISED_METRIC: u32 = 1024;

/// The node's addresses on a link, in the kernel's order (primary before secondary).
pub async fn addresses_of(
    netlink: &Netlink,
    link: &Link,
) -> Result<Vec<AddressMessage>, NetlinkError> {
    let mut addresses = netlink.addresses_on(link).await?;
    addresses.retain(|it| address::is_movable(it) && !node::is_placeholder(it));
    Ok(addresses)
}

/// The routes through a link, in all tables, without those that come with an address or are the
/// plugin's own.
pub fn routes_of<'a>(routes: &'a [RouteMessage], link: &Link) -> Vec<&'a RouteMessage> {
    let index = link.index;
    routes
        .iter()
        .filter(|entry| route::uses(entry, index) && !route::is_kernels_own(entry))
        .filter(|entry| !node::is_way_out(route::table(entry)) && !node::is_own_route(entry))
        .collect()
}

/// What [`addresses_of`] and [`routes_of`] say of the NIC and, if there is one, of its bridge.
pub async fn all_of(
    netlink: &Netlink,
    nic: &Link,
    bridge: Option<&Link>,
) -> Result<(Vec<AddressMessage>, Vec<RouteMessage>), NetlinkError> {
    let all_routes = netlink.routes().await?;
    let (mut addresses, mut routes) = (Vec::new(), Vec::new());
    for link in [Some(nic), bridge].into_iter().flatten() {
        addresses.extend(addresses_of(netlink, link).await?);
        routes.extend(routes_of(&all_routes, link).into_iter().cloned());
    }
    Ok((addresses, routes))
}

/// Puts copies of `addresses`, which are or were on the link called `from`, on `to`, so that the kernel lists them
/// there in the same order: IPv4 as they come, IPv6 the newest first.
pub async fn put_addresses(
    netlink: &Netlink,
    addresses: &[AddressMessage],
    from: &str,
    to: &Link,
) -> Result<(), NetlinkError> {
    let is_v4 = |entry: &&AddressMessage| entry.header.family == AddressFamily::Inet;
    let in_order = addresses.iter().filter(is_v4);
    let backwards = addresses.iter().rev().filter(|entry| !is_v4(entry));
    let copies = in_order.chain(backwards);
    netlink
        .run_all(copies.flat_map(|entry| address::copy(entry, from, to)))
        .await
}

/// Adds the `routes` that led over the links with the indices `from` again, over `to`.
pub async fn put_routes(
    netlink: &Netlink,
    mut routes: Vec<RouteMessage>,
    from: &[u32],
    to: &Link,
) -> Result<(), NetlinkError> {
    routes.sort_by_key(route::has_gateway);
    for mut entry in routes {
        for index in from {
            entry = route::moved(&entry, *index, to.index);
        }
        match netlink.run(route::put(&entry, Place::Last)).await {
            Err(error) if !error.is_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// When the NIC becomes or ceases to be a port, beside the routes that move.
#[derive(Debug)]
pub enum Switch {
    /// It is what it has to be.
    None,
    /// It becomes one before its routes lead over the bridge: the node hears by the bridge and speaks by the NIC meanwhile.
    Join(Request),
    /// It ceases to be one after they lead over it, for the same reason. A port that has left sends nothing of the bridge, and
    /// the kernel takes some milliseconds over that (`netdev_rx_handler_unregister` waits for RCU).
    Leave(Request),
}

/// Leads each route through `from` over `to` instead, and makes `to` the link that packets arrive by. Between the
/// two a node whose `rp_filter` is strict hears nothing, so nothing is waited for. Routes to gateways come after
/// those that say where the gateways are.
pub async fn move_routes(
    netlink: &Netlink,
    switch: Switch,
    from: &Link,
    to: &Link,
) -> Result<(), NetlinkError> {
    let all = netlink.routes().await?;
    let mut here = routes_of(&all, from);
    here.sort_by_key(|entry| route::has_gateway(entry));
    let advertised = advertised_metric(&to.name);
    let moves = here
        .into_iter()
        .flat_map(|entry| replace(entry, from, to, &all, advertised));
    let (first, last) = match switch {
        Switch::None => (None, None),
        Switch::Join(request) => (Some(request), None),
        Switch::Leave(request) => (None, Some(request)),
    };
    let requests = first.into_iter().chain(moves).chain(last);
    for outcome in netlink.run_each(requests).await {
        gone_is_fine(outcome)?;
    }
    Ok(())
}

/// What leads one route of `all` over `to` instead of `from`.
///
/// `advertised` is the metric of the default routes that the kernel makes there of router advertisements.
fn replace(
    entry: &RouteMessage,
    from: &Link,
    to: &Link,
    all: &[RouteMessage],
    advertised: Option<u32>,
) -> Vec<Request> {
    let there = route::moved(entry, from.index, to.index);
    let exists = |route: &RouteMessage| all.iter().any(|other| route::same(other, route));
    // The kernel would take this for somebody else's, in the way of the route that the next advertisement means, and
    // stop at it: nothing else of the advertisement would count, and the node's addresses would expire.
    if advertised.is_some_and(|metric| route::is_advertised(entry, metric)) {
        let spare = route::as_spare(there.clone());
        let is_needed = !exists(&there) && !exists(&spare);
        let put = is_needed.then(|| route::put(&spare, Place::Last));
        return put.into_iter().chain([route::delete(entry)]).collect();
    }
    let exists = exists(&there);
    match (place_of(entry, &there, all), exists) {
        (Place::Only, false) => vec![route::put(&there, Place::Only)],
        // The kernel made it for the address, behind those of other links.
        (Place::First, true) => vec![
            route::delete(&there),
            route::put(&there, Place::First),
            route::delete(entry),
        ],
        (place, false) => vec![route::put(&there, place), route::delete(entry)],
        (_, true) => vec![route::delete(entry)],
    }
}

/// Makes each rule that names `from` name `to`. Rules of one priority are asked in the order in which
/// they were added, so all of that priority are added anew before the old ones go.
pub async fn move_rules(netlink: &Netlink, from: &Link, to: &Link) -> Result<(), NetlinkError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let rules = netlink.rules(family).await?;
        for group in rules.chunk_by(|a, b| rule::priority(a) == rule::priority(b)) {
            let moved = group.iter().map(|r| rule::moved(r, &from.name, &to.name));
            let mut wanted: Vec<RuleMessage> = Vec::new();
            for rule in moved {
                // A move that was cut short has left some twice.
                if !wanted.contains(&rule) {
                    wanted.push(rule);
                }
            }
            if wanted != group {
                netlink.run_all(wanted.iter().map(rule::append)).await?;
                for outcome in netlink.run_each(group.iter().map(rule::delete)).await {
                    gone_is_fine(outcome)?;
                }
            }
        }
    }
    Ok(())
}

/// Lets `to` know the neighbours that `from` knows, so that nothing has to wait for an answer to a
/// question that was answered before. The kernel forgets those of `from`, the permanent ones too, with
/// its last IPv4 address.
///
/// What was learnt can be learnt again, so a full table (`gc_thresh3`, which the pods' namespaces fill
/// too) loses that and no more. What was set by hand is not learnt, and the kernel has always room for
/// it.
///
/// The pods stay where they are: on `to`, nobody would ever take their entries away.
pub async fn copy_neighbours(
    netlink: &Netlink,
    from: &Link,
    to: &Link,
    pods: &[Pod],
) -> Result<(), NetlinkError> {
    let all = netlink.neighbours().await?;
    let is_pod = |entry: &NeighbourMessage| {
        let is_live = pods.iter().any(|pod| neighbour::is_claim(entry, pod.mac));
        // Or the entry is what is left of one.
        let address = neighbour::ipv4(entry);
        is_live || address.is_some_and(|it| neighbour::is_claim(entry, plan::pod_mac(it)))
    };
    let here = all
        .iter()
        .filter(|entry| entry.header.ifindex == from.index && !is_pod(entry));
    let (by_hand, learnt): (Vec<_>, Vec<_>) =
        here.partition(|entry| entry.header.state == NeighbourState::Permanent);
    netlink
        .run_all(by_hand.iter().map(|entry| neighbour::copy(entry, to)))
        .await?;
    let learnt = learnt.iter().map(|entry| neighbour::copy(entry, to));
    for outcome in netlink.run_each(learnt).await {
        match outcome {
            Err(error) if error.errno() == Some(Errno::NOBUFS) => {
                debug!(%error, "a neighbour has to be asked for again");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Takes the node's addresses away from `link`.
pub async fn remove_addresses(netlink: &Netlink, link: &Link) -> Result<(), NetlinkError> {
    // Backwards: with its primary address, a link may lose the secondary ones (promote_secondaries).
    for entry in addresses_of(netlink, link).await?.iter().rev() {
        gone_is_fine(netlink.run(address::delete(entry, &link.name)).await)?;
    }
    Ok(())
}

/// Another NIC may have a route to the same destination with the same metric: that one must stay,
/// and the order of the two too. A route that is alone is replaced in one step.
fn place_of(entry: &RouteMessage, there: &RouteMessage, all: &[RouteMessage]) -> Place {
    let mut rivals = all
        .iter()
        .filter(|other| route::same_key(other, entry) && !route::same(other, there));
    let is_first = rivals.next().is_none_or(|first| std::ptr::eq(first, entry));
    match (is_first, rivals.next()) {
        (true, None) => Place::Only,
        (true, Some(_)) => Place::First,
        (false, _) => Place::Last,
    }
}

/// The metric of the default routes that the kernel makes for a link of router advertisements; none if it makes none. Others
/// may do it in its place, such as networkd, and have it switched off then.
fn advertised_metric(link: &str) -> Option<u32> {
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
