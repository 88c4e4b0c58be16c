//! The network configuration: as sent ([`Sent`], tolerant) and as meant ([`Config`], checked once,
//! so that nothing behind it has to ask again).

mod error;
pub mod masquerade;
mod sent;

use std::collections::BTreeSet;

use azure_vnet_cni::{NetConf, keys, reply::Dns};
use serde_json::Value;

use crate::netlink::MacAddress;

pub use error::Error;
pub use masquerade::Masquerade;

use sent::{OnlyIpam, Sent, SentDns, SentIpam, SentRuntimeDns};

/// What the configuration asks for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the bridge; by default `azure<interface index of the NIC>`.
    pub bridge: Option<String>,
    /// The NIC; by default the one that owns the pool's subnet.
    pub master: Option<String>,
    /// Whether the original plugin's `ipsToRouteViaHost` was given, which is not needed here.
    pub has_ips_to_route: bool,
    /// The IPAM plugin.
    pub ipam: String,
    /// DNS settings that replace IPAM's in the result.
    pub dns: Option<Dns>,
    /// MAC for the pod's interface; by default it follows from the address.
    pub mac: Option<MacAddress>,
    /// Ports of the node that another plugin maps to the pod.
    pub host_ports: Vec<u16>,
    /// What is masqueraded and by what.
    pub masquerade: Masquerade,
}

/// Bytes of a file's name and of a domain's.
const LONGEST_NAME: usize = 255;
/// Of each list; resolvers take 3 name servers, and kubelet 32 domains.
const MOST_DNS_ENTRIES: usize = 64;

/// Keys of the reference bridge that isolate pods, or change what they see, and that this plugin does
/// not have. Ignored, they would promise what is not there.
const UNSUPPORTED: [&str; 6] = [
    "vlan",
    "vlanTrunk",
    "macspoofchk",
    "portIsolation",
    "promiscMode",
    "disableContainerInterface",
];

impl Config {
    /// Reads and checks the configuration of an ADD.
    pub fn read(conf: &NetConf) -> Result<Self, Error> {
        let sent: Sent = conf.parse().map_err(|error| Error::Shape(error.msg))?;
        refuse_unsupported(conf)?;
        if let Some(mode) = sent.mode.filter(|mode| mode != "bridge") {
            return Err(Error::Mode(mode));
        }
        let runtime = sent.runtime_config.unwrap_or_default();
        Ok(Self {
            bridge: interface("bridge", sent.bridge)?,
            master: interface("master", sent.master)?,
            has_ips_to_route: (sent.ips_to_route_via_host)
                .is_some_and(|addresses| !is_default(&addresses)),
            ipam: ipam_type(sent.ipam)?,
            dns: (runtime.dns.and_then(SentRuntimeDns::into_dns))
                .or_else(|| sent.dns.and_then(SentDns::into_dns))
                .map(dns)
                .transpose()?,
            mac: requested_mac(runtime.mac, sent.args.as_ref())?,
            host_ports: host_ports(runtime.port_mappings.as_ref()),
            masquerade: masquerade::read(sent.masquerade.unwrap_or_default())?,
        })
    }
}

/// The IPAM plugin that a DEL has to call: all it needs of a configuration that may have changed
/// since the ADD, or may have been wrong even then.
pub fn ipam_of(conf: &NetConf) -> Result<String, Error> {
    let sent: OnlyIpam = conf.parse().map_err(|error| Error::Shape(error.msg))?;
    ipam_type(sent.ipam)
}

fn refuse_unsupported(conf: &NetConf) -> Result<(), Error> {
    for key in UNSUPPORTED {
        if let Some(value) = conf.get(key).filter(|value| !is_default(value)) {
            let value = value.clone();
            return Err(Error::Unsupported { key, value });
        }
    }
    Ok(())
}

/// What a Go program writes for a value that nobody set.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// What is wrong with a mapping is for the plugin to say that carries it out.
fn host_ports(mappings: Option<&Value>) -> Vec<u16> {
    let mappings = mappings.and_then(Value::as_array).into_iter().flatten();
    let ports = mappings.filter_map(|mapping| {
        let port = keys::get(mapping.as_object()?, "hostPort")?.as_u64()?;
        u16::try_from(port).ok().filter(|port| *port != 0)
    });
    let ports: BTreeSet<u16> = ports.collect();
    ports.into_iter().collect()
}

/// What the runtime was asked for comes before what stands in the configuration.
fn requested_mac(
    runtime: Option<Value>,
    args: Option<&Value>,
) -> Result<Option<MacAddress>, Error> {
    let member = |object: &Value, key| keys::get(object.as_object()?, key).cloned();
    let in_args = || member(&member(args?, "cni")?, "mac");
    let given = |value: &Value| !is_default(value);
    let requested = (runtime
        .filter(given)
        .map(|value| ("runtimeConfig.mac", value)))
    .or_else(|| Some(("args.cni.mac", in_args().filter(given)?)));
    requested
        .map(|(key, value)| {
            let mac = value.as_str().and_then(unicast);
            mac.ok_or(Error::Mac { key, value })
        })
        .transpose()
}

/// A MAC that an interface can have: not a group's, not zero.
pub fn unicast(text: &str) -> Option<MacAddress> {
    let mac: MacAddress = text.parse().ok()?;
    (mac.0[0] & 1 == 0 && mac.0 != [0; 6]).then_some(mac)
}

fn ipam_type(ipam: Option<SentIpam>) -> Result<String, Error> {
    let kind = ipam.and_then(|ipam| ipam.kind);
    let kind = kind.filter(|kind| !kind.is_empty()).ok_or(Error::NoIpam)?;
    let most = LONGEST_NAME;
    if kind.len() > most {
        return Err(Error::TooLong {
            key: "ipam.type",
            most,
        });
    }
    Ok(kind)
}

/// The result repeats them, and runtimes write them into the pod's `resolv.conf`.
fn dns(dns: Dns) -> Result<Dns, Error> {
    let lists = [&dns.nameservers, &dns.search, &dns.options];
    if lists.iter().any(|list| list.len() > MOST_DNS_ENTRIES) {
        let (key, most) = ("dns", MOST_DNS_ENTRIES);
        return Err(Error::TooMany { key, most });
    }
    let is_long = |text: &String| text.len() > LONGEST_NAME;
    if is_long(&dns.domain) || lists.iter().any(|list| list.iter().any(is_long)) {
        let (key, most) = ("dns", LONGEST_NAME);
        return Err(Error::TooLong { key, most });
    }
    Ok(dns)
}

/// An absent or empty name leaves the choice to the plugin.
fn interface(key: &'static str, value: Option<String>) -> Result<Option<String>, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match value.filter(|value| !value.is_empty()) {
        Some(value)
            if value.len() > 15
                || !value.chars().all(plain)
                || matches!(value.as_str(), "." | "..") =>
        {
            Err(Error::InterfaceName { key, value })
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests;
