//! What the kernel has of the bridges and their NICs, read once a call and handed on.
//!
//! A call may use a look for as long as it lasts. It takes no lock for that, for what is in a look is changed by
//! - network managers (addresses, default routes, the NIC), at any time: a lock of ours would keep nobody from it. Whoever acts on
//!   what is out of date is refused by the kernel, or mended by the next call;
//! - other calls, under the node's lock, when they make, mend or delete a bridge, and with it its record. What must not be taken
//!   for nobody's because its record came later than the look is compared with the records of that moment
//!   ([`Look::is_of_now`]), after it was listed.
//!
//! Not in a look is what every call changes: pods, their routes, neighbours, forwarding entries and ports. These are listed
//! when they are compared (`repair`).

use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;

use super::record::{self, Record};
use super::{Node, NodeError, NodeWanted, bridge, nic};
use crate::netlink::link::{Link, interface_index};
use crate::netlink::{Netlink, NetlinkError, address, route};

/// The bridges that are written down, and what is around them.
#[derive(Debug, Clone, Default)]
pub struct Look {
    pub(super) networks: Vec<Found>,
    /// Bridges of ours of which nothing is written down any more.
    pub(super) without_record: Vec<Link>,
    /// The node's default routes.
    pub(super) defaults: Vec<RouteMessage>,
    /// The links that these lead over, but the NICs with a bridge, and their addresses.
    pub(super) others: Vec<(Link, Vec<Ipv4Net>)>,
}

/// What is there of a bridge and its NIC.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) bridge: Option<Link>,
    pub(super) nic: Option<Link>,
    /// The addresses of the NIC, its primary first.
    pub(super) nets: Vec<Ipv4Net>,
    on_bridge: Vec<AddressMessage>,
}

impl Look {
    /// Reads it from the kernel.
    pub async fn take(netlink: &Netlink) -> Result<Self, NetlinkError> {
        let records = record::all();
        let bridges = netlink.bridges().await?;
        let mut networks = Vec::new();
        for record in &records {
            let bridge = bridges.iter().find(|link| link.name == record.bridge);
            networks.push(Found::look(netlink, record, bridge.cloned()).await?);
        }
        let is_lost = |link: &Link| {
            link.is_marked()
                && link.mac == Some(bridge::ROUTER_MAC)
                && records.iter().all(|record| record.bridge != link.name)
        };
        let defaults = netlink.default_routes()?;
        let mut others = Vec::new();
        let mut links: Vec<u32> = defaults.iter().flat_map(route::links).collect();
        links.sort_unstable();
        links.dedup();
        let nics = networks.iter().filter_map(|it| it.nic.as_ref());
        let served: Vec<u32> = nics.map(|nic| nic.index).collect();
        for index in links.into_iter().filter(|index| !served.contains(index)) {
            if let Some(link) = netlink.link_at(index).await? {
                let nets = nets_on(netlink, &link).await?;
                others.push((link, nets));
            }
        }
        Ok(Self {
            networks,
            without_record: bridges.into_iter().filter(is_lost).collect(),
            defaults,
            others,
        })
    }

    /// Whether the same bridges are written down now, and none was made anew.
    pub(super) fn is_of_now(&self) -> bool {
        let then = self.networks.iter().map(|it| &it.record);
        let is_same = |found: &Found| {
            let then = found.bridge.as_ref().map(|link| link.index);
            interface_index(&found.record.bridge).is_ok_and(|now| now == then)
        };
        record::all().iter().eq(then) && self.networks.iter().all(is_same)
    }

    /// The node's network for a new pod; `None` where anything of it is not as [`super::ensure`] would leave it.
    pub(super) async fn node(
        &self,
        netlink: &Netlink,
        wanted: &NodeWanted,
    ) -> Result<Option<Node>, NodeError> {
        for found in self.networks.iter().filter(|it| it.is_meant(wanted)) {
            let (Some(bridge), Some(nic)) = (&found.bridge, &found.nic) else {
                continue;
            };
            if !nic::is_meant(netlink, wanted, nic).await? {
                continue;
            }
            let mut addresses = found.nets.iter().map(Ipv4Net::addr);
            let primary = addresses.find(|address| wanted.subnet.contains(address));
            if let (Some(primary), Some(mac)) = (primary, nic.mac)
                && found.defects().is_empty()
            {
                return Ok(Some(Node {
                    nic: nic.clone(),
                    bridge: bridge.clone(),
                    mac,
                    primary,
                }));
            }
        }
        Ok(None)
    }
}

impl Found {
    pub(super) async fn look(
        netlink: &Netlink,
        record: &Record,
        bridge: Option<Link>,
    ) -> Result<Self, NetlinkError> {
        let nic = record.nic(netlink).await?;
        let on_bridge = match &bridge {
            Some(bridge) => netlink.addresses_on(bridge).await?,
            None => Vec::new(),
        };
        let nets = match &nic {
            Some(nic) => nets_on(netlink, nic).await?,
            None => Vec::new(),
        };
        Ok(Self {
            record: record.clone(),
            bridge,
            nic,
            nets,
            on_bridge,
        })
    }

    /// Whether the configuration may mean this NIC, by the name that it has or had.
    pub(super) fn is_meant(&self, wanted: &NodeWanted) -> bool {
        let is_called = |name: &String| {
            *name == self.record.nic || self.nic.as_ref().is_some_and(|nic| nic.name == *name)
        };
        wanted.master.as_ref().is_none_or(is_called)
    }

    /// What is not as it should be, one sentence each.
    pub(super) fn defects(&self) -> Vec<String> {
        match (&self.bridge, &self.nic) {
            (Some(bridge), Some(nic)) => bridge::defects(bridge, nic, &self.on_bridge),
            (bridge, nic) => {
                let Record {
                    bridge: bridge_name,
                    nic: nic_name,
                    ..
                } = &self.record;
                let no_bridge = bridge
                    .is_none()
                    .then(|| format!("the bridge {bridge_name} is gone"));
                let no_nic = nic.is_none().then(|| format!("the NIC {nic_name} is gone"));
                no_nic.into_iter().chain(no_bridge).collect()
            }
        }
    }
}

async fn nets_on(netlink: &Netlink, link: &Link) -> Result<Vec<Ipv4Net>, NetlinkError> {
    let addresses = netlink.addresses_on(link).await?;
    Ok(addresses.iter().filter_map(address::ipv4_net).collect())
}
