//! Which NIC has which address: what the datapath of each bridge is told of its own NIC and of the others.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::record::Record;
use crate::datapath::{Addresses, Elsewhere, Nics};
use crate::netlink::link::Link;
use crate::netlink::{Netlink, NetlinkError, route};

/// The NICs of all bridges. Another link is a way to the fabric where it has a bridge of ours or a default route.
pub async fn addresses(netlink: &Netlink, records: &[Record]) -> Result<Addresses, NetlinkError> {
    let links = netlink.links().await?;
    let addresses = netlink.ipv4_nets().await?;
    let served: Vec<(&Record, &Link)> = records
        .iter()
        .filter_map(|record| Some((record, record.nic_among(&links)?)))
        .collect();
    let outward = outward(netlink, &served, &links).await?;
    let nics = served.into_iter().map(|(record, nic)| {
        let others = links.iter().filter(|it| outward.contains(&it.index));
        let nics = nics(nic, others, &addresses);
        (record.bridge.clone(), nics)
    });
    Ok(nics.collect())
}

fn nics<'a>(
    nic: &Link,
    others: impl Iterator<Item = &'a Link>,
    addresses: &[(u32, Ipv4Net)],
) -> Nics {
    let on = |link: &Link| -> Vec<Ipv4Net> {
        let here = addresses.iter().filter(|(index, _)| *index == link.index);
        here.map(|(_, net)| *net).collect()
    };
    let own = on(nic);
    let mut elsewhere = Vec::new();
    for link in others {
        let Some(mac) = link.mac else { continue };
        for net in on(link) {
            if own.iter().all(|it| it.addr() != net.addr()) {
                elsewhere.push(Elsewhere {
                    address: net.addr(),
                    nic: link.name.clone(),
                    ifindex: link.index,
                    mac,
                });
            }
        }
    }
    Nics {
        name: nic.name.clone(),
        addresses: own,
        elsewhere,
    }
}

/// The links to the fabric, by their indexes.
async fn outward(
    netlink: &Netlink,
    served: &[(&Record, &Link)],
    links: &[Link],
) -> Result<BTreeSet<u32>, NetlinkError> {
    let mut outward: BTreeSet<u32> = served.iter().map(|(_, nic)| nic.index).collect();
    // There are as many routes as pods, and most nodes have no other link that may be one.
    let may_be = |link: &&Link| {
        link.mac.is_some() && link.master.is_none() && !link.is_bridge() && !link.is_loopback()
    };
    let mut others = links.iter().filter(may_be);
    if others.any(|link| !outward.contains(&link.index)) {
        let routes = netlink.ipv4_routes().await?;
        let defaults = routes.iter().filter(|entry| route::is_default(entry));
        outward.extend(defaults.flat_map(route::links));
    }
    Ok(outward)
}
