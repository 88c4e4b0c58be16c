//! Sockets for whole frames (`packet(7)`), for tests that send what no other socket would, or want to see what no other shows.

use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;

use rustix::net::netdevice::name_to_index;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// A socket of the calling thread's namespace that sends whole frames through the device, and receives none.
pub fn packet_socket(device: &str) -> io::Result<Socket> {
    open(device, 0)
}

/// The same for frames that begin with a [`vnet_header`].
pub fn offloading_socket(device: &str) -> io::Result<Socket> {
    let socket = packet_socket(device)?;
    set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    Ok(socket)
}

/// What says that the checksum of a frame is to be computed from `start` on, and to be written `offset` bytes behind that; without
/// them, that nothing is to be done.
pub fn vnet_header(checksum: Option<(u16, u16)>) -> [u8; VNET_HDR_BYTES] {
    let mut header = [0; VNET_HDR_BYTES];
    if let Some((start, offset)) = checksum {
        header[0] = NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..].copy_from_slice(&offset.to_ne_bytes());
    }
    header
}

/// A socket that receives frames of this protocol, or with 0 none.
pub(crate) fn open(device: &str, protocol: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, None)?;
    let mut address = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is the address type of packet sockets on this platform, and all its fields are integers.
    let link = unsafe { address.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = name_to_index(&socket, device)?.cast_signed();
    let length =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage is zeroed but for the fields set above, and has this length at least.
    let address = unsafe { SockAddr::new(address, length) };
    socket.bind(&address)?;
    Ok(socket)
}

/// What the kernel says of a frame beside its bytes: `struct virtio_net_hdr` of `linux/virtio_net.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloaded {
    /// Where the checksum is to be computed from, and where it is to be written behind that, in bytes; none if it is there.
    pub checksum: Option<(usize, usize)>,
    /// Payload of a segment in bytes, if the frame is to be cut into segments; else 0.
    pub segment: usize,
}

/// A socket that receives the IPv4 frames of a device, as long as they are and with their checksums as they are then.
#[derive(Debug)]
pub struct Observer(Socket);

impl Observer {
    /// Observes a device of the calling thread's namespace from now on.
    pub fn start(device: &str) -> io::Result<Self> {
        let protocol = u16::try_from(libc::ETH_P_IP).map_err(io::Error::other)?;
        let socket = open(device, protocol)?;
        set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        // Nobody reads while the frames come.
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 256 << 20)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// The frames that came since the last call.
    pub fn frames(&self) -> io::Result<Vec<(Offloaded, Vec<u8>)>> {
        let mut buffer = vec![0; VNET_HDR_BYTES + (1 << 17)];
        let mut frames = Vec::new();
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(length) if length >= VNET_HDR_BYTES => {
                    let (header, frame) = buffer[..length].split_at(VNET_HDR_BYTES);
                    frames.push((offloaded(header), frame.to_vec()));
                }
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(frames),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A socket that receives every frame that comes in by a device, and none that goes out.
#[derive(Debug)]
pub struct Tap(Socket);

impl Tap {
    /// Taps a device of the calling thread's namespace from now on, or all that it has now and later.
    pub fn start(device: Option<&str>) -> io::Result<Self> {
        let protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        let socket = if let Some(device) = device {
            open(device, protocol)?
        } else {
            let protocol = Protocol::from(i32::from(protocol.to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?
        };
        set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// The frames that came since the last call. The kernel has taken a VLAN tag out.
    pub fn frames(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut buffer = vec![0; 1 << 17];
        let mut frames = Vec::new();
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(frames),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Of `linux/if_packet.h`.
const PACKET_VNET_HDR: libc::c_int = 15;
/// As above; from Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Flags, kind, length of the headers, payload of a segment, start and offset of the checksum.
const VNET_HDR_BYTES: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

fn offloaded(header: &[u8]) -> Offloaded {
    let half_word = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    Offloaded {
        checksum: (header[0] & NEEDS_CHECKSUM != 0).then(|| (half_word(6), half_word(8))),
        segment: if header[1] == 0 { 0 } else { half_word(4) },
    }
}

fn set(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the pointer leads to an integer of the length that is said, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
