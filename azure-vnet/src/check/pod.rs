//! The pod's side: its interface, with addresses and routes.

use std::net::IpAddr;

use azure_vnet_cni::reply::Route;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};

use super::Defects;
use super::expected::Expected;
use crate::netlink::link::Link;
use crate::netlink::{Netlink, NetlinkError, address};
use crate::plan::Plan;

/// Compares what is in the pod; returns its interface, if it has one.
pub async fn compare(
    pod: &Netlink,
    plan: &Plan,
    expected: &Expected<'_>,
    defects: &mut Defects,
) -> Result<Option<Link>, NetlinkError> {
    let name = &plan.veth.pod_name;
    let Some(interface) = pod.link(name).await? else {
        defects.unless(false, || format!("the pod has no interface {name}"));
        return Ok(None);
    };
    defects.unless(interface.is_up(), || format!("{name} in the pod is down"));
    if let Some(mac) = expected.mac {
        defects.unless(interface.mac == Some(mac), || {
            format!("{name} in the pod does not have the MAC {mac}")
        });
    }
    let present = pod.addresses_on(&interface).await?;
    for wanted in &plan.addresses {
        let found = present.iter().any(|entry| {
            entry.header.prefix_len == wanted.prefix_len()
                && address::ip(entry) == Some(wanted.addr())
        });
        defects.unless(found, || {
            format!("{name} in the pod does not have {wanted}")
        });
    }
    let present = pod.routes().await?;
    // Only what prevResult lists: another plugin may have taken a default route of ours away.
    for wanted in expected.routes.iter().filter(|route| is_plain(route)) {
        defects.unless(present.iter().any(|entry| is_route(entry, wanted)), || {
            let via = wanted.gw.map(|gw| format!(" via {gw}"));
            format!(
                "the pod has no route to {}{}",
                wanted.dst,
                via.unwrap_or_default()
            )
        });
    }
    Ok(Some(interface))
}

/// A route of the main table, as all of ours are.
fn is_plain(route: &Route) -> bool {
    let main = u64::from(RouteHeader::RT_TABLE_MAIN);
    let table = route.other.get("table").and_then(serde_json::Value::as_u64);
    table.is_none_or(|table| table == main || table == 0)
}

/// Whether the kernel's entry is the listed route. Its metric is left open: where another plugin
/// made the same route before, ours is the spare.
fn is_route(entry: &RouteMessage, wanted: &Route) -> bool {
    let (mut to, mut via) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            _ => {}
        }
    }
    let family = if wanted.dst.addr().is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let network = wanted.dst.network();
    let header = &entry.header;
    header.address_family == family
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.destination_prefix_length == wanted.dst.prefix_len()
        && to.is_none_or(|to| to == network)
        && wanted.gw.is_none_or(|gateway| via == Some(gateway))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn listed(dst: &str, gw: Option<&str>) -> Route {
        Route::new(dst.parse().unwrap(), gw.map(|gw| gw.parse().unwrap()))
    }

    fn entry(prefix: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut entry = RouteMessage::default();
        entry.header.address_family = AddressFamily::Inet;
        entry.header.table = RouteHeader::RT_TABLE_MAIN;
        entry.header.destination_prefix_length = prefix;
        entry.attributes = attributes;
        entry
    }

    fn gateway(last: u8) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, last].into()))
    }

    #[test]
    fn destination_and_gateway_make_a_route() {
        let default = entry(0, vec![gateway(1), RouteAttribute::Priority(1024)]);
        assert!(is_route(&default, &listed("0.0.0.0/0", Some("10.0.0.1"))));
        assert!(is_route(&default, &listed("0.0.0.0/0", None)));
        assert!(!is_route(&default, &listed("0.0.0.0/0", Some("10.0.0.2"))));
        assert!(!is_route(&default, &listed("::/0", None)));
        assert!(!is_route(&default, &listed("10.0.0.0/8", None)));
        let ten = RouteAttribute::Destination(RouteAddress::Inet([10, 0, 0, 0].into()));
        let ten = entry(8, vec![ten, gateway(1)]);
        assert!(is_route(&ten, &listed("10.9.9.9/8", Some("10.0.0.1"))));
        assert!(!is_route(&ten, &listed("11.0.0.0/8", None)));
    }

    #[test]
    fn routes_of_other_tables_are_not_ours() {
        let mut route = listed("0.0.0.0/0", None);
        assert!(is_plain(&route));
        route.other.insert("table".into(), 254.into());
        assert!(is_plain(&route));
        route.other.insert("table".into(), 100.into());
        assert!(!is_plain(&route));
    }
}
