//! Neighbour entries (IP to MAC) and forwarding entries of a bridge (MAC to port).

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{MacAddress, Request};

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
    // Static: neither aged out nor learnt anew by a frame with this source on another port.
    message.header.state = NeighbourState::Noarp;
    // The bridge's own table, not that of the port's driver.
    message.header.flags = NeighbourFlags::Controller;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let subject = format!("{mac} at {name}");
    let message = RouteNetlinkMessage::NewNeighbour(message);
    Request::new("add the forwarding entry", subject, message)
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
