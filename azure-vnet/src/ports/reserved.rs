//! Ports of the masquerade range that others on the node use. A reply to one of them would be taken for a pod's if it came from where
//! the pod's flow goes to.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::RangeInclusive;

use azure_vnet_abi::ReservedPorts;

use super::bound;

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// What the kernel usually has to say, and more than it can: every other port takes 192 KiB. It clears as much as it is asked for,
/// and so do we.
const LENGTHS: [usize; 2] = [1024, 256 * 1024];

/// VXLAN's port as IANA has it, and as Linux had it before: of kernels that have no tunnel yet.
const VXLAN: [u16; 2] = [4789, 8472];

/// Such ports of one range.
#[derive(Clone, PartialEq, Eq)]
pub struct Reserved {
    range: RangeInclusive<u16>,
    ports: Box<ReservedPorts>,
}

impl Reserved {
    /// None of this range yet.
    pub fn none(range: RangeInclusive<u16>) -> Self {
        Self {
            range,
            ports: Box::new(ReservedPorts::NONE),
        }
    }

    /// Reserves those of `ports` that are in the range.
    pub fn add(&mut self, ports: impl IntoIterator<Item = u16>) {
        for port in ports {
            if self.range.contains(&port) {
                self.ports.insert(port);
            }
        }
    }

    /// Reserves what the node says of itself: `net.ipv4.ip_local_reserved_ports`, VXLAN, and what its sockets are bound to. The
    /// error is about the sockets; the others are reserved nevertheless.
    pub fn add_node(&mut self) -> io::Result<()> {
        self.add(VXLAN);
        for range in parse(&read(SYSCTL).unwrap_or_default()) {
            self.add(range);
        }
        self.add(bound::ports()?);
        Ok(())
    }

    /// Reserves what was reserved before, where it is not known whether that is over.
    pub fn keep(&mut self, before: &ReservedPorts) {
        let range = self.range.clone();
        self.add(range.filter(|port| before.contains(*port)));
    }

    /// As the programs want it.
    pub fn bits(&self) -> &ReservedPorts {
        &self.ports
    }
}

/// In one `read`: the kernel fills the buffer that it is given and says nothing to the next (`proc_do_large_bitmap`), so that
/// `std::fs::read`, which begins with 32 bytes, would miss what comes behind.
fn read(path: &str) -> io::Result<String> {
    let mut text = Vec::new();
    for length in LENGTHS {
        text = vec![0; length];
        let read = File::open(path)?.read(&mut text)?;
        text.truncate(read);
        if read < length {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `8080,9000-9100`. What cannot be understood is passed over.
fn parse(text: &str) -> impl Iterator<Item = RangeInclusive<u16>> {
    text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(reserved: &Reserved) -> Vec<u16> {
        let all = 0..=u16::MAX;
        all.filter(|port| reserved.bits().contains(*port)).collect()
    }

    #[test]
    fn only_those_of_the_range_are_reserved() {
        let mut reserved = Reserved::none(20_000..=20_100);
        reserved.add([19_999, 20_000, 20_063, 20_064, 20_100, 20_101, 80, 65_535]);
        assert_eq!(ports(&reserved), [20_000, 20_063, 20_064, 20_100]);
        assert_eq!(reserved.bits().count(), 4);
    }

    #[test]
    fn what_was_reserved_may_be_kept() {
        let mut before = ReservedPorts::NONE;
        before.insert(20_001);
        before.insert(30_000);
        let mut reserved = Reserved::none(20_000..=20_100);
        reserved.add([20_002]);
        reserved.keep(&before);
        assert_eq!(ports(&reserved), [20_001, 20_002]);
    }

    #[test]
    fn the_kernels_list_is_read() {
        let read = |text| parse(text).collect::<Vec<_>>();
        assert!(read("\n").is_empty());
        assert_eq!(
            read("8080,9000-9100,65535\n"),
            [8080..=8080, 9000..=9100, 65535..=65535]
        );
        assert_eq!(read("x,70000,5-,7\n"), [7..=7]);
    }

    #[test]
    fn vxlan_is_reserved() {
        let mut reserved = Reserved::none(4000..=9000);
        let _ = reserved.add_node();
        assert!(VXLAN.iter().all(|port| reserved.bits().contains(*port)));
    }
}
