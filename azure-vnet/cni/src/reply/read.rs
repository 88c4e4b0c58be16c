//! A result as some other plugin wrote it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};

use super::{Dns, Interface, Ip, Route, Success};
use crate::{keys, version::Version};

/// Why a result cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its `cniVersion` is none that we know, so its form may not be either.
    #[error("unsupported CNI result version {0:?}")]
    Version(String),
    /// A member has the wrong type or is not an address.
    #[error(transparent)]
    Form(serde_json::Error),
}

impl Success {
    /// Reads a result of any version; one without `cniVersion` is of version `fallback`.
    ///
    /// The form is recognised by its members, not by its label: a 0.2.0 result under a 0.3.1 label is read
    /// as what it is.
    pub fn from_json(value: &Value, fallback: Version) -> Result<Success, ReadError> {
        let result: Written = keys::from_value(value.clone()).map_err(ReadError::Form)?;
        let label = Some(result.cni_version.as_str()).filter(|label| !label.is_empty());
        let label = label.unwrap_or(fallback.as_str());
        if Version::known(label).is_none() {
            return Err(ReadError::Version(label.to_owned()));
        }
        Ok(result.into_success())
    }
}

/// Every member that a result has had in any version.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Written {
    cni_version: String,
    interfaces: Vec<WrittenInterface>,
    ips: Vec<WrittenIp>,
    /// What one section of the 0.3.0 text calls `ips`.
    ip: Vec<WrittenIp>,
    ip4: Option<WrittenFamily>,
    ip6: Option<WrittenFamily>,
    routes: Vec<WrittenRoute>,
    dns: WrittenDns,
    #[serde(rename = "azure-vnet/nic")]
    nic: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct WrittenInterface {
    name: String,
    mac: String,
    sandbox: String,
    mtu: Option<u32>,
    socket_path: Option<String>,
    #[serde(rename = "pciID")]
    pci_id: Option<String>,
}

#[derive(Deserialize)]
struct WrittenIp {
    address: IpNet,
    #[serde(default, deserialize_with = "address_or_empty")]
    gateway: Option<IpAddr>,
    /// Signed, because `-1` for "none" has been seen.
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct WrittenFamily {
    ip: IpNet,
    #[serde(default, deserialize_with = "address_or_empty")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<WrittenRoute>,
}

/// Read as a map, because attributes we do not know are kept.
#[derive(Deserialize)]
#[serde(try_from = "Map<String, Value>")]
struct WrittenRoute(Route);

#[derive(Deserialize, Default)]
#[serde(default)]
struct WrittenDns {
    nameservers: Vec<String>,
    domain: String,
    search: Vec<String>,
    options: Vec<String>,
}

impl Written {
    fn into_success(self) -> Success {
        let list = if self.ips.is_empty() {
            self.ip
        } else {
            self.ips
        };
        let mut ips: Vec<Ip> = list.into_iter().map(Ip::from).collect();
        let mut routes = self.routes;
        for family in [self.ip4, self.ip6].into_iter().flatten() {
            ips.push(Ip {
                address: family.ip,
                gateway: family.gateway,
                interface: None,
            });
            routes.extend(family.routes);
        }
        Success {
            interfaces: self.interfaces.into_iter().map(Interface::from).collect(),
            ips,
            routes: routes.into_iter().map(|route| route.0).collect(),
            dns: Dns {
                nameservers: self.dns.nameservers,
                domain: self.dns.domain,
                search: self.dns.search,
                options: self.dns.options,
            },
            nic: self.nic.filter(|nic| !nic.is_empty()),
        }
    }
}

impl From<WrittenIp> for Ip {
    fn from(ip: WrittenIp) -> Self {
        Ip {
            address: ip.address,
            gateway: ip.gateway,
            interface: ip.interface.and_then(|index| usize::try_from(index).ok()),
        }
    }
}

impl From<WrittenInterface> for Interface {
    fn from(interface: WrittenInterface) -> Self {
        Interface {
            name: interface.name,
            mac: interface.mac,
            sandbox: Some(interface.sandbox).filter(|sandbox| !sandbox.is_empty()),
            mtu: interface.mtu,
            socket_path: interface.socket_path,
            pci_id: interface.pci_id,
        }
    }
}

impl TryFrom<Map<String, Value>> for WrittenRoute {
    type Error = String;

    fn try_from(mut object: Map<String, Value>) -> Result<Self, String> {
        let dst = take_text(&mut object, "dst")?.ok_or("a route has no `dst`")?;
        let dst = dst
            .parse()
            .map_err(|cause| format!("route `dst` {dst:?}: {cause}"))?;
        let gw = take_text(&mut object, "gw")?.map(|gw| {
            gw.parse()
                .map_err(|cause| format!("route `gw` {gw:?}: {cause}"))
        });
        Ok(WrittenRoute(Route {
            dst,
            gw: gw.transpose()?,
            other: object,
        }))
    }
}

/// Removes a member of text; `null` and the empty string are none.
fn take_text(object: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    let mut names = object.keys();
    let Some(name) = names.find(|name| name.eq_ignore_ascii_case(key)).cloned() else {
        return Ok(None);
    };
    match object.remove(&name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(other) => Err(format!("route `{key}` {other} is not a string")),
    }
}

/// Go writes an unset address as the empty string.
fn address_or_empty<'de, D: Deserializer<'de>>(input: D) -> Result<Option<IpAddr>, D::Error> {
    let text = String::deserialize(input)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|cause| D::Error::custom(format_args!("{text:?}: {cause}")))
}
