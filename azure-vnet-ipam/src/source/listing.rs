//! What every source says in its own form: NICs with subnets with addresses; and which of them pods may have.

use std::{collections::BTreeSet, fmt::Display, net::Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use azure_vnet_cni::{foreign, pod_address};

use super::Found;
use crate::{
    mac::Mac,
    pool::{Subnet, is_reserved},
};

/// A list with more mistakes than this has one cause, and the log is the operator's to read.
const MAX_WARNINGS: usize = 10;

/// Of all NICs of a VM. Azure gives a VM 8 NICs, each in one subnet.
const MAX_SUBNETS: usize = 256;
/// Of all NICs of a VM. Azure gives a NIC 256 addresses.
const MAX_ADDRESSES: usize = 1 << 14;

/// A NIC as a source has it; everything as text, so that a warning can repeat it.
#[derive(Debug, Default)]
pub struct Interface {
    /// `*` means any; a VF is not listed, and would have the MAC of its NIC.
    pub mac: String,
    /// Whether it is the VM's first NIC.
    pub primary: bool,
    /// Its subnets.
    pub subnets: Vec<ListedSubnet>,
}

/// A subnet of a NIC.
#[derive(Debug, Default)]
pub struct ListedSubnet {
    /// Address and prefix length.
    pub prefix: String,
    /// Its addresses on this NIC.
    pub addresses: Vec<Listed>,
}

/// One address of a NIC.
#[derive(Debug, Default)]
pub struct Listed {
    /// The address.
    pub address: String,
    /// Whether it is the VM's own.
    pub primary: bool,
}

/// The secondary addresses among `interfaces`, with a warning for each that cannot be one. IPv6 subnets are
/// skipped: bridge mode is IPv4.
///
/// # Errors
/// More than a VM can have.
pub fn secondary(interfaces: &[Interface], source: &str) -> Result<Found, String> {
    let subnets = || interfaces.iter().flat_map(|interface| &interface.subnets);
    let addresses = subnets().map(|subnet| subnet.addresses.len()).sum();
    is_possible(subnets().count(), addresses)?;
    let mut reading = Reading {
        source,
        hosts_own: primary_addresses(interfaces),
        seen: BTreeSet::new(),
        subnets: Vec::new(),
        warnings: Vec::new(),
    };
    for interface in interfaces {
        let nic = reading.nic(&interface.mac);
        for subnet in &interface.subnets {
            reading.subnet(nic, interface.primary, subnet);
        }
    }
    Ok(Found {
        subnets: reading.subnets,
        warnings: shortened(reading.warnings),
    })
}

/// Whether a VM can have so many of them. What is done with a list takes the product of both.
pub(super) fn is_possible(subnets: usize, addresses: usize) -> Result<(), String> {
    if subnets > MAX_SUBNETS {
        return Err(format!(
            "it has {subnets} subnets, and {MAX_SUBNETS} are the most"
        ));
    }
    if addresses > MAX_ADDRESSES {
        return Err(format!(
            "it has {addresses} addresses, and {MAX_ADDRESSES} are the most"
        ));
    }
    Ok(())
}

/// The addresses of the VM itself. One may be primary on one NIC and, wrongly, listed on another.
fn primary_addresses(interfaces: &[Interface]) -> BTreeSet<Ipv4Addr> {
    let subnets = interfaces.iter().flat_map(|interface| &interface.subnets);
    let addresses = subnets.flat_map(|subnet| &subnet.addresses);
    addresses
        .filter(|listed| listed.primary)
        .filter_map(|listed| listed.address.trim().parse().ok())
        .collect()
}

struct Reading<'a> {
    source: &'a str,
    hosts_own: BTreeSet<Ipv4Addr>,
    seen: BTreeSet<Ipv4Addr>,
    subnets: Vec<Subnet>,
    warnings: Vec<String>,
}

impl Reading<'_> {
    /// None for any NIC, and for one that is not named: the network plugin then goes by the subnet.
    fn nic(&mut self, mac: &str) -> Option<Mac> {
        match mac.trim() {
            "" | "*" => None,
            text => text
                .parse()
                .map_err(|cause| self.warn(format_args!("a NIC without MAC: {cause}")))
                .ok(),
        }
    }

    fn subnet(&mut self, nic: Option<Mac>, primary: bool, listed: &ListedSubnet) {
        let text = listed.prefix.trim();
        let prefix = match text.parse::<IpNet>() {
            Ok(IpNet::V4(prefix)) => prefix.trunc(),
            Ok(IpNet::V6(_)) => return,
            Err(_) => {
                let text = foreign::excerpt(text);
                return self.warn(format_args!("subnet \"{text}\": not a prefix; skipped"));
            }
        };
        if let Some(why) = pod_address::unfit_subnet(prefix) {
            return self.warn(format_args!("subnet {prefix}: {why}; skipped"));
        }
        let mut addresses = BTreeSet::new();
        for listed in &listed.addresses {
            addresses.extend(self.address(listed.address.trim(), prefix));
        }
        self.add(Subnet {
            prefix,
            nic,
            primary,
            addresses,
        });
    }

    /// The address, if pods may have it.
    fn address(&mut self, text: &str, prefix: Ipv4Net) -> Option<Ipv4Addr> {
        let Ok(address) = text.parse::<Ipv4Addr>() else {
            let text = foreign::excerpt(text);
            self.warn(format_args!(
                "\"{text}\" in {prefix}: not an IPv4 address; skipped"
            ));
            return None;
        };
        if self.hosts_own.contains(&address) || !self.seen.insert(address) {
            return None;
        }
        if !prefix.contains(&address) {
            self.warn(format_args!(
                "{address}: outside its subnet {prefix}; skipped"
            ));
            return None;
        }
        if let Some(why) = pod_address::unfit(address) {
            self.warn(format_args!(
                "{address}: {why}, no pod can have it; skipped"
            ));
            return None;
        }
        if is_reserved(address, prefix) {
            self.warn(format_args!(
                "{address}: reserved by Azure in {prefix}; skipped"
            ));
            return None;
        }
        Some(address)
    }

    /// A NIC may list a subnet twice.
    fn add(&mut self, subnet: Subnet) {
        let mut subnets = self.subnets.iter_mut();
        let same = subnets.find(|known| {
            (known.prefix, known.nic, known.primary) == (subnet.prefix, subnet.nic, subnet.primary)
        });
        match same {
            Some(known) => known.addresses.extend(subnet.addresses),
            None => self.subnets.push(subnet),
        }
    }

    fn warn(&mut self, what: impl Display) {
        self.warnings.push(format!("{} has {what}", self.source));
    }
}

fn shortened(mut warnings: Vec<String>) -> Vec<String> {
    let more = warnings.len().saturating_sub(MAX_WARNINGS);
    if more > 0 {
        warnings.truncate(MAX_WARNINGS);
        warnings.push(format!("and {more} more such entries"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn listed(address: &str, primary: bool) -> Listed {
        Listed {
            address: address.into(),
            primary,
        }
    }

    fn nic(mac: &str, prefix: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|address| listed(address, false));
        Interface {
            mac: mac.into(),
            primary: false,
            subnets: vec![ListedSubnet {
                prefix: prefix.into(),
                addresses: addresses.collect(),
            }],
        }
    }

    /// Two NICs may be in one subnet: their addresses must not be mixed up.
    #[test]
    fn a_subnet_of_two_nics_is_two_pools() {
        let interfaces = [
            nic("000D3A000001", "10.0.0.0/24", &["10.0.0.5"]),
            nic("000D3A000002", "10.0.0.0/24", &["10.0.0.6"]),
            nic("000D3A000002", "10.0.0.0/24", &["10.0.0.7", "10.0.0.5"]),
        ];
        let found = secondary(&interfaces, "the list").unwrap();
        let pools: Vec<(String, usize)> = found
            .subnets
            .iter()
            .map(|subnet| {
                (
                    subnet.nic.map_or_else(String::new, String::from),
                    subnet.addresses.len(),
                )
            })
            .collect();
        assert_eq!(
            pools,
            [
                ("00:0d:3a:00:00:01".to_owned(), 1),
                ("00:0d:3a:00:00:02".to_owned(), 2)
            ]
        );
        assert_eq!(found.warnings, [] as [&str; 0]);
    }

    #[test]
    fn any_mac_and_none_are_no_nic_in_particular() {
        for (mac, warnings) in [("*", 0), ("", 0), ("moon", 1)] {
            let found = secondary(&[nic(mac, "10.0.0.0/24", &["10.0.0.5"])], "the list").unwrap();
            assert_eq!(found.subnets[0].nic, None, "{mac}");
            assert_eq!(found.warnings.len(), warnings, "{mac}");
        }
    }

    #[test]
    fn a_list_of_nonsense_does_not_fill_the_log() {
        let nonsense: Vec<String> = (0..5000).map(|number| format!("x{number}")).collect();
        let nonsense: Vec<&str> = nonsense.iter().map(String::as_str).collect();
        let found = secondary(&[nic("*", "10.0.0.0/24", &nonsense)], "the list").unwrap();
        assert_eq!(found.warnings.len(), MAX_WARNINGS + 1);
        assert_eq!(found.warnings[MAX_WARNINGS], "and 4990 more such entries");
    }
    #[test]
    fn addresses_that_no_pod_can_have_are_skipped() {
        for (prefix, address) in [
            ("0.0.0.0/8", "0.0.0.9"),
            ("127.0.0.0/8", "127.0.0.9"),
            ("169.254.0.0/16", "169.254.7.9"),
            ("224.0.0.0/4", "224.0.0.9"),
            ("240.0.0.0/4", "255.255.255.254"),
            ("10.0.0.0/0", "10.0.0.9"),
        ] {
            let found = secondary(&[nic("*", prefix, &[address])], "the list").unwrap();
            let subnets = found.subnets.iter();
            assert_eq!(
                subnets.map(|it| it.addresses.len()).sum::<usize>(),
                0,
                "{prefix}"
            );
            assert_eq!(found.warnings.len(), 1, "{prefix}");
        }
    }

    #[test]
    fn a_list_is_no_longer_than_a_vm_can_have() {
        let address = |number: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string();
        let of = |count: u32| (16..16 + count).map(address).collect::<Vec<String>>();
        let list = |addresses: &[String]| {
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            secondary(&[nic("*", "10.0.0.0/8", &addresses)], "the list")
        };
        assert_eq!(
            list(&of(16_384)).unwrap().subnets[0].addresses.len(),
            16_384
        );
        let error = list(&of(16_385)).unwrap_err();
        assert_eq!(error, "it has 16385 addresses, and 16384 are the most");
        let many: Vec<Interface> = (0..257).map(|_| nic("*", "10.0.0.0/8", &[])).collect();
        assert!(secondary(&many[..256], "the list").is_ok());
        let error = secondary(&many, "the list").unwrap_err();
        assert_eq!(error, "it has 257 subnets, and 256 are the most");
    }

    #[test]
    fn a_warning_repeats_no_more_than_the_beginning() {
        let long = "x\u{1b}".repeat(1 << 16);
        let found = secondary(&[nic(&long, "10.0.0.0/24", &[&long])], "the list").unwrap();
        assert_eq!(found.warnings.len(), 2);
        for warning in found.warnings {
            assert!(
                warning.len() < 2048 && !warning.contains('\u{1b}'),
                "{warning}"
            );
        }
    }
}
