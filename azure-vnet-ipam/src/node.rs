//! The addresses that the kernel of this node knows as its own or as a pod's, whatever our record says.
//!
//! Its own are in the kernel's local table, which it consults for every packet that comes in. A pod of this
//! plugin's, or of the original one, has a permanent neighbour entry on the bridge; a pod of a plugin that routes
//! has a route of 32 bits. Neighbour entries outlive the pod's link, so one of ours counts only with the forwarding
//! entry that goes with the link; the original has no such entries, and takes its neighbours away. `/proc` shows the
//! routes as text (`net/ipv4/fib_trie.c`, the same since Linux 2.6.13), in the network namespace of the reader.

use std::{collections::BTreeSet, fs, io, net::Ipv4Addr};

use rustix::io::Errno;

use crate::{
    mac::Mac,
    neighbours::{Neighbour, Neighbours},
    pool::Observed,
    warn,
};

const FIB: &str = "/proc/thread-self/net/fib_trie";

const LINKS: &str = "/sys/class/net";

/// What the names of pods' links begin with.
const PODS: &[u8] = b"azv";

/// What nobody may have. Nothing, with a warning, if the kernel does not say: a node without `/proc` is no
/// reason to refuse pods, as Azure's list has the VM's own addresses marked.
pub fn observed() -> Observed {
    let fib = fs::read_to_string(FIB).unwrap_or_else(|cause| {
        unknown(FIB, &cause);
        String::new()
    });
    let of =
        |kind: Kind| leaves(&fib).filter_map(move |(address, is)| (is == kind).then_some(address));
    let pods = pods().unwrap_or_else(|cause| {
        unknown("the neighbours", &cause);
        BTreeSet::new()
    });
    let links = links();
    if let Err(cause) = &links {
        unknown(LINKS, cause);
    }
    Observed {
        node: of(Kind::Local).collect(),
        pods: of(Kind::Route).chain(pods).collect(),
        links: links.ok(),
        ..Observed::default()
    }
}

/// The MACs of the links, but for those of pods, of which there may be hundreds.
pub fn links() -> io::Result<BTreeSet<Mac>> {
    let mut macs = BTreeSet::new();
    for entry in fs::read_dir(LINKS)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PODS) {
            continue;
        }
        match fs::read_to_string(entry.path().join("address")) {
            // One without a MAC is no NIC of Azure's.
            Ok(text) => macs.extend(text.trim().parse::<Mac>().ok()),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(macs)
}

/// Whether a link went between the list and the question.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
        || error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

fn unknown(what: &str, cause: &io::Error) {
    warn(format_args!(
        "cannot read {what}: {cause}; an address that is in use on this node could be given to a pod"
    ));
}

/// The pods that a bridge knows as neighbours.
fn pods() -> io::Result<BTreeSet<Ipv4Addr>> {
    let neighbours = Neighbours::open()?;
    let mut all = neighbours.permanent()?;
    // If nobody can say whether a link leads to the neighbour, one may.
    let may_lead = |it: &Neighbour| neighbours.is_forwarded(it.link, it.mac).unwrap_or(true);
    all.retain(|it| it.mac != Mac::of_pod(it.address) || may_lead(it));
    Ok(all.iter().map(|neighbour| neighbour.address).collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Local,
    Route,
}

/// Addresses followed by a line for all of their 32 bits.
///
/// ```text
///         |-- 10.0.0.4
///            /32 host LOCAL
/// ```
fn leaves(text: &str) -> impl Iterator<Item = (Ipv4Addr, Kind)> {
    let mut leaf = None;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
            return None;
        }
        // A leaf has a line for every route to it: the network's address may also be a host's.
        let mut words = line.strip_prefix("/32 ")?.split(' ').skip(1);
        let kind = match words.next()? {
            "LOCAL" => Kind::Local,
            "UNICAST" => Kind::Route,
            _ => return None,
        };
        Some((leaf?, kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 10.0.0.9
        /32 link UNICAST
Local:
  +-- 0.0.0.0/0 2 0 2
     +-- 10.0.0.0/24 2 0 2
        |-- 10.0.0.0
           /32 link BROADCAST
           /24 link UNICAST
        |-- 10.0.0.4
           /32 host LOCAL
        |-- 10.0.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /32 link BROADCAST
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
";

    #[test]
    fn only_single_addresses_count() {
        let of = |kind| {
            let leaves = leaves(TABLES).filter(move |(_, is)| *is == kind);
            leaves.map(|(address, _)| address).collect::<Vec<_>>()
        };
        assert_eq!(of(Kind::Local), [[10, 0, 0, 4].into(), Ipv4Addr::LOCALHOST]);
        assert_eq!(of(Kind::Route), [Ipv4Addr::new(10, 0, 0, 9)]);
        assert_eq!(leaves("").count(), 0);
    }
}
