//! Which ports the node's own sockets are bound to, by `sock_diag`: the kernel walks the table of listening sockets alone, where
//! `/proc/net/tcp` is a walk over all connections (milliseconds on a large node, whatever is read of it).

use std::io;
use std::time::Duration;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// The kernel answers a dump in the caller's own time.
const LIMIT: Duration = Duration::from_secs(5);

/// The ports of TCP sockets that listen and of all UDP sockets, in the namespace of the calling thread. IPv6 as
/// well: such a socket may take IPv4. One port may be there several times.
pub fn ports() -> io::Result<Vec<u16>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
    let mut ports = Vec::new();
    for (protocol, states) in [
        (IPPROTO_TCP, StateFlags::LISTEN),
        (IPPROTO_UDP, StateFlags::all()),
    ] {
        for (family, socket_id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            let request = InetRequest {
                family,
                protocol,
                extensions: ExtensionFlags::empty(),
                states: states.clone(),
                socket_id,
            };
            dump(&socket, request, &mut ports)?;
        }
    }
    Ok(ports)
}

fn dump(socket: &Socket, request: InetRequest, ports: &mut Vec<u16>) -> io::Result<()> {
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(request));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if read(&answer, ports)? {
            return Ok(());
        }
    }
}

/// Reads one datagram; says whether it was the last.
fn read(mut datagram: &[u8], ports: &mut Vec<u16>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(datagram)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                ports.push(socket.header.socket_id.source_port);
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(refusal) => return Err(refusal.to_io()),
            _ => {}
        }
        let length = (message.header.length as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn sockets_of_both_protocols_and_families_are_found() {
        let streams = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
        let datagrams = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
        let connected = TcpStream::connect(streams[0].local_addr().unwrap()).unwrap();
        let own = connected.local_addr().unwrap().port();
        let streams = streams
            .each_ref()
            .map(|socket| socket.local_addr().unwrap());
        let datagrams = datagrams
            .each_ref()
            .map(|socket| socket.local_addr().unwrap());
        let found = ports().unwrap();
        for address in streams.into_iter().chain(datagrams) {
            assert!(found.contains(&address.port()), "{address}: {found:?}");
        }
        let others = [streams, datagrams].concat();
        if others.iter().all(|address| address.port() != own) {
            assert!(!found.contains(&own), "{own} is a connection's");
        }
    }
}
