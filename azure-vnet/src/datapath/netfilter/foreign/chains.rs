//! The base chains of nftables, asked of the kernel itself (`NFT_MSG_GETCHAIN`): what iptables of today's kind, firewalld, docker and
//! people have made, without a program and whatever the number of rules.

use std::io;

use crate::netlink::netfilter::{self, FAMILY, find};

/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_NEWCHAIN` and `NFT_MSG_GETCHAIN` (linux/netfilter).
const SUBSYSTEM: u16 = 10 << 8;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
/// `NFPROTO_UNSPEC`.
const ALL_FAMILIES: u8 = 0;

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
    let mut chains = Vec::new();
    let asked = (GET_CHAIN, ALL_FAMILIES);
    netfilter::dump(&netfilter::socket()?, asked, &[], |kind, body| {
        if kind == NEW_CHAIN {
            chains.extend(chain(body));
        }
    })?;
    Ok(chains)
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
    let attributes = body.get(FAMILY..)?;
    let hook = match find(find(attributes, HOOK)?, HOOK_NUMBER).and_then(number)? {
        2 => Hook::Forward,
        4 => Hook::Postrouting,
        _ => return None,
    };
    Some(Chain {
        family,
        table: text(find(attributes, TABLE)?),
        name: text(find(attributes, NAME)?),
        hook,
        // `NF_DROP`.
        drops: find(attributes, POLICY).and_then(number) == Some(0),
    })
}

fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
