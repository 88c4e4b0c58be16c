//! What a link leaves to its hardware, or takes over from it: switched as `ethtool -K` does it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Socket, Type};

/// Something that a link does by itself, if it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Computing the checksums of what is sent, and with it cutting large packets into segments: off, the kernel does both
    /// before the link has the packet.
    Transmit,
    /// Putting segments that are received together.
    ReceiveInOne,
}

impl Offload {
    /// The command of `linux/ethtool.h`.
    const fn command(self) -> u32 {
        const ETHTOOL_STXCSUM: u32 = 0x17;
        const ETHTOOL_SGRO: u32 = 0x2c;
        match self {
            Self::Transmit => ETHTOOL_STXCSUM,
            Self::ReceiveInOne => ETHTOOL_SGRO,
        }
    }
}

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Switches it for a link of the calling thread's namespace.
pub fn switch(link: &str, offload: Offload, on: bool) -> io::Result<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;

    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = Value {
        command: offload.command(),
        data: u32::from(on),
    };
    // SAFETY: the structure is integers, bytes and a pointer, for which zeros are values.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // The last byte stays the zero that ends the name.
    let room = &mut request.ifr_name[..libc::IFNAMSIZ - 1];
    for (place, byte) in room.iter_mut().zip(link.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the command takes an `ifreq` whose pointer leads to an `ethtool_value`; both live until it returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
