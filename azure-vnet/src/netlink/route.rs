//! Routes, as the kernel's whole messages: a copy through another link keeps table, metric,
//! protocol, type, scope, source, metrics, encapsulation, `onlink` and all other next hops.

pub mod lookup;

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Label, Netlink, NetlinkError, Request};

/// Ticks per second of the times in `RTA_CACHEINFO` (`USER_HZ`).
const USER_HZ: u32 = 100;

/// A route of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    /// Destination.
    pub to: IpNet,
    /// Next hop; none for a destination on the link.
    pub via: Option<IpAddr>,
    /// The next hop is on the link although no address of the link says so.
    pub onlink: bool,
    /// Metric; 0 is the most preferred and what the CNI specification asks for.
    pub metric: u32,
}

/// Where a new route stands among those with the same destination, table and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Takes the place of the only one there is, in one step.
    Only,
    /// Before the others.
    First,
    /// After the others.
    Last,
}

/// The number of the main table.
pub const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

impl Netlink {
    /// All routes of all tables and both families, without cached ones.
    pub async fn routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        self.listed_routes(RouteMessage::default()).await
    }

    /// The IPv4 routes of all tables with this protocol number. Those of others are not listed.
    pub async fn routes_of(
        &self,
        protocol: RouteProtocol,
    ) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = AddressFamily::Inet;
        wanted.header.protocol = protocol;
        let mut listed = self.listed_routes(wanted).await?;
        listed.retain(|entry| entry.header.protocol == protocol);
        Ok(listed)
    }

    /// The IPv4 routes of a table, whoever made them; none where there is no such table.
    pub async fn routes_in(&self, number: u32) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = AddressFamily::Inet;
        wanted.attributes.push(RouteAttribute::Table(number));
        let mut listed = match self.listed_routes(wanted).await {
            Err(error) if error.is_gone() => return Ok(Vec::new()),
            listed => listed?,
        };
        listed.retain(|entry| table(entry) == number);
        Ok(listed)
    }

    async fn listed_routes(&self, wanted: RouteMessage) -> Result<Vec<RouteMessage>, NetlinkError> {
        let label = Label {
            operation: "list",
            subject: "the routes".to_owned(),
        };
        let wanted = RouteNetlinkMessage::GetRoute(wanted);
        let entries = self.dump(wanted, label).await?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| match entry {
                RouteNetlinkMessage::NewRoute(route)
                    if !route.header.flags.contains(RouteFlags::Cloned) =>
                {
                    Some(route)
                }
                _ => None,
            })
            .collect())
    }
}

/// Adds a route in the main table through `link` (`EEXIST` if one with its metric is there).
pub fn add(link: u32, name: &str, route: &NewRoute) -> Request {
    let message = message_of(link, route);
    let subject = format!("to {} through {name}", route.to);
    let message = RouteNetlinkMessage::NewRoute(message);
    Request::new("add the route", subject, message).flags(NLM_F_CREATE | NLM_F_EXCL)
}

fn message_of(link: u32, route: &NewRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match route.to {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.to.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.via {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Oif(link));
    if route.to.prefix_len() > 0 {
        let to = RouteAddress::from(route.to.network());
        message.attributes.push(RouteAttribute::Destination(to));
    }
    if let Some(via) = route.via {
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    if route.metric > 0 {
        message
            .attributes
            .push(RouteAttribute::Priority(route.metric));
    }
    message
}

/// Adds a route that [`moved`] made, at `place`.
pub fn put(route: &RouteMessage, place: Place) -> Request {
    let flags = match place {
        Place::Only => NLM_F_CREATE | NLM_F_REPLACE,
        Place::First => NLM_F_CREATE,
        Place::Last => NLM_F_CREATE | NLM_F_APPEND,
    };
    let message = RouteNetlinkMessage::NewRoute(route.clone());
    Request::new("add the route", text(route), message).flags(flags)
}

/// Deletes exactly this route.
pub fn delete(route: &RouteMessage) -> Request {
    let mut message = route.clone();
    clear_state(&mut message);
    let message = RouteNetlinkMessage::DelRoute(message);
    Request::new("delete the route", text(route), message)
}

/// True when the route, or one of its next hops, leaves by the link with this index.
pub fn uses(route: &RouteMessage, link: u32) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(index) => *index == link,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == link),
        _ => false,
    })
}

/// The links that the route, or its next hops, leave by.
pub fn links(route: &RouteMessage) -> Vec<u32> {
    let attributes = route.attributes.iter();
    let links = attributes.flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    links.collect()
}

/// Destination, metric and link of an IPv4 route of the main table to what is on a link.
pub fn on_link(route: &RouteMessage) -> Option<(Ipv4Net, u32, u32)> {
    let header = &route.header;
    if header.kind != RouteType::Unicast || has_gateway(route) || is_multipath(route) {
        return None;
    }
    let (family, table, length, to, _, metric) = key(route);
    let Some(RouteAddress::Inet(to)) = to else {
        return None;
    };
    if family != AddressFamily::Inet || table != MAIN || length == 0 {
        return None;
    }
    let to = Ipv4Net::new(*to, length).ok()?;
    Some((to, metric, *links(route).first()?))
}

/// True for what the kernel makes by itself for each address and each IPv6 link: those entries
/// come and go with the address.
pub fn is_kernels_own(route: &RouteMessage) -> bool {
    let made_by_kernel = route.header.protocol == RouteProtocol::Kernel;
    let for_an_address = matches!(
        route.header.kind,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
    );
    made_by_kernel && (for_an_address || is_link_local(route))
}

/// True when the route needs another one, to its gateway, to exist before it.
pub fn has_gateway(route: &RouteMessage) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => true,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| !hop.attributes.is_empty()),
        _ => false,
    })
}

/// True for an IPv4 default route of the main table.
pub fn is_default(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.address_family == AddressFamily::Inet
        && header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

/// The gateway of such a route.
pub fn default_gateway(route: &RouteMessage) -> Option<std::net::Ipv4Addr> {
    if !is_default(route) {
        return None;
    }
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
            _ => None,
        })
}

/// True when both say the same of destination, table and metric: one hides the other.
pub fn same_key(a: &RouteMessage, b: &RouteMessage) -> bool {
    key(a) == key(b)
}

/// The table that a route is in.
pub fn table(route: &RouteMessage) -> u32 {
    let table = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    table.unwrap_or(route.header.table.into())
}

/// True for a route that spreads over several next hops.
pub fn is_multipath(route: &RouteMessage) -> bool {
    route
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::MultiPath(_)))
}

/// True when both are the same route, whatever the order in which it was written down and
/// however much of its lifetime is left.
pub fn same(a: &RouteMessage, b: &RouteMessage) -> bool {
    let (a, b) = (timeless(a), timeless(b));
    a.header == b.header
        && a.attributes.len() == b.attributes.len()
        && a.attributes
            .iter()
            .all(|attribute| b.attributes.contains(attribute))
}

/// The route with every use of the link `from` replaced by `to`, ready to be added.
pub fn moved(route: &RouteMessage, from: u32, to: u32) -> RouteMessage {
    let mut message = route.clone();
    let expires = lifetime(route);
    clear_state(&mut message);
    for attribute in &mut message.attributes {
        match attribute {
            RouteAttribute::Oif(index) if *index == from => *index = to,
            RouteAttribute::MultiPath(hops) => redirect(hops, from, to),
            _ => {}
        }
    }
    unite_hops(&mut message);
    message
        .attributes
        .extend(expires.map(RouteAttribute::Expires));
    message
}

/// Two equal IPv6 routes over two links are one route with two next hops to the kernel. Over the same link they are
/// one, and it refuses to have it twice.
fn unite_hops(message: &mut RouteMessage) {
    let hops = message.attributes.iter_mut().find_map(|it| match it {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(hops) = hops.filter(|hops| hops.len() > 1) else {
        return;
    };
    let mut different: Vec<RouteNextHop> = Vec::new();
    for hop in hops.drain(..) {
        if !different.contains(&hop) {
            different.push(hop);
        }
    }
    match <[RouteNextHop; 1]>::try_from(different) {
        Ok([only]) => {
            let is_hops = |it: &RouteAttribute| matches!(it, RouteAttribute::MultiPath(_));
            message.attributes.retain(|it| !is_hops(it));
            let link = RouteAttribute::Oif(only.interface_index);
            message.attributes.push(link);
            message.attributes.extend(only.attributes);
            if only.flags.contains(RouteNextHopFlags::Onlink) {
                message.header.flags |= RouteFlags::Onlink;
            }
        }
        Err(several) => *hops = several,
    }
}

/// True for a default route that the kernel has made of a router advertisement, where it gives such routes this
/// metric.
pub fn is_advertised(route: &RouteMessage, metric: u32) -> bool {
    let (family, _, length, _, _, its_metric) = key(route);
    family == AddressFamily::Inet6
        && length == 0
        && its_metric == metric
        && route.header.protocol == RouteProtocol::Ra
        && lifetime(route).is_some()
        && !is_multipath(route)
}

/// The route behind those of its metric: for as long as nothing better is there.
pub fn as_spare(mut route: RouteMessage) -> RouteMessage {
    for attribute in &mut route.attributes {
        if let RouteAttribute::Priority(metric) = attribute {
            *metric = metric.saturating_add(1);
        }
    }
    route
}

fn redirect(hops: &mut [RouteNextHop], from: u32, to: u32) {
    for hop in hops {
        // The kernel refuses its own state flags (dead, link down) when they come back to it.
        hop.flags &= RouteNextHopFlags::Onlink | RouteNextHopFlags::Pervasive;
        if hop.interface_index == from {
            hop.interface_index = to;
        }
    }
}

/// Takes away what the kernel reports but does not take: state flags, cache information, and the
/// id of a next-hop object (those belong to a device; its device and gateway are in the route).
fn clear_state(message: &mut RouteMessage) {
    message.header.flags &= RouteFlags::Onlink | RouteFlags::Pervasive;
    message.attributes.retain(|attribute| {
        !matches!(
            attribute,
            RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_) | RouteAttribute::NhId(_)
        )
    });
}

fn timeless(route: &RouteMessage) -> RouteMessage {
    let mut message = route.clone();
    clear_state(&mut message);
    message
}

/// Seconds that an IPv6 route (from a router advertisement) has left.
fn lifetime(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::CacheInfo(cache) if cache.expires != 0 => {
                Some((cache.expires / USER_HZ).max(1))
            }
            RouteAttribute::Expires(seconds) => Some(*seconds),
            _ => None,
        })
}

fn is_link_local(route: &RouteMessage) -> bool {
    destination(route).is_some_and(|to| match to {
        RouteAddress::Inet6(v6) => v6.is_unicast_link_local(),
        _ => false,
    })
}

fn destination(route: &RouteMessage) -> Option<&RouteAddress> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(to) => Some(to),
            _ => None,
        })
}

type Key<'a> = (AddressFamily, u32, u8, Option<&'a RouteAddress>, u8, u32);

fn key(route: &RouteMessage) -> Key<'_> {
    let metric = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    (
        route.header.address_family,
        table(route),
        route.header.destination_prefix_length,
        destination(route),
        route.header.tos,
        metric.unwrap_or(0),
    )
}

fn text(route: &RouteMessage) -> String {
    let prefix = route.header.destination_prefix_length;
    let (_, table, _, to, _, metric) = key(route);
    let to = match to {
        Some(RouteAddress::Inet(v4)) => format!("{v4}/{prefix}"),
        Some(RouteAddress::Inet6(v6)) => format!("{v6}/{prefix}"),
        _ => "default".to_owned(),
    };
    format!("{to} of table {table} with metric {metric}")
}

#[cfg(test)]
mod tests;
