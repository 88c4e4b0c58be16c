//! The routes that this plugin makes, as the kernel lists them: told from everybody else's by their protocol number.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};

use crate::netlink::route;

/// Of our own choice, as routing daemons have theirs (rtnetlink(7), `rtm_protocol`). `ip route` shows it as `proto 97`.
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(97);

/// Whether a route is one that this plugin made.
pub fn is_own_route(message: &RouteMessage) -> bool {
    message.header.protocol == PROTOCOL
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnRoute {
    /// Its table.
    pub table: u32,
    /// Where to.
    pub to: Ipv4Net,
    /// Its metric.
    pub metric: u32,
    /// Where packets go.
    pub way: Way,
}

/// What becomes of packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// They leave by this link, the node's own from this address.
    Link(u32, Option<Ipv4Addr>),
    /// They leave by this link for this router.
    Via(u32, Ipv4Addr),
    /// They are dropped, in silence.
    Blackhole,
}

impl OwnRoute {
    /// A route that the kernel lists; `None` where it is not ours.
    pub fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.protocol != PROTOCOL || header.address_family != AddressFamily::Inet {
            return None;
        }
        let (mut to, mut metric, mut link, mut source, mut via) = (None, 0, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(*address),
                RouteAttribute::Priority(value) => metric = *value,
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
                _ => {}
            }
        }
        let way = match (header.kind, link, via) {
            (RouteType::BlackHole, ..) => Way::Blackhole,
            (_, Some(link), Some(via)) => Way::Via(link, via),
            (_, Some(link), None) => Way::Link(link, source),
            (_, None, _) => return None,
        };
        let to = to.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Some(Self {
            table: route::table(message),
            to: Ipv4Net::new(to, header.destination_prefix_length).ok()?,
            metric,
            way,
        })
    }

    /// The address that it leads to, where that is one.
    pub fn pod(&self) -> Option<Ipv4Addr> {
        (self.to.prefix_len() == 32).then(|| self.to.addr())
    }

    /// The message that makes it.
    pub fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = AddressFamily::Inet;
        header.destination_prefix_length = self.to.prefix_len();
        header.table = RouteHeader::RT_TABLE_UNSPEC;
        header.protocol = PROTOCOL;
        header.kind = RouteType::Unicast;
        header.scope = RouteScope::Link;
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        attributes.push(RouteAttribute::Priority(self.metric));
        if self.to.prefix_len() > 0 {
            let to = IpAddr::V4(self.to.network());
            attributes.push(RouteAttribute::Destination(to.into()));
        }
        match self.way {
            Way::Link(link, source) => {
                attributes.push(RouteAttribute::Oif(link));
                let source = source.map(|it| RouteAttribute::PrefSource(IpAddr::V4(it).into()));
                attributes.extend(source);
            }
            Way::Via(link, via) => {
                header.scope = RouteScope::Universe;
                header.flags = RouteFlags::Onlink;
                attributes.push(RouteAttribute::Oif(link));
                attributes.push(RouteAttribute::Gateway(IpAddr::V4(via).into()));
            }
            Way::Blackhole => {
                header.scope = RouteScope::Universe;
                header.kind = RouteType::BlackHole;
            }
        }
        message
    }
}

impl fmt::Display for OwnRoute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table, to, metric, ..
        } = self;
        let kind = match self.way {
            Way::Blackhole => "blackhole ",
            Way::Link(..) | Way::Via(..) => "",
        };
        write!(formatter, "{kind}{to} metric {metric}")?;
        if *table != route::MAIN {
            write!(formatter, " table {table}")?;
        }
        Ok(())
    }
}
