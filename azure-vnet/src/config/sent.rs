//! The configuration as it may be sent: every key optional, and matched in any case.

use azure_vnet_cni::reply::Dns;
use serde::Deserialize;
use serde_json::Value;

/// Keys as they may be sent; unknown ones belong to other plugins or to the future.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// `bridge`, the only mode and the default.
    pub mode: Option<String>,
    /// Name of the bridge; `azure<index of the NIC>` if absent, and for each further NIC without a list of its own. The
    /// shipped configuration says `azure0`.
    pub bridge: Option<String>,
    /// Name of the NIC; if absent, the one with an address in the pool's subnet.
    pub master: Option<String>,
    /// Of the original plugin's lists, and not needed: pods reach every address of the node. An ADD says so in the log.
    pub ips_to_route_via_host: Option<Value>,
    /// The IPAM plugin's object; its `type` is needed.
    pub ipam: Option<SentIpam>,
    /// Name resolution of the pods, instead of what the IPAM plugin says.
    pub dns: Option<SentDns>,
    /// What is masqueraded and by what, see below.
    pub masquerade: Option<SentMasquerade>,
    /// What the runtime says for the capabilities that the configuration declares.
    pub runtime_config: Option<SentRuntimeConfig>,
    /// `args.cni.mac` is the MAC of the pod's interface, and `args.cni.ips` its address. Whatever else is in it is no
    /// error.
    pub args: Option<Value>,
}

#[derive(Deserialize)]
pub struct SentIpam {
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

#[derive(Deserialize)]
pub struct SentDns {
    /// Addresses of name servers.
    pub nameservers: Option<Vec<String>>,
    /// The local domain.
    pub domain: Option<String>,
    /// Domains to search.
    pub search: Option<Vec<String>>,
    /// Options of the resolver.
    pub options: Option<Vec<String>>,
}

/// What the runtime says for the capabilities that the configuration declares. `ips` is IPAM's.
#[derive(Default, Deserialize)]
pub struct SentRuntimeConfig {
    /// MAC of the pod's interface (capability `mac`).
    pub mac: Option<Value>,
    /// Name resolution of the pod (capability `dns`): `servers`, `searches`, `options`.
    pub dns: Option<SentRuntimeDns>,
    /// Ports of the node that lead to the pod (capability `portMappings`): `portmap`'s, and kept from masqueraded flows here.
    #[serde(rename = "portMappings")]
    pub port_mappings: Option<Value>,
}

/// The capability's names are not those of the configuration's `dns` (CONVENTIONS.md).
#[derive(Deserialize)]
pub struct SentRuntimeDns {
    pub servers: Option<Vec<String>>,
    pub searches: Option<Vec<String>>,
    pub options: Option<Vec<String>>,
}

/// Lists as they are: what is wrong with their entries is collected, see `config/masquerade.rs`.
#[derive(Default, Deserialize)]
pub struct SentMasquerade {
    /// `auto` (default): eBPF, or netfilter where the kernel has no eBPF to offer; `ebpf`; `netfilter`; `off`: sources are
    /// checked, nothing is masqueraded.
    pub datapath: Option<String>,
    /// Destinations that see the pods' own addresses, beside the pool's subnet; default `["10.0.0.0/8"]`.
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Option<Value>,
    /// Whether 169.254.0.0/16 (the metadata service) is masqueraded; default `true`.
    #[serde(rename = "masqLinkLocal")]
    pub masq_link_local: Option<bool>,
    /// Rules for the platform's addresses by name: `classic` (default), `swift`, `locked`, `none`.
    pub preset: Option<String>,
    /// Exceptions: `{"to": CIDR, "proto": "tcp", "port": "8000-8999", "action": "exempt" | "masquerade" | "drop"}`; for the same
    /// CIDR a rule wins over a range. Default: none beside the preset's.
    pub rules: Option<Value>,
    /// Ports that masqueraded flows are sent from, such as `10240-29999`; default `auto`: as many as the node leaves free.
    pub ports: Option<String>,
    /// Seconds without a packet after which a flow is over (eBPF tier), each from 5 to 432000; default `{"tcpOpening": 120, "tcpEstablished": 7440,
    /// "tcpClosing": 120, "udp": 120, "icmp": 60}`.
    pub timeouts: Option<Value>,
    /// How many flows one pod may have, up to 262144 (eBPF tier); default 131072, half of what the flow table holds.
    #[serde(rename = "flowsPerPod")]
    pub flows_per_pod: Option<Value>,
    /// Whether established flows go past bridge, routing and netfilter where nobody there needs them; default `true`.
    #[serde(rename = "fastPath")]
    pub fast_path: Option<bool>,
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
