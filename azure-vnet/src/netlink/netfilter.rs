//! Netfilter's netlink (`linux/netfilter/nfnetlink.h`): what connection tracking and nftables are asked by. No kept crate has their
//! messages; a kind is a subsystem in the upper half and what it is to do in the lower.
//!
//! Blocking, and of the calling thread's namespace: the kernel answers in the caller's own time.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// Bytes of `struct nfgenmsg`, before the attributes: the family is the first.
pub const FAMILY: usize = 4;
/// The kind of an answer that says how a request ended.
pub const NLMSG_ERROR: u16 = 2;

const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
const NLMSG_DONE: u16 = 3;

/// A socket that waits for no answer longer than some seconds.
pub fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
    Ok(socket)
}

/// A request.
pub fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + FAMILY + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence and port: the socket is asked one thing at a time.
    bytes.extend([0; 8]);
    // Version 0, no resource.
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// Asks for a list, and hands the kind and the body of each of its messages on.
pub fn dump(
    socket: &Socket,
    (kind, family): (u16, u8),
    attributes: &[u8],
    mut each: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    socket.send(&message(kind, NLM_F_DUMP, family, attributes), 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in messages(&datagram) {
            match message? {
                (NLMSG_DONE, _) => return Ok(()),
                (NLMSG_ERROR, body) => return Err(refusal(body)),
                (kind, body) => each(kind, body),
            }
        }
    }
}

/// The messages of a datagram: kind and body. One that is cut off is an error.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = io::Result<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let length = u32_at(datagram, 0).map(|length| length as usize);
        let kind = datagram
            .get(4..6)
            .map(|it| u16::from_ne_bytes([it[0], it[1]]));
        let body = length.and_then(|length| datagram.get(HEADER..length));
        let (Some(length), Some(kind), Some(body)) = (length, kind, body) else {
            datagram = &[];
            return Some(Err(io::ErrorKind::InvalidData.into()));
        };
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(Ok((kind, body)))
    })
}

/// What the kernel says of a request; number 0 is that it did it.
pub fn refusal(body: &[u8]) -> io::Error {
    u32_at(body, 0).map_or_else(
        || io::ErrorKind::InvalidData.into(),
        |errno| io::Error::from_raw_os_error(errno.cast_signed().wrapping_neg()),
    )
}

/// The value of the first attribute of this kind, whether it is marked as nested or not.
pub fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// Of the kind, without its marks.
    const NLA_TYPE: u16 = 0x3fff;
    loop {
        let header = attributes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}
