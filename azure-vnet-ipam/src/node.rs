//! The addresses that this node itself answers for.
//!
//! They are in the kernel's local table, which it consults for every packet that comes in. `/proc` shows that
//! table as text (`net/ipv4/fib_trie.c`, the same since Linux 2.6.13), in the network namespace of the reader:
//! one read instead of a netlink dump that may be interrupted and has to be repeated.

use std::{collections::BTreeSet, fs, net::Ipv4Addr};

use crate::warn;

const FIB: &str = "/proc/self/net/fib_trie";

/// Every address of a link that is up. None, with a warning, if the kernel does not say: a node without
/// `/proc` is no reason to refuse pods, as Azure's list has the VM's own addresses marked.
pub fn addresses() -> BTreeSet<Ipv4Addr> {
    match fs::read_to_string(FIB) {
        Ok(text) => local(&text).collect(),
        Err(cause) => {
            warn(format_args!(
                "cannot read {FIB}: {cause}; an address of this node could be given to a pod"
            ));
            BTreeSet::new()
        }
    }
}

/// Addresses followed by a line `/32 host LOCAL`.
///
/// ```text
///         |-- 10.0.0.4
///            /32 host LOCAL
/// ```
fn local(text: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut leaf = None;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
            return None;
        }
        // A leaf has a line for every route to it: the network's address may also be a host's.
        leaf.filter(|_| line.starts_with("/32 ") && line.split(' ').any(|word| word == "LOCAL"))
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
    fn only_single_local_addresses_count() {
        let found: Vec<Ipv4Addr> = local(TABLES).collect();
        assert_eq!(found, [[10, 0, 0, 4].into(), Ipv4Addr::LOCALHOST]);
        assert_eq!(local("").count(), 0);
    }
}
