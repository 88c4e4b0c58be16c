//! Traffic-control filters: reading which programs hang on a link, and taking them and what they hung on away.
//! Attaching them is aya's business.

use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::Link;
use super::{Label, Netlink, NetlinkError, Request};

/// Which side of a link a filter of the `clsact` queueing discipline looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Frames that come in from the link.
    Ingress,
    /// Frames that go out to the link.
    Egress,
}

/// What tells the filters of one side of a link apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Lower priorities are asked first.
    pub priority: u16,
    /// Distinguishes filters of one priority.
    pub handle: TcHandle,
}

impl Netlink {
    /// The filters on one side of a link; none if the link has no `clsact`.
    pub async fn filters(&self, link: &Link, side: Side) -> Result<Vec<Filter>, NetlinkError> {
        let label = Label {
            operation: "list the traffic-control filters of",
            subject: link.name.clone(),
        };
        let mut wanted = TcMessage::with_index(link.index.cast_signed());
        wanted.header.family = AddressFamily::Unspec;
        wanted.header.parent = parent(side);
        let entries = self
            .dump(RouteNetlinkMessage::GetTrafficFilter(wanted), label)
            .await?;
        Ok(entries.into_iter().filter_map(filter).collect())
    }

    /// Whether a link has the `clsact` queueing discipline.
    pub async fn has_clsact(&self, link: &Link) -> Result<bool, NetlinkError> {
        let label = Label {
            operation: "list the queueing disciplines of",
            subject: link.name.clone(),
        };
        let wanted = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let entries = self.dump(wanted, label).await?;
        // The kernel lists those of all links, whichever is asked for.
        Ok(entries.iter().any(|entry| {
            matches!(entry, RouteNetlinkMessage::NewQueueDiscipline(found)
                if found.header.index == link.index.cast_signed()
                    && found.attributes.contains(&clsact()))
        }))
    }
}

/// Deletes one filter on one side of a link.
pub fn delete(link: &Link, side: Side, filter: Filter) -> Request {
    let mut message = TcMessage::with_index(link.index.cast_signed());
    message.header.parent = parent(side);
    message.header.handle = filter.handle;
    // Without a protocol, the one that has this priority is meant.
    message.header.info = u32::from(filter.priority) << 16;
    let message = RouteNetlinkMessage::DelTrafficFilter(message);
    Request::new("delete a traffic-control filter of", &link.name, message)
}

/// Deletes the `clsact` queueing discipline of a link, with whatever hangs on it.
pub fn delete_clsact(link: &Link) -> Request {
    let mut message = TcMessage::with_index(link.index.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.attributes = vec![clsact()];
    let message = RouteNetlinkMessage::DelQueueDiscipline(message);
    Request::new("delete the clsact of", &link.name, message)
}

fn clsact() -> TcAttribute {
    TcAttribute::Kind("clsact".to_owned())
}

fn parent(side: Side) -> TcHandle {
    TcHandle {
        major: TcHandle::CLSACT.major,
        minor: match side {
            Side::Ingress => TcHandle::MIN_INGRESS,
            Side::Egress => TcHandle::MIN_EGRESS,
        },
    }
}

fn filter(message: RouteNetlinkMessage) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else {
        return None;
    };
    Some(Filter {
        // The upper half is the priority, the lower one the protocol (`TC_H_MAJ`, `TC_H_MIN`).
        priority: u16::try_from(message.header.info >> 16).unwrap_or_default(),
        handle: message.header.handle,
    })
}
