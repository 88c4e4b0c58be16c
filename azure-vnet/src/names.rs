//! Names of the links that the plugin makes on the node. They follow from the attachment alone,
//! so that a DEL needs neither state nor the pod's namespace to find them.

use sha2::{Digest, Sha256};

/// What every host veth of ours begins with. Network managers and the eBPF tier go by it too.
pub const PREFIX: &str = "azv";

/// Hexadecimal digits after the prefix: 44 bits, and 14 of the 15 bytes that a name may have.
const DIGITS: usize = 11;

/// The name of the host end of the veth of one attachment, the triple that the CNI specification
/// identifies an interface by (SPEC 1.0.0, "Attachment parameters", and the network's name).
pub fn host_veth(network: &str, container_id: &str, ifname: &str) -> String {
    let mut hash = Sha256::new();
    for part in [network, container_id, ifname] {
        // The length in front keeps ("a", "bc") and ("ab", "c") apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
    PREFIX.chars().chain(digits.take(DIGITS)).collect()
}

/// A number that names a container in the kernel, where its interfaces have to be told for one's.
pub fn container(container_id: &str) -> u32 {
    let digest: [u8; 32] = Sha256::digest(container_id.as_bytes()).into();
    let [a, b, c, d, ..] = digest;
    u32::from_ne_bytes([a, b, c, d])
}

/// True for a name that [`host_veth`] can make.
pub fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == DIGITS
            && rest
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// True for the link of a pod: ours, or one that the original plugin made (`azv` or `azveth`, and digits).
pub fn is_pods(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| !rest.is_empty())
}

/// True for what Linux takes as the name of a link (`dev_valid_name`).
pub fn is_valid(name: &str) -> bool {
    let forbidden = |byte: u8| matches!(byte, b'/' | b':' | 0x0b) || byte.is_ascii_whitespace();
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains('\0')
        && !name.bytes().any(forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_stable_and_fits_the_kernel() {
        let name = host_veth("azure", "0123456789abcdef", "eth0");
        assert_eq!(name, host_veth("azure", "0123456789abcdef", "eth0"));
        assert_eq!(name.len(), 14);
        assert!(is_ours(&name));
    }

    #[test]
    fn every_part_counts_and_parts_do_not_run_together() {
        let names = [
            host_veth("azure", "c1", "eth0"),
            host_veth("azure", "c1", "eth1"),
            host_veth("azure", "c1e", "th0"),
            host_veth("azurec", "1", "eth0"),
            host_veth("azure", "c1eth0", ""),
            host_veth("", "azurec1", "eth0"),
        ];
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }

    #[test]
    fn containers_that_share_eight_characters_get_two_names() {
        assert_ne!(
            host_veth("azure", "deadbeef01", "eth0"),
            host_veth("azure", "deadbeef02", "eth0")
        );
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for name in [
            "",
            "azv",
            "azure0",
            "eth0",
            "azv0123456789",
            "azv0123456789g",
            "azv0123456789AB",
            "azv0123456789abc",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn link_names_are_what_the_kernel_takes() {
        for name in ["azure0", "br-é", "a", "123456789012345", "a.b"] {
            assert!(is_valid(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "1234567890123456",
            "a\n",
        ] {
            assert!(!is_valid(name), "{name}");
        }
    }
}
