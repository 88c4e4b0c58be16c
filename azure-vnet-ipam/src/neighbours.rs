//! The neighbour entries that somebody has set, by one netlink dump, and where a bridge forwards, by one request for each MAC
//! (rtnetlink(7), `RTM_GETNEIGH`): a bridge's whole table is as long as others make it.
//!
//! `/proc/net/arp` says the same. But there the kernel begins anew for every page, and its neighbour table is one for all
//! network namespaces: half a millisecond of an ADD beside 200 pods.

use std::{io, net::Ipv4Addr, time::Duration};

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::mac::Mac;

/// The kernel answers at once; this is for one that does not.
const LIMIT: Duration = Duration::from_secs(5);

/// The most that the kernel puts into one part of a dump.
const PART: usize = 32 << 10;

/// `struct nlmsghdr` and `struct ndmsg`, in bytes.
const MESSAGE_HEADER: usize = 16;
const NEIGHBOUR_HEADER: usize = 12;

/// `NLM_F_REQUEST` and `NLM_F_DUMP` of `linux/netlink.h`, `AF_INET` and `AF_BRIDGE`, in the width they have in a message.
const REQUEST: u16 = 0x0001;
const DUMP: u16 = 0x0300;
const IPV4: u8 = 2;
const BRIDGE: u8 = 7;
/// Of `linux/neighbour.h`: the bridge that is asked.
const NDA_MASTER: u16 = 9;

/// A neighbour that was set, not learnt.
#[derive(Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub address: Ipv4Addr,
    pub mac: Mac,
    /// Index of the link that it is behind.
    pub link: u32,
}

/// A socket of this network namespace.
pub struct Neighbours(OwnedFd);

impl Neighbours {
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
        Ok(Self(socket))
    }

    /// All that are permanent, of IPv4.
    pub fn permanent(&self) -> io::Result<Vec<Neighbour>> {
        send(&self.0, &request(DUMP, IPV4, &[]), SendFlags::empty())?;
        let mut part = vec![0; PART];
        let mut neighbours = Vec::new();
        loop {
            let (length, _) = recv(&self.0, &mut part[..], RecvFlags::empty())?;
            let received = part.get(..length).unwrap_or_default();
            if received.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if collect(received, &mut neighbours)? {
                return Ok(neighbours);
            }
        }
    }

    /// Whether a bridge knows the way to a MAC (Linux 5.0).
    pub fn is_forwarded(&self, bridge: u32, mac: Mac) -> io::Result<bool> {
        let master = attribute(NDA_MASTER, &bridge.to_ne_bytes());
        let wanted = [attribute(libc::NDA_LLADDR, &mac.octets()), master].concat();
        send(&self.0, &request(0, BRIDGE, &wanted), SendFlags::empty())?;
        let mut answer = vec![0; PART];
        let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        match collect(answer.get(..length).unwrap_or_default(), &mut Vec::new()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            answer => answer.map(|_| true),
        }
    }
}

fn request(flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = MESSAGE_HEADER + NEIGHBOUR_HEADER + attributes.len();
    let mut request = vec![0; MESSAGE_HEADER + NEIGHBOUR_HEADER];
    // A few attributes of a few bytes.
    let length = u32::try_from(length).unwrap_or_default();
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETNEIGH.to_ne_bytes());
    request[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
    request[MESSAGE_HEADER] = family;
    request.extend(attributes);
    request
}

/// `struct rtattr`, with what follows it aligned.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    let mut attribute = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Takes what one part of the dump has; whether it was the last.
fn collect(mut part: &[u8], neighbours: &mut Vec<Neighbour>) -> io::Result<bool> {
    while let Some((header, rest)) = part.split_at_checked(MESSAGE_HEADER) {
        let length = u32_at(header, 0).unwrap_or_default() as usize;
        let body = length.checked_sub(MESSAGE_HEADER);
        let Some(body) = body.and_then(|length| rest.get(..length)) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match u16_at(header, 4).map(i32::from) {
            Some(libc::NLMSG_DONE) => return Ok(true),
            Some(libc::NLMSG_ERROR) => {
                let errno = u32_at(body, 0).unwrap_or_default().cast_signed();
                return Err(io::Error::from_raw_os_error(-errno));
            }
            _ => neighbours.extend(neighbour(body)),
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A neighbour that is permanent and whose MAC is known.
fn neighbour(message: &[u8]) -> Option<Neighbour> {
    let (header, mut attributes) = message.split_at_checked(NEIGHBOUR_HEADER)?;
    if u16_at(header, 8)? & libc::NUD_PERMANENT == 0 {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length)?;
        match kind {
            libc::NDA_DST => address = <[u8; 4]>::try_from(value).ok(),
            libc::NDA_LLADDR => mac = <[u8; 6]>::try_from(value).ok(),
            _ => {}
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Some(Neighbour {
        address: address?.into(),
        mac: mac?.into(),
        link: u32_at(header, 4)?,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const LEARNT: u16 = 0x02; // NUD_REACHABLE

    fn message(kind: i32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(MESSAGE_HEADER + body.len()).unwrap();
        let kind = u16::try_from(kind).unwrap();
        let mut message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn entry(state: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let header = [&[2, 0, 0, 0, 7, 0, 0, 0][..], &state.to_ne_bytes(), &[0; 2]].concat();
        let body = [header, attributes.concat()].concat();
        message(i32::from(libc::RTM_NEWNEIGH), &body)
    }

    fn address(last: u8) -> Vec<u8> {
        attribute(libc::NDA_DST, &[10, 0, 0, last])
    }

    fn mac(last: u8) -> Vec<u8> {
        attribute(libc::NDA_LLADDR, &[0x0a, 0x58, 10, 0, 0, last])
    }

    fn of_pod(last: u8) -> Neighbour {
        let address = Ipv4Addr::new(10, 0, 0, last);
        Neighbour {
            address,
            mac: Mac::of_pod(address),
            link: 7,
        }
    }

    #[test]
    fn only_permanent_neighbours_with_a_mac_count() {
        let other = attribute(libc::NDA_CACHEINFO, &[0; 16]);
        let part = [
            entry(LEARNT, &[address(1), mac(1)]),
            entry(libc::NUD_PERMANENT, &[mac(5), other, address(5)]),
            entry(libc::NUD_PERMANENT, &[address(6)]),
            entry(libc::NUD_PERMANENT, &[address(7), mac(7)]),
        ];
        let mut found = Vec::new();
        assert!(!collect(&part.concat(), &mut found).unwrap());
        assert!(collect(&message(libc::NLMSG_DONE, &[0; 4]), &mut found).unwrap());
        assert_eq!(found, [of_pod(5), of_pod(7)]);
    }

    #[test]
    fn a_refusal_is_an_error_and_so_is_what_is_cut_off() {
        let refusal = message(libc::NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        let error = collect(&refusal, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));

        let whole = entry(libc::NUD_PERMANENT, &[address(5), mac(5)]);
        for length in MESSAGE_HEADER..whole.len() - 2 {
            let cut = whole.get(..length).unwrap();
            assert!(collect(cut, &mut Vec::new()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn the_kernel_answers() {
        let neighbours = Neighbours::open().unwrap();
        neighbours.permanent().unwrap();
        // The loopback link is no bridge.
        let mac = Mac::of_pod(Ipv4Addr::new(10, 0, 0, 5));
        assert!(neighbours.is_forwarded(1, mac).is_err());
    }
}
