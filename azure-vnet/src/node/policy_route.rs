//! The way out of a NIC that does not have the node's default route. Azure takes from a NIC only what
//! has one of its own addresses, so whatever this node routes from the NIC's subnet (its own replies,
//! and pods' packets that netfilter has led to another address) has to leave by that NIC.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::RuleMessage;

use crate::netlink::link::Link;
use crate::netlink::route::{self, NewRoute, Place};
use crate::netlink::{Netlink, NetlinkError, address, gone_is_fine, rule};

/// Asked after the rules of whoever configures the node (cloud-init, networkd), before the main table.
const PRIORITY: u32 = 32_000;

/// The routes are in this table plus the index of the bridge, so that no two NICs share one.
const FIRST_TABLE: u32 = 0x617a_0000;

/// The part of a table's number that the index of the bridge is.
const INDEX: u32 = 0xffff;

/// Makes sure that what is from a subnet of `bridge` leaves by it. A bridge that has the node's default
/// route needs nothing, nor does a node without one.
pub async fn ensure(
    netlink: &Netlink,
    bridge: &Link,
    gateway: Option<Ipv4Addr>,
) -> Result<(), NetlinkError> {
    let routes = netlink.routes().await?;
    let default = routes.iter().find(|entry| {
        route::table(entry) == route::MAIN && route::default_gateway(entry).is_some()
    });
    if default.is_none_or(|entry| route::uses(entry, bridge.index)) {
        return remove(netlink, bridge.index).await;
    }
    let ours = table(bridge.index);
    let rules = netlink.rules(AddressFamily::Inet).await?;
    for source in sources(netlink, bridge).await? {
        let gateway = gateway.or_else(|| first_host(source.subnet));
        let Some(gateway) = gateway else { continue };
        for new in [to_subnet(source.subnet), default_by(gateway)] {
            let route = route::in_table(bridge.index, &new, ours);
            netlink.run(route::put(&route, Place::Only)).await?;
        }
        let (kept, stale): (Vec<&RuleMessage>, _) = rules
            .iter()
            .filter(|it| is_ours(rule::table(it)) && rule::is_from(it, source.net))
            .partition(|it| rule::table(it) == ours);
        if kept.is_empty() {
            let new = rule::from(source.net, ours, PRIORITY);
            netlink.run(rule::append(&new)).await?;
        }
        // Of a bridge that somebody deleted.
        for rule in stale {
            gone_is_fine(netlink.run(rule::delete(rule)).await)?;
        }
    }
    Ok(())
}

/// Takes away what was made for the bridge with this index.
pub async fn remove(netlink: &Netlink, bridge: u32) -> Result<(), NetlinkError> {
    let ours = table(bridge);
    let rules = netlink.rules(AddressFamily::Inet).await?;
    for rule in rules.iter().filter(|rule| rule::table(rule) == ours) {
        gone_is_fine(netlink.run(rule::delete(rule)).await)?;
    }
    let routes = netlink.routes().await?;
    for entry in routes.iter().filter(|entry| route::table(entry) == ours) {
        gone_is_fine(netlink.run(route::delete(entry)).await)?;
    }
    Ok(())
}

/// Whether a table is the way out of some bridge.
pub fn is_ours(table: u32) -> bool {
    table & !INDEX == FIRST_TABLE
}

fn table(bridge: u32) -> u32 {
    FIRST_TABLE | (bridge & INDEX)
}

/// What leaves by the bridge because of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    /// A whole subnet, pods and all; of a subnet that another NIC is in too, an address alone.
    net: Ipv4Net,
    /// The subnet that it is of.
    subnet: Ipv4Net,
}

async fn sources(netlink: &Netlink, bridge: &Link) -> Result<Vec<Source>, NetlinkError> {
    let addresses = netlink.ipv4_addresses().await?;
    let (here, elsewhere): (Vec<_>, Vec<_>) = addresses
        .iter()
        .filter_map(|entry| Some((entry.header.index, address::ipv4_net(entry)?)))
        .partition(|(index, _)| *index == bridge.index);
    let mut sources: Vec<Source> = here
        .into_iter()
        .map(|(_, address)| {
            let subnet = address.trunc();
            let mut others = elsewhere.iter();
            let net = if others.any(|(_, other)| subnet.contains(&other.addr())) {
                Ipv4Net::from(address.addr())
            } else {
                subnet
            };
            Source { net, subnet }
        })
        .collect();
    sources.sort();
    sources.dedup();
    Ok(sources)
}

/// Azure's gateway is the first host of the subnet.
fn first_host(subnet: Ipv4Net) -> Option<Ipv4Addr> {
    subnet.hosts().next().filter(|_| subnet.prefix_len() < 31)
}

fn to_subnet(subnet: Ipv4Net) -> NewRoute {
    NewRoute {
        to: IpNet::V4(subnet),
        via: None,
        onlink: false,
        metric: 0,
    }
}

fn default_by(gateway: Ipv4Addr) -> NewRoute {
    NewRoute {
        to: IpNet::V4(Ipv4Net::default()),
        via: Some(IpAddr::V4(gateway)),
        onlink: true,
        metric: 0,
    }
}
