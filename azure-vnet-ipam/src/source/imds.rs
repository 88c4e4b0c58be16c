//! The instance metadata service at 169.254.169.254: the VM's NICs as JSON.
//!
//! <https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service>, category `network`. It does not
//! say which address is a NIC's primary one, nor which NIC is the VM's: both are the first of their list. It
//! answers the node only, which this plugin is part of.

use std::{net::Ipv4Addr, time::Duration};

use azure_vnet_cni::{json, keys};
use ipnet::Ipv4Net;
use serde::Deserialize;

use super::{
    Error, Found,
    http::Question,
    listing::{self, Interface, Listed, ListedSubnet},
};

/// A version that the service has had for years in every cloud.
const PATH: &str = "/metadata/instance/network?api-version=2021-02-01";

/// Asks the service at `base`; `limit` is for all attempts together.
pub(super) fn fetch(base: &str, limit: Duration) -> Result<Found, Error> {
    let question = Question {
        name: "the instance metadata service",
        url: format!("{base}{PATH}"),
        // Without it the service refuses: a request that was redirected to it would not have the header.
        header: Some(("Metadata", "true")),
    };
    let text = question.ask(limit)?;
    parse(&text).map_err(|problem| question.not("JSON", &problem))
}

#[derive(Deserialize)]
struct Network {
    interface: Vec<Nic>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Nic {
    mac_address: String,
    ipv4: Family,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Family {
    ip_address: Vec<IpAddress>,
    subnet: Vec<Subnet>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct IpAddress {
    private_ip_address: String,
}

/// The length is a string.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Subnet {
    address: String,
    prefix: String,
}

/// The secondary addresses in the document.
///
/// # Errors
/// What about it is not as expected.
pub fn parse(text: &str) -> Result<Found, String> {
    let network = json::from_slice(text.as_bytes()).and_then(keys::from_value::<Network>);
    let network = network.map_err(|cause| cause.to_string())?;
    let families = || network.interface.iter().map(|nic| &nic.ipv4);
    // Each address is looked for in each subnet of its NIC.
    listing::is_possible(
        families().map(|family| family.subnet.len()).sum(),
        families().map(|family| family.ip_address.len()).sum(),
    )?;
    let nics = network.interface.into_iter().enumerate();
    let interfaces: Vec<Interface> = nics
        .map(|(index, nic)| interface(index == 0, nic))
        .collect();
    listing::secondary(&interfaces, "the instance metadata service's list")
}

fn interface(is_first: bool, nic: Nic) -> Interface {
    let mut subnets: Vec<ListedSubnet> = nic.ipv4.subnet.iter().map(subnet).collect();
    for (index, listed) in nic.ipv4.ip_address.into_iter().enumerate() {
        let address = Listed {
            address: listed.private_ip_address,
            primary: index == 0,
        };
        // Beside the subnets, not in them; one that is in none stands where it will be warned of.
        let its = subnets.iter().position(|subnet| holds(subnet, &address));
        if let Some(subnet) = subnets.get_mut(its.unwrap_or(0)) {
            subnet.addresses.push(address);
        }
    }
    Interface {
        mac: nic.mac_address,
        primary: is_first,
        subnets,
    }
}

fn subnet(subnet: &Subnet) -> ListedSubnet {
    ListedSubnet {
        prefix: format!("{}/{}", subnet.address.trim(), subnet.prefix.trim()),
        addresses: Vec::new(),
    }
}

fn holds(subnet: &ListedSubnet, listed: &Listed) -> bool {
    let prefix = subnet.prefix.parse::<Ipv4Net>();
    let address = listed.address.trim().parse::<Ipv4Addr>();
    matches!((prefix, address), (Ok(prefix), Ok(address)) if prefix.contains(&address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// The form of the documentation, with a second NIC and a second subnet.
    const JSON: &str = r#"{"interface": [
        {"ipv4": {"ipAddress": [
            {"privateIpAddress": "10.0.0.4", "publicIpAddress": "203.0.113.1"},
            {"privateIpAddress": "10.0.0.5", "publicIpAddress": ""},
            {"privateIpAddress": "10.0.1.6", "publicIpAddress": ""},
            {"privateIpAddress": "10.9.0.6", "publicIpAddress": ""}],
          "subnet": [{"address": "10.0.0.0", "prefix": "24"}, {"address": "10.0.1.0", "prefix": "24"}]},
         "ipv6": {"ipAddress": []}, "macAddress": "000D3A112233"},
        {"ipv4": {"ipAddress": [{"privateIpAddress": "10.0.2.4"}, {"privateIpAddress": "10.0.2.5"}],
          "subnet": [{"address": "10.0.2.0", "prefix": "24"}]}, "macAddress": "000D3A112244"}]}"#;

    #[test]
    fn the_documented_form() {
        let found = parse(JSON).unwrap();
        let pools: Vec<_> = found
            .subnets
            .iter()
            .map(|subnet| {
                let addresses = subnet.addresses.iter().map(ToString::to_string);
                (
                    subnet.prefix.to_string(),
                    subnet.primary,
                    addresses.collect(),
                )
            })
            .collect();
        let pool = |prefix: &str, primary, address: &str| {
            (prefix.to_owned(), primary, vec![address.to_owned()])
        };
        assert_eq!(
            pools,
            [
                pool("10.0.0.0/24", true, "10.0.0.5"),
                pool("10.0.1.0/24", true, "10.0.1.6"),
                pool("10.0.2.0/24", false, "10.0.2.5"),
            ]
        );
        assert_eq!(found.subnets[2].nic, "00:0d:3a:11:22:44".parse().ok());
        assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
        assert!(found.warnings[0].contains("10.9.0.6"));
    }

    #[test]
    fn what_is_no_such_document_is_an_error() {
        for json in [
            "",
            "{}",
            "[]",
            r#"{"interface": {}}"#,
            r#"{"interface": [7]}"#,
        ] {
            assert!(parse(json).is_err(), "{json}");
        }
        for empty in [r#"{"interface": []}"#, r#"{"interface": [{}]}"#] {
            assert_eq!(parse(empty).unwrap().subnets, [], "{empty}");
        }
    }
}
