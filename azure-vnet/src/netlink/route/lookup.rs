//! Asking the kernel which way a packet would take (`RTM_GETROUTE`): rules, routes and source checks decide as they would for the packet
//! itself, and nothing is sent.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::super::{Label, Netlink, NetlinkError};

/// A packet that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Its destination.
    pub to: Ipv4Addr,
    /// Its source and the index of the link that it comes in by; without them the node itself sends it.
    pub from: Option<(Ipv4Addr, u32)>,
}

/// What the kernel would do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// It leaves.
    Out {
        /// By the link of this index.
        link: u32,
        /// For this router; none where the destination is on the link.
        via: Option<Ipv4Addr>,
        /// What the node sends from.
        source: Option<Ipv4Addr>,
        /// The table that decided.
        table: u32,
    },
    /// The node takes it for its own.
    Local,
    /// It goes nowhere, for this reason.
    Nowhere(Errno),
}

impl Netlink {
    /// The way of a packet.
    pub async fn way_of(&self, packet: Packet) -> Result<Way, NetlinkError> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = AddressFamily::Inet;
        wanted.header.destination_prefix_length = 32;
        wanted.header.flags = RouteFlags::LookupTable;
        let address = |address: Ipv4Addr| RouteAddress::from(IpAddr::V4(address));
        wanted
            .attributes
            .push(RouteAttribute::Destination(address(packet.to)));
        if let Some((source, link)) = packet.from {
            wanted.header.source_prefix_length = 32;
            wanted
                .attributes
                .push(RouteAttribute::Source(address(source)));
            wanted.attributes.push(RouteAttribute::Iif(link));
        }
        let label = Label {
            operation: "look up the way",
            subject: format!("to {}", packet.to),
        };
        match self.get(RouteNetlinkMessage::GetRoute(wanted), label).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(found))) => Ok(read(&found)),
            // What `get` takes for "not there".
            Ok(_) => Ok(Way::Nowhere(Errno::SRCH)),
            Err(error) => match error.errno() {
                Some(errno) if matches!(error, NetlinkError::Refused { .. }) => {
                    Ok(Way::Nowhere(errno))
                }
                _ => Err(error),
            },
        }
    }
}

fn read(found: &RouteMessage) -> Way {
    let (mut link, mut via, mut source) = (None, None, None);
    for attribute in &found.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            _ => {}
        }
    }
    match (found.header.kind, link) {
        (RouteType::Unicast, Some(link)) => Way::Out {
            link,
            via,
            source,
            table: super::table(found),
        },
        (RouteType::Local | RouteType::Broadcast, _) => Way::Local,
        // As the kernel says it for a packet.
        (RouteType::BlackHole, _) => Way::Nowhere(Errno::INVAL),
        _ => Way::Nowhere(Errno::HOSTUNREACH),
    }
}
