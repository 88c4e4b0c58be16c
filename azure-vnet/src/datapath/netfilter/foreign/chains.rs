//! The base chains of nftables, asked of the kernel itself (`NFT_MSG_GETCHAIN`): what iptables of today's kind, firewalld, docker and
//! people have made, without a program and whatever the number of rules.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// The kernel answers a dump in the caller's own time.
const LIMIT: Duration = Duration::from_secs(5);

/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_NEWCHAIN` and `NFT_MSG_GETCHAIN` (linux/netfilter).
const SUBSYSTEM: u16 = 10 << 8;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
/// `NLM_F_REQUEST`, `NLM_F_DUMP`, `NLMSG_ERROR`, `NLMSG_DONE` (linux/netlink.h).
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// A netlink header, and the header of netfilter's subsystems behind it.
const HEADER: usize = 16;
const FAMILY: usize = 4;

/// A chain that the kernel leads packets to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `ip` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where packets come by.
    pub hook: Hook,
    /// What no rule decides about is dropped.
    pub drops: bool,
}

/// Where a chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What the node routes (`NF_INET_FORWARD`).
    Forward,
    /// What leaves (`NF_INET_POST_ROUTING`).
    Postrouting,
}

/// The base chains for IPv4 at these hooks. A kernel without nftables has none.
pub fn all() -> io::Result<Vec<Chain>> {
    match dump() {
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        result => result,
    }
}

fn is_missing(error: &io::Error) -> bool {
    const NO_PROTOCOL: i32 = rustix::io::Errno::PROTONOSUPPORT.raw_os_error();
    const NO_ENTRY: i32 = rustix::io::Errno::NOENT.raw_os_error();
    const INVALID: i32 = rustix::io::Errno::INVAL.raw_os_error();
    const NOT_SUPPORTED: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
    matches!(
        error.raw_os_error(),
        Some(NO_PROTOCOL | NO_ENTRY | INVALID | NOT_SUPPORTED)
    )
}

fn dump() -> io::Result<Vec<Chain>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
    let length = u32::try_from(HEADER + FAMILY).unwrap_or_default();
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(GET_CHAIN.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    // Sequence, port; then all families, version 0, no resource.
    request.extend([0; 8 + FAMILY]);
    socket.send(&request, 0)?;
    let mut chains = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if read(&answer, &mut chains)? {
            return Ok(chains);
        }
    }
}

/// Reads one datagram; says whether it was the last.
fn read(mut datagram: &[u8], chains: &mut Vec<Chain>) -> io::Result<bool> {
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "a message of no known form");
    while !datagram.is_empty() {
        let head = datagram.get(..HEADER).ok_or_else(strange)?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let body = datagram.get(HEADER..length).ok_or_else(strange)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = body.first_chunk().map_or(0, |it| i32::from_ne_bytes(*it));
                return Err(io::Error::from_raw_os_error(-code));
            }
            NEW_CHAIN => chains.extend(chain(body)),
            _ => {}
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(false)
}

/// A chain that is one of those that are asked for.
fn chain(body: &[u8]) -> Option<Chain> {
    /// `NFTA_CHAIN_*`, and `NFTA_HOOK_HOOKNUM`.
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        _ => return None,
    };
    let (mut table, mut name, mut hook, mut drops) = (None, None, None, false);
    for attribute in NlasIterator::new(body.get(FAMILY..)?) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            TABLE => table = Some(text(value)),
            NAME => name = Some(text(value)),
            HOOK => {
                let number = NlasIterator::new(value)
                    .filter_map(Result::ok)
                    .find(|it| it.kind() == HOOK_NUMBER)
                    .and_then(|it| number(it.value()));
                hook = match number {
                    Some(2) => Some(Hook::Forward),
                    Some(4) => Some(Hook::Postrouting),
                    _ => None,
                };
            }
            // `NF_DROP`.
            POLICY => drops = number(value) == Some(0),
            _ => {}
        }
    }
    Some(Chain {
        family,
        table: table?,
        name: name?,
        hook: hook?,
        drops,
    })
}

fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
