//! Azure's DHCP: 168.63.129.16 gives a NIC its primary address, for ever, with two host routes and an option of its own (245).
//!
//! A test may let leases end, give another address, or say nothing for a while.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::Socket;

use crate::address_plan::{FABRIC_MAC, IMDS, Nic, WIRESERVER};
use crate::icmp::internet_checksum;
use crate::namespace::Namespace;
use crate::packet_socket;
use crate::service::Service;

/// How long a lease of Azure's lasts: it does not end.
pub const FOR_EVER: u32 = u32::MAX;
/// The domain that a lease names.
pub const DOMAIN: &str = "azure-vnet.example";

/// A server at the fabric's end of one NIC's link.
#[derive(Debug)]
pub struct Server {
    terms: Arc<Mutex<Terms>>,
    acknowledged: Arc<AtomicUsize>,
    _service: Service,
    /// Takes what is sent to the server's address, so that the kernel does not refuse it; we read from the link.
    _port: UdpSocket,
}

/// What is given.
#[derive(Clone, Debug)]
struct Terms {
    nic: Nic,
    seconds: u32,
    silent: bool,
}

impl Server {
    /// Serves the NIC behind this link of the fabric, with leases of so many seconds.
    pub fn start(fabric: &Namespace, link: &str, nic: &Nic, seconds: u32) -> io::Result<Self> {
        // Before the fabric's filter drops what has no source yet: only a socket for all protocols stands before it.
        let every = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        let (socket, port) = fabric.run(|| {
            let port = UdpSocket::bind((WIRESERVER, SERVER_PORT))?;
            io::Result::Ok((packet_socket::open(link, every)?, port))
        })??;
        let terms = Arc::new(Mutex::new(Terms {
            nic: nic.clone(),
            seconds,
            silent: false,
        }));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (given, counted) = (Arc::clone(&terms), Arc::clone(&acknowledged));
        let service = Service::start(vec![socket], move |socket| {
            let terms = given.lock().unwrap_or_else(PoisonError::into_inner);
            serve(socket, &terms, &counted);
        })?;
        Ok(Self {
            terms,
            acknowledged,
            _service: service,
            _port: port,
        })
    }

    /// Gives this address from now on, and refuses the one before.
    pub fn give(&self, primary: Ipv4Addr) {
        self.change(|terms| terms.nic.primary = primary);
    }

    /// Whether nobody is answered.
    pub fn be_silent(&self, silent: bool) {
        self.change(|terms| terms.silent = silent);
    }

    /// How many leases were given or prolonged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Terms)) {
        change(&mut self.terms.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const UDP: u8 = 17;

/// Kinds of messages: RFC 2132, section 9.6.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Options: RFC 2132.
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_KIND: u8 = 53;

/// Reads one frame and answers it if it asks for a lease.
fn serve(mut socket: &Socket, terms: &Terms, acknowledged: &AtomicUsize) {
    let mut frame = [0; 2048];
    let Ok(length) = socket.read(&mut frame) else {
        return;
    };
    let Some(request) = Request::parse(&frame[..length]).filter(|_| !terms.silent) else {
        return;
    };
    let kind = match request.kind {
        DISCOVER => OFFER,
        REQUEST if request.wanted() == terms.nic.primary => ACK,
        REQUEST => NAK,
        _ => return,
    };
    // A client that hears nothing asks again.
    if socket.send(&reply(&request, kind, terms)).is_ok() && kind == ACK {
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    kind: u8,
    transaction: [u8; 4],
    flags: [u8; 2],
    /// The address that it has already.
    own: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    /// Its MAC address, in a field of 16 bytes.
    hardware: [u8; 16],
}

impl Request {
    /// Out of a frame, if that is one.
    fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let datagram = packet.get(header..).filter(|_| packet[9] == UDP)?;
        let message = datagram.get(8..)?;
        if datagram[2..4] != SERVER_PORT.to_be_bytes() || *message.first()? != 1 {
            return None;
        }
        let options = message.get(240..)?;
        Some(Self {
            kind: *option(options, MESSAGE_KIND)?.first()?,
            transaction: message[4..8].try_into().ok()?,
            flags: message[10..12].try_into().ok()?,
            own: address(&message[12..16])?,
            requested: option(options, REQUESTED_ADDRESS).and_then(address),
            hardware: message[28..44].try_into().ok()?,
        })
    }

    fn wanted(&self) -> Ipv4Addr {
        self.requested.unwrap_or(self.own)
    }
}

/// The value of an option. Those of one byte, padding and the end, are not looked for.
fn option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match *options {
            [0, ref rest @ ..] => options = rest,
            [code, length, ref rest @ ..] if code != 255 => {
                let (value, others) = rest.split_at_checked(usize::from(length))?;
                if code == wanted {
                    return Some(value);
                }
                options = others;
            }
            _ => return None,
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes).ok()?.into())
}

/// A whole frame, as the fabric sends it.
fn reply(request: &Request, kind: u8, terms: &Terms) -> Vec<u8> {
    let wants_broadcast = kind == NAK || request.flags[0] & 0x80 != 0;
    let (to, mac) = if request.own != Ipv4Addr::UNSPECIFIED && kind != NAK {
        (request.own, &request.hardware[..6])
    } else if wants_broadcast {
        (Ipv4Addr::BROADCAST, &[0xff; 6][..])
    } else {
        (terms.nic.primary, &request.hardware[..6])
    };
    let message = message(request, kind, terms);

    let mut datagram = [SERVER_PORT, CLIENT_PORT].map(u16::to_be_bytes).concat();
    datagram.extend(length(8 + message.len()));
    // Without a checksum, which IPv4 permits.
    datagram.extend([0, 0]);
    datagram.extend(message);

    let mut packet = vec![0x45, 0];
    packet.extend(length(20 + datagram.len()));
    packet.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    packet.extend(WIRESERVER.octets());
    packet.extend(to.octets());
    let checksum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(datagram);

    [mac, &FABRIC_MAC.0, &[8, 0], &packet].concat()
}

fn message(request: &Request, kind: u8, terms: &Terms) -> Vec<u8> {
    let Terms { nic, seconds, .. } = terms;
    let given = if kind == NAK {
        Ipv4Addr::UNSPECIFIED
    } else {
        nic.primary
    };
    let mut message = vec![2, 1, 6, 0];
    message.extend(request.transaction);
    message.extend([0, 0]);
    message.extend(request.flags);
    message.extend(request.own.octets());
    message.extend(given.octets());
    message.extend(WIRESERVER.octets());
    message.extend([0; 4]);
    message.extend(request.hardware);
    message.extend([0; 192]);
    message.extend([0x63, 0x82, 0x53, 0x63]);

    let mut add = |code: u8, value: &[u8]| {
        message.push(code);
        message.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        message.extend(value);
    };
    add(MESSAGE_KIND, &[kind]);
    add(54, &WIRESERVER.octets());
    if kind != NAK {
        let gateway = nic.gateway();
        add(51, &seconds.to_be_bytes());
        add(1, &nic.subnet.netmask().octets());
        add(3, &gateway.octets());
        add(6, &WIRESERVER.octets());
        add(15, DOMAIN.as_bytes());
        add(121, &classless_routes(gateway));
        add(245, &WIRESERVER.octets());
    }
    message.push(255);
    message
}

/// The default route and one for each platform address: RFC 3442.
fn classless_routes(gateway: Ipv4Addr) -> Vec<u8> {
    let host = |address: Ipv4Addr| [&[32], &address.octets()[..], &gateway.octets()].concat();
    [&[0], &gateway.octets()[..], &host(WIRESERVER), &host(IMDS)].concat()
}

/// Nothing here is longer than a frame.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// What networkd sends to begin with, but for options that nobody reads here.
    fn discover() -> Vec<u8> {
        let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
        message.extend([0; 16]);
        message.extend([2, 0, 0, 0, 0, 9]);
        message.extend([0; 202]);
        message.extend([
            0x63, 0x82, 0x53, 0x63, 53, 1, DISCOVER, 0, 50, 4, 10, 0, 0, 4, 255,
        ]);
        let mut frame = vec![0xff; 12];
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0]);
        frame.extend([0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67, 0, 0, 0, 0]);
        frame.extend(message);
        frame
    }

    #[test]
    fn a_client_is_offered_the_primary_address() {
        let request = Request::parse(&discover()).unwrap();
        assert_eq!(
            (request.kind, request.transaction),
            (DISCOVER, [1, 2, 3, 4])
        );
        assert_eq!(request.requested, Some(Ipv4Addr::new(10, 0, 0, 4)));

        let nic = Nic::of_vm(0, 1);
        let terms = Terms {
            nic,
            seconds: FOR_EVER,
            silent: false,
        };
        let frame = reply(&request, OFFER, &terms);
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 9]);
        assert_eq!(internet_checksum(&frame[14..34]), 0);
        assert_eq!(frame[30..34], [10, 0, 0, 4]);
        let options = &frame[14 + 20 + 8 + 240..];
        assert_eq!(option(options, 51), Some(&[0xff; 4][..]));
        assert_eq!(option(options, 1), Some(&[255, 255, 240, 0][..]));
        assert_eq!(option(options, 121).unwrap()[..6], [0, 10, 0, 0, 1, 32]);
    }

    #[test]
    fn other_frames_are_none_of_ours() {
        let frame = discover();
        assert_eq!(Request::parse(&frame[..100]), None);
        assert_eq!(Request::parse(&[0; 14]), None);
        let mut to_another_port = frame;
        to_another_port[37] = 68;
        assert_eq!(Request::parse(&to_another_port), None);
    }
}
