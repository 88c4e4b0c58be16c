//! The network configuration: as sent ([`Sent`], tolerant) and as meant ([`Config`], checked once,
//! so that nothing behind it has to ask again).

use std::net::Ipv4Addr;

use azure_vnet_cni::{NetConf, reply::Dns};
use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::datapath::Wanted;
use crate::masquerade::{Action, DEFAULT_RANGES, PLATFORM, Policy};
use crate::ports::{self, Ports};

/// What the configuration asks for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the bridge; by default `azure<interface index of the NIC>`.
    pub bridge: Option<String>,
    /// The NIC; by default the one that owns the pool's subnet.
    pub master: Option<String>,
    /// The IPAM plugin.
    pub ipam: String,
    /// DNS settings that replace IPAM's in the result.
    pub dns: Option<Dns>,
    /// What is masqueraded and by what.
    pub masquerade: Masquerade,
}

/// The `masquerade` object.
#[derive(Clone, Debug)]
pub struct Masquerade {
    /// Which tier.
    pub datapath: Wanted,
    /// Ports that masqueraded flows are sent from.
    pub ports: Ports,
    rules: Rules,
}

#[derive(Clone, Debug)]
enum Rules {
    /// `"datapath": "off"`: frames are handled, nothing is masqueraded.
    Off,
    On {
        ranges: Vec<Ipv4Net>,
        link_local: bool,
        rules: Vec<(Ipv4Net, Action)>,
    },
}

impl Masquerade {
    /// The policy for a pool in `subnet`.
    pub fn policy(&self, subnet: Ipv4Net) -> Policy {
        match &self.rules {
            Rules::Off => Policy::off(),
            Rules::On {
                ranges,
                link_local,
                rules,
            } => Policy::new(ranges, subnet, *link_local, rules),
        }
    }
}

/// What is wrong with a configuration. Every text names the key, the value and what would do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the JSON that was expected.
    #[error("{0}")]
    Shape(String),
    /// Another operating mode.
    #[error("\"mode\": \"{0}\" is not supported: \"bridge\" is the only mode")]
    Mode(String),
    /// No IPAM plugin.
    #[error("\"ipam\": {{\"type\": …}} is missing: name the IPAM plugin, \"azure-vnet-ipam\"")]
    NoIpam,
    /// Not a name for an interface.
    #[error(
        "\"{key}\": \"{value}\" cannot name an interface: 1 to 15 letters, digits, '_', '-' or '.'"
    )]
    InterfaceName {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Not a tier.
    #[error(
        "\"masquerade\": {{\"datapath\": \"{0}\"}}: one of \"auto\", \"ebpf\", \"netfilter\", \"off\""
    )]
    Datapath(String),
    /// Not an IPv4 prefix.
    #[error(
        "\"masquerade\": {{\"{key}\": …\"{value}\"…}} is not an IPv4 CIDR such as \"10.0.0.0/8\""
    )]
    Cidr {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Not an action.
    #[error(
        "\"masquerade\": {{\"rules\": …\"{0}\"…}}: one of \"exempt\", \"masquerade\", \"drop\""
    )]
    Action(String),
    /// Rules by protocol or port.
    #[error(
        "\"masquerade\": {{\"rules\": …\"{0}\"…}} is not supported yet: rules go by \"to\" alone"
    )]
    RuleKey(&'static str),
    /// Not a range of ports, or one that others use.
    #[error("\"masquerade\": {{\"ports\": …}}: {0}")]
    Ports(#[from] ports::Error),
}

/// Keys as they may be sent; unknown ones belong to other plugins or to the future.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    mode: Option<String>,
    bridge: Option<String>,
    master: Option<String>,
    ipam: Option<SentIpam>,
    dns: Option<SentDns>,
    masquerade: Option<SentMasquerade>,
}

#[derive(Deserialize)]
struct SentIpam {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct SentDns {
    nameservers: Option<Vec<String>>,
    domain: Option<String>,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
struct SentMasquerade {
    datapath: Option<String>,
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Option<Vec<String>>,
    #[serde(rename = "masqLinkLocal")]
    masq_link_local: Option<bool>,
    rules: Option<Vec<SentRule>>,
    ports: Option<String>,
}

#[derive(Deserialize)]
struct SentRule {
    to: String,
    action: String,
    proto: Option<serde_json::Value>,
    port: Option<serde_json::Value>,
}

impl Config {
    /// Reads and checks the configuration of an ADD.
    pub fn read(conf: &NetConf) -> Result<Self, Error> {
        let sent: Sent = conf.parse().map_err(|error| Error::Shape(error.msg))?;
        if let Some(mode) = sent.mode.filter(|mode| mode != "bridge") {
            return Err(Error::Mode(mode));
        }
        Ok(Self {
            bridge: interface("bridge", sent.bridge)?,
            master: interface("master", sent.master)?,
            ipam: ipam_type(sent.ipam)?,
            dns: sent.dns.and_then(SentDns::into_dns),
            masquerade: masquerade(sent.masquerade.unwrap_or_default())?,
        })
    }
}

/// The IPAM plugin that a DEL has to call: all it needs of a configuration that may have changed
/// since the ADD, or may have been wrong even then.
pub fn ipam_of(conf: &NetConf) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct OnlyIpam {
        ipam: Option<SentIpam>,
    }
    let sent: OnlyIpam = conf.parse().map_err(|error| Error::Shape(error.msg))?;
    ipam_type(sent.ipam)
}

fn ipam_type(ipam: Option<SentIpam>) -> Result<String, Error> {
    ipam.and_then(|ipam| ipam.kind)
        .filter(|kind| !kind.is_empty())
        .ok_or(Error::NoIpam)
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

fn masquerade(sent: SentMasquerade) -> Result<Masquerade, Error> {
    let (datapath, off) = match sent.datapath.as_deref() {
        None | Some("auto") => (Wanted::Auto, false),
        Some("ebpf") => (Wanted::Ebpf, false),
        Some("netfilter") => (Wanted::Netfilter, false),
        Some("off") => (Wanted::Auto, true),
        Some(other) => return Err(Error::Datapath(other.to_owned())),
    };
    let ranges = match sent.non_masquerade_cidrs {
        None => DEFAULT_RANGES.to_vec(),
        Some(texts) => texts
            .into_iter()
            .map(|text| cidr("nonMasqueradeCIDRs", text))
            .collect::<Result<_, _>>()?,
    };
    let rules = match sent.rules {
        None => vec![(PLATFORM, Action::Exempt)],
        Some(rules) => rules.into_iter().map(rule).collect::<Result<_, _>>()?,
    };
    Ok(Masquerade {
        datapath,
        ports: Ports::read(sent.ports.as_deref())?,
        rules: if off {
            Rules::Off
        } else {
            Rules::On {
                ranges,
                link_local: sent.masq_link_local.unwrap_or(true),
                rules,
            }
        },
    })
}

fn rule(sent: SentRule) -> Result<(Ipv4Net, Action), Error> {
    for (key, value) in [("proto", &sent.proto), ("port", &sent.port)] {
        if value.is_some() {
            return Err(Error::RuleKey(key));
        }
    }
    let action = match sent.action.as_str() {
        "exempt" => Action::Exempt,
        "masquerade" => Action::Masquerade,
        "drop" => Action::Drop,
        _ => return Err(Error::Action(sent.action)),
    };
    Ok((cidr("rules", sent.to)?, action))
}

/// A prefix; an address alone means itself.
fn cidr(key: &'static str, value: String) -> Result<Ipv4Net, Error> {
    value
        .parse::<Ipv4Net>()
        .or_else(|_| value.parse::<Ipv4Addr>().map(Ipv4Net::from))
        .map_err(|_| Error::Cidr { key, value })
}

impl SentDns {
    /// `None` where nothing is set: then IPAM's settings stand.
    fn into_dns(self) -> Option<Dns> {
        let dns = Dns {
            nameservers: self.nameservers.unwrap_or_default(),
            domain: self.domain.unwrap_or_default(),
            search: self.search.unwrap_or_default(),
            options: self.options.unwrap_or_default(),
        };
        (dns != Dns::default()).then_some(dns)
    }
}

#[cfg(test)]
mod tests;
