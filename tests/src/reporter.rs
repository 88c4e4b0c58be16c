//! Hosts that tell who called: TCP and UDP services that answer with the source address and port they saw. A datagram that asks for a
//! name is answered as [`crate::dns`] says.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::dns;
use crate::namespace::Namespace;
use crate::service::Service;

/// Answers each TCP connection and each UDP datagram with `address:port` of the sender, as text; a DNS query as [`dns`] does.
#[derive(Debug)]
pub struct Reporter {
    _service: Service,
}

impl Reporter {
    /// Listens on this port of each of the addresses, by TCP and by UDP. One socket per address, so that a UDP answer comes from the
    /// address that was asked.
    pub fn start(namespace: &Namespace, addresses: &[Ipv4Addr], port: u16) -> io::Result<Self> {
        let open = |address: &Ipv4Addr| {
            let local = SocketAddrV4::new(*address, port);
            Ok([
                Socket::Tcp(TcpListener::bind(local)?),
                Socket::Udp(UdpSocket::bind(local)?),
            ])
        };
        let sockets: Vec<[Socket; 2]> =
            namespace.run(|| addresses.iter().map(open).collect::<io::Result<_>>())??;
        Ok(Self {
            _service: Service::start(sockets.into_iter().flatten().collect(), report)?,
        })
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// A caller that has gone again gets no answer, and needs none.
fn report(socket: &Socket) {
    let text = |peer: SocketAddr| format!("{peer}\n");
    match socket {
        Socket::Tcp(listener) => {
            if let Ok((mut stream, peer)) = listener.accept() {
                let _ = stream.set_write_timeout(Some(Duration::from_secs(2)));
                let _ = stream.write_all(text(peer).as_bytes());
            }
        }
        Socket::Udp(socket) => {
            let mut asked = [0; 2048];
            if let Ok((length, peer)) = socket.recv_from(&mut asked) {
                let answer = dns::answer(&asked[..length], peer.ip());
                let answer = answer.unwrap_or_else(|| text(peer).into_bytes());
                let _ = socket.send_to(&answer, peer);
            }
        }
    }
}
