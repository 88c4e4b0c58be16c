//! Neighbour entries (IP to MAC) and forwarding entries of a bridge (MAC to port).

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::Link;
use super::{Label, MacAddress, Netlink, NetlinkError, Request};

/// Half a minute, in `USER_HZ`.
const RECENTLY: u32 = 3000;

impl Netlink {
    /// The IPv4 and IPv6 neighbours of all links whose MAC is known.
    pub async fn neighbours(&self) -> Result<Vec<NeighbourMessage>, NetlinkError> {
        let label = Label {
            operation: "list",
            subject: "the neighbours".to_owned(),
        };
        self.listed_neighbours(NeighbourMessage::default(), label)
            .await
    }

    /// The IPv4 neighbours of the link with this index whose MAC is known. Those of other links are not listed.
    pub async fn neighbours_on(&self, link: u32) -> Result<Vec<NeighbourMessage>, NetlinkError> {
        let label = Label {
            operation: "list",
            subject: format!("the neighbours on #{link}"),
        };
        let mut wanted = NeighbourMessage::default();
        wanted.header.family = AddressFamily::Inet;
        wanted.attributes = vec![NeighbourAttribute::IfIndex(link)];
        let mut listed = self.listed_neighbours(wanted, label).await?;
        listed.retain(|entry| entry.header.ifindex == link);
        Ok(listed)
    }

    async fn listed_neighbours(
        &self,
        wanted: NeighbourMessage,
        label: Label,
    ) -> Result<Vec<NeighbourMessage>, NetlinkError> {
        let wanted = RouteNetlinkMessage::GetNeighbour(wanted);
        let entries = self.dump(wanted, label).await?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| match entry {
                RouteNetlinkMessage::NewNeighbour(entry) if is_known(&entry) => Some(entry),
                _ => None,
            })
            .collect())
    }

    /// Whether the kernel asks for the MAC of `ip` on the link and gets no answer (`RTM_GETNEIGH` of one entry, Linux 5.0). A failure
    /// that nobody has tried to get over since says nothing of now.
    pub async fn is_silent(&self, link: u32, ip: Ipv4Addr) -> Result<bool, NetlinkError> {
        let label = Label {
            operation: "read the neighbour",
            subject: ip.to_string(),
        };
        let wanted = RouteNetlinkMessage::GetNeighbour(entry(link, ip.into()));
        let found = self.get(wanted, label).await?;
        let Some(RouteNetlinkMessage::NewNeighbour(entry)) = found else {
            return Ok(false);
        };
        let is_so = |it: &NeighbourAttribute| match (entry.header.state, it) {
            (NeighbourState::Failed, NeighbourAttribute::CacheInfo(it)) => it.updated < RECENTLY,
            // The first question may be on its way; the second comes a second later.
            (NeighbourState::Incomplete, NeighbourAttribute::Probes(asked)) => *asked > 1,
            _ => false,
        };
        Ok(entry.attributes.iter().any(is_so))
    }

    /// The port by which frames to `mac` leave the bridge for good; none where that was learnt, or is not known
    /// (`RTM_GETNEIGH` of `AF_BRIDGE`, Linux 5.0).
    pub async fn port_of(&self, bridge: u32, mac: MacAddress) -> Result<Option<u32>, NetlinkError> {
        let label = Label {
            operation: "read the forwarding entry",
            subject: mac.to_string(),
        };
        let mut wanted = NeighbourMessage::default();
        wanted.header.family = AddressFamily::Bridge;
        wanted.attributes = vec![
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
            NeighbourAttribute::Controller(bridge),
        ];
        let found = self
            .get(RouteNetlinkMessage::GetNeighbour(wanted), label)
            .await?;
        Ok(found.and_then(|found| match found {
            RouteNetlinkMessage::NewNeighbour(entry)
                if entry.header.state == NeighbourState::Noarp =>
            {
                Some(entry.header.ifindex)
            }
            _ => None,
        }))
    }
}

/// Lets `to` know a neighbour as well as the link it was read from does.
pub fn copy(neighbour: &NeighbourMessage, to: &Link) -> Request {
    let mut message = neighbour.clone();
    message.header.ifindex = to.index;
    message.attributes.retain(|attribute| {
        matches!(
            attribute,
            NeighbourAttribute::Destination(_) | NeighbourAttribute::LinkLayerAddress(_)
        )
    });
    let subject = format!("on {}", to.name);
    let message = RouteNetlinkMessage::NewNeighbour(message);
    Request::new("add a neighbour", subject, message).flags(NLM_F_CREATE | NLM_F_REPLACE)
}

/// Says for good that `ip` on the link has this MAC; an entry that is there is replaced.
pub fn set_permanent(link: u32, name: &str, ip: IpAddr, mac: MacAddress) -> Request {
    let mut message = entry(link, ip);
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let subject = format!("{ip} on {name}");
    let message = RouteNetlinkMessage::NewNeighbour(message);
    Request::new("add the neighbour", subject, message).flags(NLM_F_CREATE | NLM_F_REPLACE)
}

/// Deletes the entry of `ip` on the link.
pub fn delete(link: u32, name: &str, ip: IpAddr) -> Request {
    let subject = format!("{ip} from {name}");
    let message = RouteNetlinkMessage::DelNeighbour(entry(link, ip));
    Request::new("delete the neighbour", subject, message)
}

/// Whether this entry says for good that `ip` on the link has this MAC.
pub fn says(neighbour: &NeighbourMessage, link: u32, ip: IpAddr, mac: MacAddress) -> bool {
    let header = &neighbour.header;
    let address = match ip {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    let attributes = &neighbour.attributes;
    header.ifindex == link
        && header.state == NeighbourState::Permanent
        && attributes.contains(&NeighbourAttribute::Destination(address))
        && is_claim(neighbour, mac)
}

/// The IPv4 address that an entry is about.
pub fn ipv4(neighbour: &NeighbourMessage) -> Option<Ipv4Addr> {
    let mut addresses = neighbour.attributes.iter().filter_map(|it| match it {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    addresses.next()
}

/// Whether an entry is about this MAC.
pub fn is_claim(neighbour: &NeighbourMessage, mac: MacAddress) -> bool {
    let mac = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
    neighbour.attributes.contains(&mac)
}

/// Says for good that frames to `mac` leave the bridge by this port; an entry that is there is replaced. The
/// entry goes with the port.
pub fn set_forwarding(port: u32, name: &str, mac: MacAddress) -> Request {
    forwarding(port, name, mac).flags(NLM_F_CREATE | NLM_F_REPLACE)
}

/// Likewise, and fails where there is an entry.
pub fn add_forwarding(port: u32, name: &str, mac: MacAddress) -> Request {
    forwarding(port, name, mac).flags(NLM_F_CREATE | NLM_F_EXCL)
}

fn forwarding(port: u32, name: &str, mac: MacAddress) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    // Static: not aged out. Sticky (Linux 4.20): not moved to another port by a frame with this source, so
    // that a pod that takes its neighbour's MAC does not get its neighbour's frames.
    message.header.state = NeighbourState::Noarp;
    // The bridge's own table, not that of the port's driver.
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let subject = format!("{mac} at {name}");
    let message = RouteNetlinkMessage::NewNeighbour(message);
    Request::new("add the forwarding entry", subject, message)
}

/// Not among them: group addresses, whose MAC follows from the address (`NUD_NOARP`).
fn is_known(neighbour: &NeighbourMessage) -> bool {
    matches!(
        neighbour.header.family,
        AddressFamily::Inet | AddressFamily::Inet6
    ) && matches!(
        neighbour.header.state,
        NeighbourState::Permanent
            | NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
    )
}

fn entry(link: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = link;
    let (family, address) = match ip {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address));
    message
}
