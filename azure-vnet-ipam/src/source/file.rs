//! A list of NICs in a file, in the form that the original plugin reads from `/etc/kubernetes/interfaces.json`.
//!
//! ```json
//! {"Interfaces": [{"MacAddress": "000D3A112233", "IsPrimary": true, "IPSubnets": [{"Prefix": "10.20.0.0/22",
//!   "IPAddresses": [{"Address": "10.20.0.4", "IsPrimary": true}, {"Address": "10.20.0.5", "IsPrimary": false}]}]}]}
//! ```

use std::path::Path;

use azure_vnet_cni::{foreign, json, keys};
use serde::Deserialize;

use super::{
    Error, Found,
    http::MAX_BYTES,
    listing::{self, Interface, Listed, ListedSubnet},
};

/// The text is not such a list.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAList(String);

/// Reads the list.
pub(super) fn fetch(path: &Path) -> Result<Found, Error> {
    let bytes = azure_vnet_files::read(path, MAX_BYTES).map_err(|cause| Error::File {
        path: path.into(),
        cause,
    })?;
    parse(&bytes).map_err(|problem| Error::FileForm {
        path: path.into(),
        problem,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    interfaces: Vec<WrittenInterface>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct WrittenInterface {
    mac_address: String,
    is_primary: bool,
    #[serde(rename = "IPSubnets")]
    ip_subnets: Vec<WrittenSubnet>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct WrittenSubnet {
    prefix: String,
    #[serde(rename = "IPAddresses")]
    ip_addresses: Vec<WrittenAddress>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct WrittenAddress {
    address: String,
    is_primary: bool,
}

/// The secondary addresses in the list.
///
/// # Errors
/// What about it is not as expected.
pub fn parse(text: &[u8]) -> Result<Found, NotAList> {
    let list = json::from_slice(text).and_then(keys::from_value::<List>);
    let list = list.map_err(|cause| NotAList(foreign::excerpt(&cause.to_string()).into_owned()))?;
    let interfaces: Vec<Interface> = list.interfaces.into_iter().map(interface).collect();
    listing::secondary(&interfaces, "the list of addresses").map_err(NotAList)
}

fn interface(written: WrittenInterface) -> Interface {
    let subnets = written.ip_subnets.into_iter().map(|subnet| ListedSubnet {
        prefix: subnet.prefix,
        addresses: subnet.ip_addresses.into_iter().map(address).collect(),
    });
    Interface {
        mac: written.mac_address,
        primary: written.is_primary,
        subnets: subnets.collect(),
    }
}

fn address(written: WrittenAddress) -> Listed {
    Listed {
        address: written.address,
        primary: written.is_primary,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_original_plugins_form_in_any_case() {
        for json in [
            r#"{"Interfaces":[{"MacAddress":"000D3A112233","IsPrimary":true,"IPSubnets":[{"Prefix":"10.20.0.0/22",
                "IPAddresses":[{"Address":"10.20.0.4","IsPrimary":true},{"Address":"10.20.0.5","IsPrimary":false}]}]}]}"#,
            r#"{"interfaces":[{"macaddress":"00:0d:3a:11:22:33","isprimary":true,"ipsubnets":[{"prefix":"10.20.0.0/22",
                "ipaddresses":[{"address":"10.20.0.4","isPrimary":true},{"address":"10.20.0.5"}]}]}]}"#,
        ] {
            let found = parse(json.as_bytes()).unwrap();
            assert_eq!(found.warnings, [] as [&str; 0]);
            let [subnet] = &found.subnets[..] else {
                panic!("{found:?}")
            };
            assert!(subnet.primary && subnet.nic == "00:0d:3a:11:22:33".parse().ok());
            let only = [std::net::Ipv4Addr::new(10, 20, 0, 5)];
            assert_eq!(subnet.addresses, only.into());
        }
    }

    #[test]
    fn what_is_no_such_list_is_an_error() {
        for json in [
            "",
            "{}",
            "[]",
            r#"{"Interfaces":{}}"#,
            r#"{"Interfaces":[[]]}"#,
        ] {
            assert!(parse(json.as_bytes()).is_err(), "{json}");
        }
        assert_eq!(parse(br#"{"Interfaces":[]}"#).unwrap().subnets, []);
    }
}
