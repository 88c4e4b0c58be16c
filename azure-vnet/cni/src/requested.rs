//! What a runtime asks for in particular: addresses, a MAC address.
//!
//! There are three places for it, and the more modern one wins: `runtimeConfig`, then `args.cni`, then
//! `CNI_ARGS`. <https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md>

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::{error::CniError, keys, netconf::NetConf, request::Add};

/// A wish, and where it stands, for an error about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested<T> {
    /// What is asked for.
    pub value: T,
    /// Such as `runtimeConfig.ips`.
    pub by: &'static str,
}

impl Add {
    /// The addresses the container should have; never an empty list. A prefix length that comes with one is
    /// dropped, as host-local does: it is the subnet's that counts.
    ///
    /// # Errors
    /// Code 7, or 4 for `CNI_ARGS`, if there is something that is no address.
    pub fn requested_ips(&self) -> Result<Option<Requested<Vec<IpAddr>>>, CniError> {
        for by in ["runtimeConfig.ips", "args.cni.ips"] {
            let Some(value) = member(&self.conf, by) else {
                continue;
            };
            match list_of_ips(value).ok_or_else(|| not("a list of IP addresses", by, value))? {
                empty if empty.is_empty() => {}
                value => return Ok(Some(Requested { value, by })),
            }
        }
        let found = self.in_args("IP", "CNI_ARGS IP", ip, "an IP address")?;
        Ok(found.map(|Requested { value, by }| Requested {
            value: vec![value],
            by,
        }))
    }

    /// The MAC address the container's interface should have.
    ///
    /// # Errors
    /// Code 7, or 4 for `CNI_ARGS`, if there is something that cannot be an interface's address.
    pub fn requested_mac(&self) -> Result<Option<Requested<[u8; 6]>>, CniError> {
        for by in ["runtimeConfig.mac", "args.cni.mac"] {
            match member(&self.conf, by) {
                None => {}
                Some(Value::String(empty)) if empty.is_empty() => {}
                Some(value) => {
                    let mac = value.as_str().and_then(mac);
                    let value = mac.ok_or_else(|| not("an interface's MAC address", by, value))?;
                    return Ok(Some(Requested { value, by }));
                }
            }
        }
        self.in_args("MAC", "CNI_ARGS MAC", mac, "an interface's MAC address")
    }

    fn in_args<T>(
        &self,
        key: &str,
        by: &'static str,
        read: fn(&str) -> Option<T>,
        what: &str,
    ) -> Result<Option<Requested<T>>, CniError> {
        let Some(text) = self.args.get(key).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let value = read(text)
            .ok_or_else(|| CniError::invalid_environment(format!("{by} {text:?} is not {what}")))?;
        Ok(Some(Requested { value, by }))
    }
}

/// The value at a path of keys; `null` is none, and so is a path through something that is no object.
fn member<'a>(conf: &'a NetConf, path: &str) -> Option<&'a Value> {
    let (section, rest) = path.split_once('.')?;
    let mut keys = rest.split('.');
    keys.try_fold(conf.get(section)?, |value, key| {
        keys::get(value.as_object()?, key)
    })
    .filter(|value| !value.is_null())
}

fn not(what: &str, by: &str, value: &Value) -> CniError {
    CniError::invalid_config(format!("{by} {value} is not {what}"))
}

fn list_of_ips(value: &Value) -> Option<Vec<IpAddr>> {
    value
        .as_array()?
        .iter()
        .map(|item| ip(item.as_str()?))
        .collect()
}

fn ip(text: &str) -> Option<IpAddr> {
    let bare = text.parse().ok();
    bare.or_else(|| Some(text.parse::<IpNet>().ok()?.addr()))
}

/// Six bytes in hexadecimal with `:` or `-` between them, not zero and not a group's (IEEE 802).
fn mac(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let bytes = text.split(separator).map(|byte| match byte.as_bytes() {
        [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            u8::from_str_radix(byte, 16).ok()
        }
        _ => None,
    });
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    let mac: [u8; 6] = bytes.try_into().ok()?;
    (mac != [0; 6] && mac[0] & 1 == 0).then_some(mac)
}

#[cfg(test)]
mod tests;
