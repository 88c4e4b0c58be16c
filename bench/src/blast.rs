//! Packets of one UDP flow, as fast as one CPU sends them.

use std::mem::zeroed;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use anyhow::{Result, ensure};
use socket2::SockAddr;

use crate::series::Series;

/// Bytes of payload in a frame of 64.
pub const PAYLOAD: usize = 64 - 14 - 20 - 8;

/// A packet that can be sent again and again.
pub struct Blast<'a> {
    socket: BorrowedFd<'a>,
    to: SockAddr,
    bytes: Vec<u8>,
}

impl<'a> Blast<'a> {
    /// Packets in one system call: a tenth of a millisecond, so that few calls meet something else that the machine has to do.
    pub const BATCH: u16 = 64;

    /// By UDP.
    pub fn new(socket: &'a UdpSocket, to: SocketAddrV4) -> Self {
        Self {
            socket: socket.as_fd(),
            to: to.into(),
            bytes: vec![0; PAYLOAD],
        }
    }

    /// A whole frame by a packet socket.
    pub fn of_frame(socket: &'a OwnedFd, device: &SockAddr, frame: Vec<u8>) -> Self {
        Self {
            socket: socket.as_fd(),
            to: device.clone(),
            bytes: frame,
        }
    }

    /// Makes so many calls of [`Self::BATCH`] packets from the calling thread; in the median call, the nanoseconds of one packet.
    pub fn send(&self, calls: u32) -> Result<f64> {
        let mut part = libc::iovec {
            iov_base: self.bytes.as_ptr().cast_mut().cast(),
            iov_len: self.bytes.len(),
        };
        // SAFETY: all of it is numbers and pointers that may be null.
        let mut message: libc::mmsghdr = unsafe { zeroed() };
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        message.msg_hdr.msg_name = self.to.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_namelen = self.to.len();
        let mut batch = [message; Self::BATCH as usize];

        let mut per_packet = Series::default();
        for _ in 0..calls {
            let start = Instant::now();
            self.send_batch(&mut batch)?;
            per_packet.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(Self::BATCH));
        }
        Ok(per_packet.median())
    }

    fn send_batch(&self, batch: &mut [libc::mmsghdr]) -> Result<()> {
        // SAFETY: the descriptor is open, and the headers point at a payload and an address that outlive the call; the kernel reads
        // them and writes `msg_len`.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                batch.as_mut_ptr(),
                u32::from(Self::BATCH),
                0,
            )
        };
        ensure!(
            sent == i32::from(Self::BATCH),
            "sendmmsg: {}",
            std::io::Error::last_os_error()
        );
        Ok(())
    }
}
