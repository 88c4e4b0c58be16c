//! Sockets for whole frames (`packet(7)`), for tests that send what no other socket would.

use std::io;

use rustix::net::netdevice::name_to_index;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// A socket of the calling thread's namespace that sends whole frames through the device, and receives none.
pub fn packet_socket(device: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, None)?;
    let mut address = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is the address type of packet sockets on this platform, and all its fields are integers.
    let link = unsafe { address.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    link.sll_ifindex = name_to_index(&socket, device)?.cast_signed();
    let length =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage is zeroed but for the fields set above, and has this length at least.
    let address = unsafe { SockAddr::new(address, length) };
    socket.bind(&address)?;
    Ok(socket)
}
