//! One question and its answer across the simulation, each within a limit, ending in the source address that the far side saw.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::host::Host;
use crate::http::{self, Access, REQUEST_ID};
use crate::icmp::{self, Witness};
use crate::namespace::Namespace;

/// How long any one answer may take.
const LIMIT: Duration = Duration::from_secs(3);

/// Asks a [`crate::reporter::Reporter`] by TCP or UDP, from a given address of the namespace or from the one the kernel chooses.
///
/// The socket is connected, so only an answer that comes from `to` is one: a reply whose source was changed is an error.
pub fn ask(
    kind: Type,
    from: &Namespace,
    source: Option<Ipv4Addr>,
    to: SocketAddrV4,
) -> io::Result<Ipv4Addr> {
    let socket = from.run(|| Socket::new(Domain::IPV4, kind, None))??;
    socket.set_read_timeout(Some(LIMIT))?;
    if let Some(source) = source {
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
    }
    socket.connect_timeout(&to.into(), LIMIT)?;
    if kind == Type::DGRAM {
        socket.send(b"who am I?")?;
    }
    let mut answer = [0; 64];
    let length = (&socket).read(&mut answer).map_err(timed_out)?;
    let text = String::from_utf8_lossy(&answer[..length]);
    let seen = text
        .trim()
        .parse::<SocketAddr>()
        .map_err(|_| io::Error::other(format!("strange report {text:?}")))?;
    match seen {
        SocketAddr::V4(seen) => Ok(*seen.ip()),
        SocketAddr::V6(_) => Err(io::Error::other("reported over IPv6")),
    }
}

/// Asks a platform service by HTTP; its log, not the caller, tells the source. Any status but 200 is an error.
pub fn get_logged(
    from: &Namespace,
    service: Ipv4Addr,
    target: &str,
    log: impl Fn() -> Vec<Access>,
) -> io::Result<Ipv4Addr> {
    let token = token();
    let headers = [("Metadata", "true"), (REQUEST_ID, token.as_str())];
    let (status, body) = http::get(from, service, target, &headers, LIMIT)?;
    if status != 200 {
        return Err(io::Error::other(format!(
            "status {status}: {}",
            body.trim()
        )));
    }
    let access = log()
        .into_iter()
        .find(|access| access.request_id.as_deref() == Some(&token));
    access
        .map(|access| access.source)
        .ok_or_else(|| io::Error::other("answered, but not by the service"))
}

/// Pings a host, which must both answer and have seen the request.
pub fn ping_host(from: &Namespace, host: &Host) -> io::Result<Ipv4Addr> {
    ping(from, host.address(), &host.pings)
}

/// Pings an address where a witness listens.
pub fn ping(from: &Namespace, to: Ipv4Addr, witness: &Witness) -> io::Result<Ipv4Addr> {
    let payload = token();
    let identifier = u16::try_from(random() & 0xffff).unwrap_or_default();
    icmp::ping(from, to, identifier, payload.as_bytes(), LIMIT)?;
    // The kernel's answer may overtake the witness, which is a thread.
    for _ in 0..100 {
        if let Some(source) = witness.source_of(payload.as_bytes()) {
            return Ok(source);
        }
        std::thread::sleep(LIMIT / 100);
    }
    Err(io::Error::other("answered, but not by the host"))
}

/// The kernel's word for a time limit of a socket says nothing to a reader.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer"),
        _ => error,
    }
}

/// Marks one exchange among all.
fn token() -> String {
    format!("{:016x}{:016x}", random(), random())
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
