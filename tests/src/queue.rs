//! A program that netfilter asks about every packet of a queue (`NFQUEUE`), as an intrusion prevention system has it do; it lets all of
//! them pass, and counts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

use crate::namespace::Namespace;

/// `NFNL_SUBSYS_QUEUE` and its messages, of `linux/netfilter/nfnetlink_queue.h`.
const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
const NFQA_PACKET_HDR: u16 = 1;
const NFQA_VERDICT_HDR: u16 = 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NF_ACCEPT: u32 = 1;

const NLM_F_REQUEST: u16 = 1;
/// Bytes of a message before its attributes: `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;
/// A packet of any length, and what is said about it.
const LARGEST: usize = 1 << 17;
/// How often the program looks whether it is to end.
const PAUSE: Duration = Duration::from_millis(50);

/// The program; it ends with this value.
pub struct Queue {
    packets: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    worker: Option<JoinHandle<io::Result<()>>>,
}

impl Queue {
    /// Begins to answer for queue number `number` of a namespace.
    ///
    /// # Errors
    /// The kernel has no such queues, or somebody else answers for this one.
    pub fn answer(namespace: &Namespace, number: u16) -> io::Result<Self> {
        let socket = namespace.run(|| bound(number))??;
        let (packets, is_over) = <(Arc<AtomicU64>, Arc<AtomicBool>)>::default();
        let (counted, ends) = (Arc::clone(&packets), Arc::clone(&is_over));
        let worker = std::thread::spawn(move || serve(&socket, number, &counted, &ends));
        Ok(Self {
            packets,
            is_over,
            worker: Some(worker),
        })
    }

    /// How many packets it was asked about.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

fn bound(number: u16) -> io::Result<OwnedFd> {
    let kind = Some(netlink::NETFILTER);
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, kind)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PAUSE))?;
    // `NFQNL_CFG_CMD_BIND`; whole packets (`NFQNL_COPY_PACKET`).
    let bind = attribute(NFQA_CFG_CMD, &[1, 0, 0, 0]);
    let copy = attribute(NFQA_CFG_PARAMS, &[0, 0, 0xff, 0xff, 2]);
    for attribute in [bind, copy] {
        const NLM_F_ACK: u16 = 4;
        const ERRNO: std::ops::Range<usize> = 16..20;
        let asked = message(CONFIG, NLM_F_REQUEST | NLM_F_ACK, number, &attribute);
        send(&socket, &asked, SendFlags::empty())?;
        let mut answer = [0; 128];
        recv(&socket, &mut answer[..], RecvFlags::empty())?;
        let errno = answer[ERRNO].try_into().map_err(io::Error::other)?;
        match i32::from_ne_bytes(errno) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(-errno)),
        }
    }
    Ok(socket)
}

fn serve(
    socket: &OwnedFd,
    number: u16,
    packets: &AtomicU64,
    is_over: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; LARGEST];
    while !is_over.load(Ordering::Relaxed) {
        let length = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(id) = packet_id(&buffer[..length]) else {
            continue;
        };
        packets.fetch_add(1, Ordering::Relaxed);
        let verdict = [NF_ACCEPT.to_be_bytes(), id].concat();
        let verdict = attribute(NFQA_VERDICT_HDR, &verdict);
        let answer = message(VERDICT, NLM_F_REQUEST, number, &verdict);
        send(socket, &answer, SendFlags::empty())?;
    }
    Ok(())
}

/// The number of the packet that a message is about.
fn packet_id(message: &[u8]) -> Option<[u8; 4]> {
    let half = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 2)?;
        Some(u16::from_ne_bytes(bytes.try_into().ok()?))
    };
    if half(message, 4)? != PACKET {
        return None;
    }
    let mut rest = message.get(HEADERS..)?;
    loop {
        let length = usize::from(half(rest, 0)?);
        if half(rest, 2)? == NFQA_PACKET_HDR {
            return rest.get(4..8)?.try_into().ok();
        }
        rest = rest.get(length.next_multiple_of(4).max(4)..)?;
    }
}

fn message(kind: u16, flags: u16, queue: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADERS + attributes.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence, sender; no family, version 0.
    message.extend([0; 10]);
    message.extend(queue.to_be_bytes());
    message.extend(attributes);
    message
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + payload.len()).unwrap_or_default();
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(payload);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}
