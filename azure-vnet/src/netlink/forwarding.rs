//! The forwarding table of a bridge, as the kernel shows it in one file of sysfs (`struct __fdb_entry` of `linux/if_bridge.h`).
//!
//! By netlink the kernel walks over all links of the namespace, and for each port of the bridge over the whole table
//! (`rtnl_fdb_dump`): with the pods squared, and with whatever others have.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use super::MacAddress;

/// The size of an entry, in bytes.
const ENTRY: usize = 16;

/// What the kernel gives at once.
const PART: usize = 4096;

/// More than a bridge of pods has entries: two for each pod. A table that something has filled is not read to its end.
const MOST: usize = 1 << 16;

/// The MACs that the bridge has entries for, at whatever port, that are not learnt and not its own. None where there is no such
/// bridge.
pub fn fixed(bridge: &str) -> io::Result<Vec<MacAddress>> {
    let path: PathBuf = ["/sys/class/net", bridge, "brforward"].iter().collect();
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut macs = Vec::new();
    let mut part = [0; PART];
    for _ in 0..MOST.div_ceil(PART / ENTRY) {
        let length = file.read(&mut part)?;
        if length == 0 {
            break;
        }
        let (entries, _) = part[..length].as_chunks::<ENTRY>();
        macs.extend(entries.iter().filter_map(read));
    }
    Ok(macs)
}

/// MAC, port, whether it is the bridge's own, and its age, which a fixed entry does not have.
fn read(entry: &[u8; ENTRY]) -> Option<MacAddress> {
    let (mac, rest) = entry.split_first_chunk::<6>()?;
    let [_, is_local, age @ ..] = rest.first_chunk::<6>()?;
    (*is_local == 0 && *age == [0; 4]).then_some(MacAddress(*mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(is_local: u8, age: u32) -> [u8; ENTRY] {
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&[0x0a, 0x58, 10, 0, 0, 7, 3, is_local]);
        entry[8..12].copy_from_slice(&age.to_ne_bytes());
        entry
    }

    #[test]
    fn what_is_learnt_and_what_is_the_bridges_own_does_not_count() {
        let mac = MacAddress([0x0a, 0x58, 10, 0, 0, 7]);
        assert_eq!(read(&entry(0, 0)), Some(mac));
        assert_eq!(read(&entry(1, 0)), None);
        assert_eq!(read(&entry(0, 250)), None);
    }
}
