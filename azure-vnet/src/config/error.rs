//! What is wrong with a configuration.

use azure_vnet_cni::code;
use serde_json::Value;

use super::masquerade;

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
    /// A text that is longer than what it means can be.
    #[error("\"{key}\" has a text of more than {most} bytes")]
    TooLong {
        /// Which key.
        key: &'static str,
        /// Bytes.
        most: usize,
    },
    /// A list with more than anybody uses.
    #[error("\"{key}\" has a list of more than {most} entries")]
    TooMany {
        /// Which key.
        key: &'static str,
        /// Entries.
        most: usize,
    },
    /// Not the MAC of an interface.
    #[error("\"{key}\": {value} is not a unicast MAC address such as \"0a:58:0a:00:00:05\"")]
    Mac {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: Value,
    },
    /// Whatever is wrong with the `masquerade` object.
    #[error(transparent)]
    Masquerade(#[from] masquerade::Problems),
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
