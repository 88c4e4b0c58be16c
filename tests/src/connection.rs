//! A TCP connection to a host outside that stays open, with both its ends in hand.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::host::Host;
use crate::namespace::Namespace;

const LIMIT: Duration = Duration::from_secs(5);

/// A connection that a pod or a VM opened.
#[derive(Debug)]
pub struct Connection {
    /// The end of whoever opened it.
    pub inside: TcpStream,
    /// The host's end.
    pub outside: TcpStream,
    /// What the host saw it come from.
    pub from: Ipv4Addr,
}

/// Addresses of a connection that are not left to the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// Whence it is opened.
    pub from: Option<SocketAddrV4>,
    /// Where the host listens; any port of its first address by default.
    pub to: Option<SocketAddrV4>,
    /// Where whoever opens it connects to, if something on the way translates that.
    pub service: Option<SocketAddrV4>,
}

impl Connection {
    /// Opens one from a namespace to a host.
    pub fn open(from: &Namespace, host: &Host) -> io::Result<Self> {
        Self::open_between(from, host, Ends::default())
    }

    /// The same with addresses that matter.
    pub fn open_between(from: &Namespace, host: &Host, ends: Ends) -> io::Result<Self> {
        let to = ends.to.unwrap_or(SocketAddrV4::new(host.address(), 0));
        let listener = host.namespace().run(|| listen(to))??;
        let server = listener.local_addr()?;
        let inside = from.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            if let Some(from) = ends.from {
                socket.bind(&from.into())?;
            }
            let server = ends.service.map_or(server, Into::into);
            socket.connect_timeout(&server.into(), LIMIT)?;
            io::Result::Ok(TcpStream::from(socket))
        })??;
        let (outside, peer) = listener.accept()?;
        for stream in [&inside, &outside] {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_nodelay(true)?;
        }
        let SocketAddr::V4(peer) = peer else {
            return Err(io::Error::other(format!("an IPv6 peer {peer}")));
        };
        Ok(Self {
            inside,
            outside,
            from: *peer.ip(),
        })
    }

    /// An error if one direction does not work any more.
    pub fn is_alive(&mut self) -> io::Result<()> {
        let mut byte = [0];
        self.inside.write_all(b"?")?;
        self.outside.read_exact(&mut byte)?;
        self.outside.write_all(b"!")?;
        self.inside.read_exact(&mut byte)
    }
}

/// A program that another test is about to start has what this process has open, until it runs: also a listener that was closed here.
fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}
