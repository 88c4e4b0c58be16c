//! Moving addresses and routes from one link to another, in either direction. Every function may
//! be cut short anywhere and called again: what has moved is left alone, and at every moment each
//! address is on at least one of the two links, so that no connection loses its local address.

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;

use crate::netlink::link::Link;
use crate::netlink::route::{self, Place};
use crate::netlink::{Netlink, NetlinkError, address, gone_is_fine};

/// The node's addresses on a link, in the kernel's order (primary before secondary).
pub async fn addresses_of(
    netlink: &Netlink,
    link: &Link,
) -> Result<Vec<AddressMessage>, NetlinkError> {
    let mut addresses = netlink.addresses(AddressFamily::Unspec).await?;
    addresses.retain(|entry| entry.header.index == link.index && address::is_movable(entry));
    Ok(addresses)
}

/// The routes through a link, in all tables, without those that come with an address.
pub fn routes_of<'a>(routes: &'a [RouteMessage], link: &Link) -> Vec<&'a RouteMessage> {
    let index = link.index;
    routes
        .iter()
        .filter(|entry| route::uses(entry, index) && !route::is_kernels_own(entry))
        .collect()
}

/// Puts a copy of each address of `from` on `to`.
pub async fn copy_addresses(netlink: &Netlink, from: &Link, to: &Link) -> Result<(), NetlinkError> {
    let addresses = addresses_of(netlink, from).await?;
    let copies = addresses.iter().map(|entry| address::copy(entry, from, to));
    netlink.run_all(copies).await
}

/// Leads each route through `from` over `to` instead. Those to gateways come after those that say
/// where the gateways are.
pub async fn move_routes(netlink: &Netlink, from: &Link, to: &Link) -> Result<(), NetlinkError> {
    let all = netlink.routes().await?;
    let mut here = routes_of(&all, from);
    here.sort_by_key(|entry| route::has_gateway(entry));
    for entry in here {
        let there = route::moved(entry, from.index, to.index);
        if !all.iter().any(|other| route::same(other, &there)) {
            let place = place_of(entry, &all);
            netlink.run(route::put(&there, place)).await?;
            if place == Place::Only {
                continue;
            }
        }
        gone_is_fine(netlink.run(route::delete(entry)).await)?;
    }
    Ok(())
}

/// Takes the addresses away from `from` that `to` has.
pub async fn withdraw_addresses(
    netlink: &Netlink,
    from: &Link,
    to: &Link,
) -> Result<(), NetlinkError> {
    let there = addresses_of(netlink, to).await?;
    // Backwards: with its primary address, a link may lose the secondary ones (promote_secondaries).
    for entry in addresses_of(netlink, from).await?.iter().rev() {
        if there.iter().any(|other| same_address(other, entry)) {
            gone_is_fine(netlink.run(address::delete(entry, &from.name)).await)?;
        }
    }
    Ok(())
}

/// Another NIC may have a route to the same destination with the same metric: that one must stay,
/// and the order of the two too. A route that is alone is replaced in one step.
fn place_of(entry: &RouteMessage, all: &[RouteMessage]) -> Place {
    let mut rivals = all.iter().filter(|other| route::same_key(other, entry));
    let is_first = rivals.next().is_none_or(|first| std::ptr::eq(first, entry));
    match (is_first, rivals.next()) {
        (true, None) => Place::Only,
        (true, Some(_)) => Place::First,
        (false, _) => Place::Last,
    }
}

fn same_address(a: &AddressMessage, b: &AddressMessage) -> bool {
    address::ip(a) == address::ip(b) && a.header.prefix_len == b.header.prefix_len
}
