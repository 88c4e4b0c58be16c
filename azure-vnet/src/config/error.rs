//! What is wrong with a configuration.

use azure_vnet_cni::code;
use serde_json::Value;

use crate::ports;

/// What is wrong with a configuration. Every text names the key, the value and what would do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the JSON that was expected.
    #[error("{0}")]
    Shape(String),
    /// A key of the reference plugins that would change who can reach whom, if it were obeyed.
    #[error("unsupported field \"{key}\" with value {value}: remove it")]
    Unsupported {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: Value,
    },
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
    /// Not the MAC of an interface.
    #[error("\"{key}\": {value} is not a unicast MAC address such as \"0a:58:0a:00:00:05\"")]
    Mac {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: Value,
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

impl Error {
    /// The code of the CNI protocol.
    pub fn code(&self) -> u32 {
        match self {
            Self::Unsupported { .. } => code::UNSUPPORTED_FIELD,
            _ => code::INVALID_CONFIG,
        }
    }
}
