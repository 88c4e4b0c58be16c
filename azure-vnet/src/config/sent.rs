//! The configuration as it may be sent: every key optional, and matched in any case.

use azure_vnet_cni::reply::Dns;
use serde::Deserialize;
use serde_json::Value;

/// Keys as they may be sent; unknown ones belong to other plugins or to the future.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    pub mode: Option<String>,
    pub bridge: Option<String>,
    pub master: Option<String>,
    pub ipam: Option<SentIpam>,
    pub dns: Option<SentDns>,
    pub masquerade: Option<SentMasquerade>,
    pub runtime_config: Option<SentRuntimeConfig>,
    /// Read bit by bit: whatever else is in it is no error (CONVENTIONS.md, "args").
    pub args: Option<Value>,
}

#[derive(Deserialize)]
pub struct SentIpam {
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

#[derive(Deserialize)]
pub struct SentDns {
    pub nameservers: Option<Vec<String>>,
    pub domain: Option<String>,
    pub search: Option<Vec<String>>,
    pub options: Option<Vec<String>>,
}

/// What the runtime says for the capabilities that the configuration declares. `ips` is IPAM's,
/// `portMappings` that of the plugin behind us.
#[derive(Default, Deserialize)]
pub struct SentRuntimeConfig {
    pub mac: Option<Value>,
    pub dns: Option<SentRuntimeDns>,
}

/// The capability's names are not those of the configuration's `dns` (CONVENTIONS.md).
#[derive(Deserialize)]
pub struct SentRuntimeDns {
    pub servers: Option<Vec<String>>,
    pub searches: Option<Vec<String>>,
    pub options: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
pub struct SentMasquerade {
    pub datapath: Option<String>,
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Option<Vec<String>>,
    #[serde(rename = "masqLinkLocal")]
    pub masq_link_local: Option<bool>,
    pub rules: Option<Vec<SentRule>>,
    pub ports: Option<String>,
    #[serde(rename = "fastPath")]
    pub fast_path: Option<bool>,
}

#[derive(Deserialize)]
pub struct SentRule {
    pub to: String,
    pub action: String,
    pub proto: Option<serde_json::Value>,
    pub port: Option<serde_json::Value>,
}

/// All that a DEL reads.
#[derive(Deserialize)]
pub struct OnlyIpam {
    pub ipam: Option<SentIpam>,
}

impl SentDns {
    /// `None` where nothing is set: then IPAM's settings stand.
    pub fn into_dns(self) -> Option<Dns> {
        let dns = Dns {
            nameservers: self.nameservers.unwrap_or_default(),
            domain: self.domain.unwrap_or_default(),
            search: self.search.unwrap_or_default(),
            options: self.options.unwrap_or_default(),
        };
        (dns != Dns::default()).then_some(dns)
    }
}

impl SentRuntimeDns {
    pub fn into_dns(self) -> Option<Dns> {
        let dns = Dns {
            nameservers: self.servers.unwrap_or_default(),
            domain: String::new(),
            search: self.searches.unwrap_or_default(),
            options: self.options.unwrap_or_default(),
        };
        (dns != Dns::default()).then_some(dns)
    }
}
