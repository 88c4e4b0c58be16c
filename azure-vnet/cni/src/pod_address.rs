//! Which IPv4 addresses no pod can have, whoever offers them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The shortest prefix of a subnet: Azure has none that is larger than a /2, and everything is in a /0.
const SHORTEST_PREFIX: u8 = 2;

/// Why no pod can have the address; `None` if one can. IANA's special-purpose registry, RFC 6890, as far as the kernel
/// does not route them from host to host: this network, loopback, link-local, multicast, reserved with the broadcast.
pub fn unfit(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("0.0.0.0/8 is this network"),
        [127, ..] => Some("127.0.0.0/8 is loopback"),
        [169, 254, ..] => Some("169.254.0.0/16 is link-local"),
        [224..=239, ..] => Some("224.0.0.0/4 is multicast"),
        [240..=255, ..] => Some("240.0.0.0/4 is reserved"),
        _ => None,
    }
}

/// The same for an address in its subnet: not the subnet's own two addresses, and the subnet is one.
pub fn unfit_in(address: Ipv4Addr, subnet: Ipv4Net) -> Option<&'static str> {
    let has_hosts = subnet.prefix_len() < 31;
    if let Some(why) = unfit(address).or_else(|| unfit_subnet(subnet)) {
        Some(why)
    } else if has_hosts && address == subnet.network() {
        Some("it is the network's own")
    } else if has_hosts && address == subnet.broadcast() {
        Some("it is the network's broadcast")
    } else {
        None
    }
}

/// Why a prefix is no subnet of pods; `None` if it can be.
pub fn unfit_subnet(subnet: Ipv4Net) -> Option<&'static str> {
    (subnet.prefix_len() < SHORTEST_PREFIX).then_some("a subnet has a prefix of /2 or longer")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn special_addresses_are_no_pods() {
        for net in [
            "0.0.0.9/8",
            "127.0.0.9/8",
            "169.254.7.9/16",
            "224.0.0.9/4",
            "239.255.255.254/4",
            "240.0.0.1/4",
            "255.255.255.254/4",
            "255.255.255.255/32",
            "10.0.0.4/0",
            "10.0.0.4/1",
            "10.0.0.0/24",
            "10.0.0.255/24",
        ] {
            let net: Ipv4Net = net.parse().unwrap();
            assert!(unfit_in(net.addr(), net).is_some(), "{net}");
        }
        for net in [
            "10.0.0.1/24",
            "10.0.0.7/32",
            "10.0.0.6/31",
            "1.0.0.4/8",
            "126.0.0.4/8",
            "128.0.0.4/8",
            "169.253.0.4/16",
            "169.255.0.4/16",
            "223.255.255.254/24",
            "100.64.0.4/10",
            "192.168.0.4/2",
        ] {
            let net: Ipv4Net = net.parse().unwrap();
            assert_eq!(unfit_in(net.addr(), net), None, "{net}");
        }
    }
}
