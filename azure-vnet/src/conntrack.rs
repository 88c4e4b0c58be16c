//! Connection tracking's entries that must end: those of a pod that is gone would lead what a remote goes on sending to the next pod
//! with its address, which may be given away at once; those of an address that the NIC had would go on with it.
//!
//! Messages of `nfnetlink_conntrack.h`. The kernel may delete all entries of one address at a
//! time only from a version on that not every node has: so they are listed, and each is deleted as it was listed.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use rtnetlink::packet_core::NLM_F_ACK;
use rtnetlink::sys::Socket;

use crate::netlink::netfilter::{
    FAMILY, HEADER, NLMSG_ERROR, dump, find, message, messages, refusal, socket,
};

/// How many entries this namespace has; not there without connection tracking.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// So many entries are deleted before the kernel's answers are read, which have to fit into the socket's buffer.
const BATCH: usize = 64;

/// `NFNL_SUBSYS_CTNETLINK`, in the upper half of a message's type.
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_GET`.
const GET: u16 = SUBSYSTEM | 1;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = SUBSYSTEM | 2;

const AF_INET: u8 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
/// Of `CTA_FILTER`: which fields of a tuple are compared. A bit for each address, in the order of their attributes.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;

const NLA_F_NESTED: u16 = 1 << 15;

/// Where an address stands in an entry: a tuple, and one of its ends.
type Place = (u16, u16);

/// Who began it.
const BEGUN_BY: Place = (CTA_TUPLE_ORIG, CTA_IP_V4_SRC);
/// Whom it was sent to.
const SENT_TO: Place = (CTA_TUPLE_ORIG, CTA_IP_V4_DST);
/// Who answers, wherever it was sent to.
const ANSWERED_BY: Place = (CTA_TUPLE_REPLY, CTA_IP_V4_SRC);
/// Whom is answered: who began it, or whose address it was given.
const ANSWERED_TO: Place = (CTA_TUPLE_REPLY, CTA_IP_V4_DST);

/// Deletes what began at one of these addresses, or was answered from it: in the namespace of the calling thread. Without connection
/// tracking there is nothing.
pub fn forget(addresses: &[Ipv4Addr]) -> io::Result<()> {
    if addresses.is_empty() || is_empty() {
        return Ok(());
    }
    let socket = socket()?;
    for &address in addresses {
        for place in [BEGUN_BY, ANSWERED_BY] {
            delete(&socket, &list(&socket, place, address)?)?;
        }
    }
    Ok(())
}

/// A flow of TCP or UDP that began elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// IP protocol number.
    pub protocol: u8,
    /// Who began it.
    pub from: SocketAddrV4,
    /// Whom it was sent to.
    pub to: SocketAddrV4,
}

/// What was sent to this very address, and by nothing on the node translated to it.
pub fn inbound(to: Ipv4Addr) -> io::Result<Vec<Inbound>> {
    if is_empty() {
        return Ok(Vec::new());
    }
    let found = list(&socket()?, SENT_TO, to)?;
    let found = found
        .iter()
        .filter_map(|entry| flow(entry.get(HEADER + FAMILY..)?));
    Ok(found.collect())
}

fn flow(entry: &[u8]) -> Option<Inbound> {
    let ports = find(find(entry, CTA_TUPLE_ORIG)?, CTA_TUPLE_PROTO)?;
    let port = |kind| Some(u16::from_be_bytes(find(ports, kind)?.try_into().ok()?));
    Some(Inbound {
        protocol: *find(ports, CTA_PROTO_NUM)?.first()?,
        from: SocketAddrV4::new(at(entry, BEGUN_BY)?, port(CTA_PROTO_SRC_PORT)?),
        to: SocketAddrV4::new(at(entry, SENT_TO)?, port(CTA_PROTO_DST_PORT)?),
    })
}

/// Deletes what leaves with this address and did not begin there.
pub fn forget_translated(to: Ipv4Addr) -> io::Result<()> {
    if is_empty() {
        return Ok(());
    }
    let socket = socket()?;
    let mut found = list(&socket, ANSWERED_TO, to)?;
    found.retain(|entry| at(&entry[HEADER + FAMILY..], BEGUN_BY) != Some(to));
    delete(&socket, &found)
}

fn is_empty() -> bool {
    std::fs::read_to_string(COUNT).map_or(true, |count| count.trim() == "0")
}

/// Deletion messages for the entries that have this address at that place.
fn list(socket: &Socket, place: Place, address: Ipv4Addr) -> io::Result<Vec<Vec<u8>>> {
    let (tuple, end) = place;
    let wanted = nested(
        tuple,
        &nested(CTA_TUPLE_IP, &attribute(end, &address.octets())),
    );
    let flags = match tuple {
        CTA_TUPLE_ORIG => CTA_FILTER_ORIG_FLAGS,
        _ => CTA_FILTER_REPLY_FLAGS,
    };
    let flags = attribute(flags, &u32::from(end).to_ne_bytes());
    // Kernels before 5.8 do not know it and list all; what is asked for is looked at again below.
    let filter = nested(CTA_FILTER, &flags);
    let mut found = Vec::new();
    let asked = [wanted, filter].concat();
    dump(socket, (GET, AF_INET), &asked, |_, body| {
        let entry = body.get(FAMILY..);
        found.extend(entry.and_then(|it| deletion(it, place, address)));
    })?;
    Ok(found)
}

/// The address at a place of an entry.
fn at(entry: &[u8], (tuple, end): Place) -> Option<Ipv4Addr> {
    let addresses = find(find(entry, tuple)?, CTA_TUPLE_IP)?;
    let octets: [u8; 4] = find(addresses, end)?.try_into().ok()?;
    Some(octets.into())
}

/// The message that deletes an entry, if it has this address at that place.
fn deletion(entry: &[u8], place: Place, address: Ipv4Addr) -> Option<Vec<u8>> {
    if at(entry, place) != Some(address) {
        return None;
    }
    let mut named = nested(CTA_TUPLE_ORIG, find(entry, CTA_TUPLE_ORIG)?);
    for kind in [CTA_ID, CTA_ZONE] {
        named.extend(
            find(entry, kind)
                .map(|it| attribute(kind, it))
                .unwrap_or_default(),
        );
    }
    Some(message(DELETE, NLM_F_ACK, AF_INET, &named))
}

fn delete(socket: &Socket, messages: &[Vec<u8>]) -> io::Result<()> {
    let mut batches = messages.chunks(BATCH);
    batches.try_for_each(|batch| delete_batch(socket, batch))
}

fn delete_batch(socket: &Socket, batch: &[Vec<u8>]) -> io::Result<()> {
    socket.send(&batch.concat(), 0)?;
    let mut answers = 0;
    while answers < batch.len() {
        let (datagram, _) = socket.recv_from_full()?;
        for message in messages(&datagram) {
            let (kind, body) = message?;
            if kind == NLMSG_ERROR {
                answers += 1;
                let refusal = refusal(body);
                // It ended by itself meanwhile, and another flow may have its place.
                if !matches!(refusal.raw_os_error(), Some(0) | None)
                    && refusal.kind() != io::ErrorKind::NotFound
                {
                    return Err(refusal);
                }
            }
        }
    }
    Ok(())
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, value)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn tuple(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let addresses = [attribute(1, &source), attribute(2, &destination)].concat();
        let ports = [
            attribute(1, &[17]),
            attribute(2, &[1, 2]),
            attribute(3, &[0, 53]),
        ]
        .concat();
        [nested(CTA_TUPLE_IP, &addresses), nested(2, &ports)].concat()
    }

    fn entry() -> Vec<u8> {
        [
            nested(CTA_TUPLE_ORIG, &tuple([10, 0, 0, 5], [203, 0, 113, 10])),
            nested(CTA_TUPLE_REPLY, &tuple([203, 0, 113, 10], [10, 0, 0, 4])),
            attribute(3, &[0, 0, 1, 0x88]),
            attribute(CTA_ID, &[1, 2, 3, 4]),
            attribute(CTA_ZONE, &[0, 7]),
        ]
        .concat()
    }

    #[test]
    fn an_entry_is_deleted_as_it_was_listed() {
        let deletion = deletion(&entry(), BEGUN_BY, [10, 0, 0, 5].into()).unwrap();
        let (kind, body) = messages(&deletion).next().unwrap().unwrap();
        assert_eq!((kind, body[0]), (DELETE, AF_INET));
        let body = &body[FAMILY..];
        for kind in [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE] {
            assert_eq!(find(body, kind).unwrap(), find(&entry(), kind).unwrap());
        }
        assert_eq!(find(body, CTA_TUPLE_REPLY), None);
    }

    #[test]
    fn ports_are_read() {
        let flow = flow(&entry()).unwrap();
        assert_eq!(flow.protocol, 17);
        assert_eq!(flow.from, "10.0.0.5:258".parse().unwrap());
        assert_eq!(flow.to, "203.0.113.10:53".parse().unwrap());
    }

    #[test]
    fn what_is_of_others_is_left() {
        for (place, address) in [
            (BEGUN_BY, [10, 0, 0, 6]),
            (BEGUN_BY, [203, 0, 113, 10]),
            (ANSWERED_BY, [10, 0, 0, 5]),
            (ANSWERED_TO, [10, 0, 0, 5]),
        ] {
            assert_eq!(deletion(&entry(), place, address.into()), None);
        }
        assert!(deletion(&entry(), ANSWERED_TO, [10, 0, 0, 4].into()).is_some());
    }

    /// Whatever comes: an answer or an error, and an end.
    #[test]
    fn what_is_cut_off_is_noticed() {
        let answer = || message(GET, 0, AF_INET, &entry());
        let whole = [answer(), answer()].concat();
        for length in 0..whole.len() {
            let cut = &whole[..length];
            for message in messages(cut).flatten() {
                let _ = deletion(message.1, BEGUN_BY, [10, 0, 0, 5].into());
            }
            let is_whole = length == 0 || length == whole.len() / 2;
            assert_eq!(messages(cut).all(|it| it.is_ok()), is_whole, "{length}");
        }
        // A length of 0 would never end.
        let zeros = [0; 64];
        assert!(messages(&zeros).next().unwrap().is_err());
        assert_eq!(find(&zeros, CTA_ID), None);
    }
}
