//! The default routes of the main table, without a look at the others: the kernel lists the routes of a table by their
//! destination, and makes each part of the list when that is read. The part with the default routes is the first; whoever
//! reads no further costs nothing more, however many routes others have.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{Label, Netlink, NetlinkError, route};

/// The kernel answers a dump in the caller's own time.
const LIMIT: Duration = Duration::from_secs(5);

impl Netlink {
    /// The IPv4 default routes of the main table, in the namespace of the calling thread, which has to be this connection's.
    ///
    /// On a socket of its own, which is closed before the list is at its end.
    pub fn default_routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        self.count();
        first_of_main().map_err(|cause| {
            let label = Label {
                operation: "list",
                subject: "the default routes".to_owned(),
            };
            NetlinkError::failed(&label, cause)
        })
    }
}

fn first_of_main() -> io::Result<Vec<RouteMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Without it (before Linux 4.20) all tables are listed, one after the other.
    let is_filtered = socket.set_netlink_get_strict_chk(true).is_ok();
    set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;

    let mut wanted = RouteMessage::default();
    wanted.header.address_family = AddressFamily::Inet;
    wanted.header.table = RouteHeader::RT_TABLE_MAIN;
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(wanted));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut found = Vec::new();
    loop {
        let (part, _) = socket.recv_from_full()?;
        if read(&part, is_filtered, &mut found)? {
            return Ok(found);
        }
    }
}

/// Reads one part; says whether what follows is of no interest.
fn read(mut part: &[u8], is_filtered: bool, found: &mut Vec<RouteMessage>) -> io::Result<bool> {
    while !part.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(part)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(entry)) => {
                if route::is_default(&entry) {
                    found.push(entry);
                } else if is_filtered && is_behind(&entry) {
                    return Ok(true);
                }
            }
            NetlinkPayload::Done(_) => return Ok(true),
            // A namespace without a route has no main table.
            NetlinkPayload::Error(refusal)
                if refusal.to_io().raw_os_error() == Some(Errno::NOENT.raw_os_error()) =>
            {
                return Ok(true);
            }
            NetlinkPayload::Error(refusal) => return Err(refusal.to_io()),
            _ => {}
        }
        let length = (message.header.length as usize).next_multiple_of(4);
        part = part.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// Whether a route comes after all default routes.
fn is_behind(entry: &RouteMessage) -> bool {
    entry.attributes.iter().any(|it| match it {
        RouteAttribute::Destination(RouteAddress::Inet(to)) => !to.is_unspecified(),
        _ => false,
    })
}
