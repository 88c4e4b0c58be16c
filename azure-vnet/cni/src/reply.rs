//! Results, in the form of every version of the specification.
//!
//! Inside the plugins there is one form, [`Success`]; versions exist only at the edge. Reading is tolerant,
//! as delegates and other plugins of a chain speak versions of their own and mislabel them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::version::{Addresses, SUPPORTED, Version};

mod read;

pub use read::ReadError;

/// The result of an ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Success {
    /// Links made or used; an IPAM plugin has none.
    pub interfaces: Vec<Interface>,
    /// Addresses, in the order they were given.
    pub ips: Vec<Ip>,
    /// Routes for the container's namespace.
    pub routes: Vec<Route>,
    /// Name resolution for the container.
    pub dns: Dns,
    /// MAC of the NIC that owns the addresses, `00:0d:3a:01:02:03`; only from an IPAM plugin that knows it. A
    /// subnet does not name a NIC, as a VM may have several in one.
    pub nic: Option<String>,
}

/// The member for [`Success::nic`]. The specification has none; readers that do not know it skip it.
const NIC: &str = "azure-vnet/nic";

/// A network interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name within its namespace.
    pub name: String,
    /// 17 characters, lower case; empty if unknown.
    pub mac: String,
    /// `CNI_NETNS` byte for byte for an interface of the container; `None` for one of the host.
    pub sandbox: Option<String>,
    /// In bytes. Printed from 1.1.0 on.
    pub mtu: Option<u32>,
    /// Printed from 1.1.0 on; only ever passed through.
    pub socket_path: Option<String>,
    /// Printed from 1.1.0 on; only ever passed through.
    pub pci_id: Option<String>,
}

/// An address of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// With the prefix length of its subnet.
    pub address: IpNet,
    /// The subnet's gateway. It makes no route: those are in [`Success::routes`].
    pub gateway: Option<IpAddr>,
    /// Index into [`Success::interfaces`]; `None` from an IPAM plugin.
    pub interface: Option<usize>,
}

/// A route of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; `None` means the gateway of the same family in [`Success::ips`].
    pub gw: Option<IpAddr>,
    /// Attributes of later versions (`mtu`, `table`, …), passed through as libcni does.
    pub other: Map<String, Value>,
}

/// Name resolution of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers, best first.
    pub nameservers: Vec<String>,
    /// The local domain; empty if none.
    pub domain: String,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// A result that a version has no words for.
#[derive(Debug, thiserror::Error)]
#[error("CNI version {0} needs at least one address in a result, and there is none")]
pub struct NoAddress(Version);

impl Route {
    /// A route without further attributes.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Route {
            dst,
            gw,
            other: Map::new(),
        }
    }

    fn to_json(&self) -> Value {
        let mut object = self.other.clone();
        object.insert("dst".into(), json!(self.dst));
        put(&mut object, "gw", self.gw);
        Value::Object(object)
    }
}

impl Success {
    /// The result as `version` spells it.
    ///
    /// # Errors
    /// 0.1.0 and 0.2.0 cannot say "no address".
    pub fn to_json(&self, version: Version) -> Result<Value, NoAddress> {
        let mut object = Map::new();
        object.insert("cniVersion".into(), json!(version.as_str()));
        match version.addresses() {
            Addresses::PerFamily => self.put_families(&mut object, version)?,
            Addresses::ListWithFamily => self.put_lists(&mut object, version, true),
            Addresses::List => self.put_lists(&mut object, version, false),
        }
        let dns = self.dns.to_json();
        if version.dns_always() || !dns.is_empty() {
            object.insert("dns".into(), Value::Object(dns));
        }
        put(&mut object, NIC, self.nic.as_ref());
        Ok(Value::Object(object))
    }

    /// `ip4` and `ip6`: the first address of each family, with that family's routes; the rest is dropped.
    fn put_families(
        &self,
        object: &mut Map<String, Value>,
        version: Version,
    ) -> Result<(), NoAddress> {
        for (key, is_family) in [("ip4", is_ipv4 as fn(&IpNet) -> bool), ("ip6", is_ipv6)] {
            let Some(ip) = self.ips.iter().find(|ip| is_family(&ip.address)) else {
                continue;
            };
            let routes = self.routes.iter().filter(|route| is_family(&route.dst));
            let routes: Vec<Value> = routes
                .map(|route| Route::new(route.dst, route.gw).to_json())
                .collect();
            let mut family = Map::new();
            family.insert("ip".into(), json!(ip.address));
            put(&mut family, "gateway", ip.gateway);
            if !routes.is_empty() {
                family.insert("routes".into(), json!(routes));
            }
            object.insert(key.into(), Value::Object(family));
        }
        if self.ips.is_empty() {
            return Err(NoAddress(version));
        }
        Ok(())
    }

    fn put_lists(&self, object: &mut Map<String, Value>, version: Version, with_family: bool) {
        let interfaces = self.interfaces.iter();
        let interfaces = interfaces.map(|interface| interface.to_json(version));
        let ips = self.ips.iter().map(|ip| ip.to_json(with_family));
        let routes = self.routes.iter().map(Route::to_json);
        put_list(object, "interfaces", interfaces.collect());
        put_list(object, "ips", ips.collect());
        put_list(object, "routes", routes.collect());
    }
}

impl Interface {
    fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), json!(self.name));
        put(
            &mut object,
            "mac",
            Some(&self.mac).filter(|mac| !mac.is_empty()),
        );
        put(&mut object, "sandbox", self.sandbox.as_ref());
        if version.interface_details() {
            put(&mut object, "mtu", self.mtu);
            put(&mut object, "socketPath", self.socket_path.as_ref());
            put(&mut object, "pciID", self.pci_id.as_ref());
        }
        Value::Object(object)
    }
}

impl Ip {
    fn to_json(&self, with_family: bool) -> Value {
        let mut object = Map::new();
        if with_family {
            // Derived from the address, so that a delegate's wrong label does not travel on.
            let family = if self.address.addr().is_ipv4() {
                "4"
            } else {
                "6"
            };
            object.insert("version".into(), json!(family));
        }
        object.insert("address".into(), json!(self.address));
        put(&mut object, "gateway", self.gateway);
        put(&mut object, "interface", self.interface);
        Value::Object(object)
    }
}

impl Dns {
    fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        let list = |list: &[String]| list.iter().map(|item| json!(item)).collect();
        put_list(&mut object, "nameservers", list(&self.nameservers));
        let domain = Some(&self.domain).filter(|domain| !domain.is_empty());
        put(&mut object, "domain", domain);
        put_list(&mut object, "search", list(&self.search));
        put_list(&mut object, "options", list(&self.options));
        object
    }
}

/// The answer to VERSION, in `version`.
pub(crate) fn version_reply(version: Version) -> Value {
    json!({
        "cniVersion": version.as_str(),
        "supportedVersions": SUPPORTED.map(Version::as_str),
    })
}

fn is_ipv4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

fn is_ipv6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

fn put(object: &mut Map<String, Value>, key: &str, value: Option<impl serde::Serialize>) {
    if let Some(value) = value {
        object.insert(key.into(), json!(value));
    }
}

fn put_list(object: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        object.insert(key.into(), Value::Array(list));
    }
}

#[cfg(test)]
mod tests;
