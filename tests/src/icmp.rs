//! Pings, and a witness of pings: the kernel answers an echo request without telling anybody, so the witness listens beside it.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;
use crate::service::Service;

const ECHO_REQUEST: u8 = 8;
pub(crate) const ECHO_REPLY: u8 = 0;
/// Type, code, checksum, identifier, sequence number: RFC 792.
const HEADER: usize = 8;

/// Remembers the echo requests that reached a namespace.
#[derive(Debug)]
pub struct Witness {
    seen: Arc<Mutex<Vec<Echo>>>,
    _service: Service,
}

/// Source and payload of an echo request.
type Echo = (Ipv4Addr, Vec<u8>);

impl Witness {
    /// Listens to all echo requests that the namespace receives from now on.
    pub fn start(namespace: &Namespace) -> io::Result<Self> {
        let socket = namespace.run(raw_socket)??;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let store = Arc::clone(&seen);
        let service = Service::start(vec![socket], move |socket| {
            if let Ok((source, ECHO_REQUEST, _, payload)) = receive(socket) {
                store
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((source, payload));
            }
        })?;
        Ok(Self {
            seen,
            _service: service,
        })
    }

    /// The source of the echo request that carried this payload, if one arrived.
    pub fn source_of(&self, payload: &[u8]) -> Option<Ipv4Addr> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .find(|(_, bytes)| bytes == payload)
            .map(|(source, _)| *source)
    }
}

/// Sends one echo request from inside the namespace, and waits for the reply that carries the same identifier and payload.
pub fn ping(
    namespace: &Namespace,
    target: Ipv4Addr,
    identifier: u16,
    payload: &[u8],
    limit: Duration,
) -> io::Result<()> {
    let socket = namespace.run(raw_socket)??;
    let target = SocketAddrV4::new(target, 0);
    socket.send_to(&echo_request(identifier, payload), &target.into())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        // A raw socket hears all ICMP of its namespace, so others' replies are passed over.
        match receive(&socket) {
            Ok((source, ECHO_REPLY, id, bytes))
                if source == *target.ip() && id == identifier && bytes == payload =>
            {
                return Ok(());
            }
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::InvalidData
                ) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
}

pub(crate) fn raw_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
}

pub(crate) fn echo_request(identifier: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![ECHO_REQUEST, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(1_u16.to_be_bytes());
    packet.extend(payload);
    let checksum = internet_checksum(&packet);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The one's complement of the one's complement sum of 16-bit words: RFC 1071.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Source, type, identifier and payload of the next ICMP message. The kernel hands it over with its IPv4 header.
pub(crate) fn receive(mut socket: &Socket) -> io::Result<(Ipv4Addr, u8, u16, Vec<u8>)> {
    let mut buffer = [0; 2048];
    let length = socket.read(&mut buffer)?;
    let packet = &buffer[..length];
    let header = usize::from(packet.first().copied().unwrap_or(0) & 0x0f) * 4;
    let (Some(&[a, b, c, d]), Some(message)) = (packet.get(12..16), packet.get(header..)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let &[kind, _, _, _, id_high, id_low, _, _, ..] = message else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let source = Ipv4Addr::new(a, b, c, d);
    Ok((
        source,
        kind,
        u16::from_be_bytes([id_high, id_low]),
        message[HEADER..].to_vec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 section 3.
    #[test]
    fn checksum_of_rfc_1071() {
        assert_eq!(
            internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }

    #[test]
    fn checksum_of_a_checked_packet_is_zero() {
        assert_eq!(internet_checksum(&echo_request(7, b"odd")), 0);
    }
}
