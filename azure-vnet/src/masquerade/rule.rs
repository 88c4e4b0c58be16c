//! Rules: exceptions from the ranges, by destination, protocol and port.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Action, PLATFORM, Packet};

/// IP protocol numbers of those that have ports.
pub const TCP: u8 = 6;
/// As [`TCP`].
pub const UDP: u8 = 17;

/// The wireserver beside its DNS: extension configurations and certificates, and the host's agent.
const WIRESERVER_PORTS: [u16; 2] = [80, 32526];
const DNS: u16 = 53;
const HTTP: u16 = 80;
/// The instance metadata service.
const METADATA: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 169, 254), 32);

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Destinations it is about.
    pub to: Ipv4Net,
    /// Packets it is about.
    pub which: Which,
    /// What happens to them.
    pub action: Action,
}

/// Packets that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Which {
    /// All.
    All,
    /// Those of an IP protocol.
    Protocol(u8),
    /// Those for a port of a protocol that has ports, from the first to the last.
    Ports(u8, u16, u16),
}

impl Which {
    /// Whether the rule is about this packet.
    pub fn matches(self, packet: &Packet) -> bool {
        match self {
            Self::All => true,
            Self::Protocol(protocol) => packet.protocol == protocol,
            Self::Ports(protocol, first, last) => {
                packet.protocol == protocol
                    && packet
                        .port
                        .is_some_and(|port| (first..=last).contains(&port))
            }
        }
    }

    /// What is about less comes first.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Ports(..) => 0,
            Self::Protocol(_) => 1,
            Self::All => 2,
        }
    }
}

/// Rules for Azure's platform addresses, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// 168.63.129.16 is exempt, as in the reference plugin's bridge mode.
    #[default]
    Classic,
    /// As `classic`, but its DNS and the metadata service see the node, as in the reference's SWIFT.
    Swift,
    /// As `classic`, but the wireserver is closed to pods: it hands out the VM's secrets.
    Locked,
    /// No rules.
    None,
}

impl Preset {
    /// Names as they are written in a configuration.
    pub const NAMES: [(&str, Self); 4] = [
        ("classic", Self::Classic),
        ("swift", Self::Swift),
        ("locked", Self::Locked),
        ("none", Self::None),
    ];

    /// The preset of this name.
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, preset)| *preset)
    }

    /// Its rules.
    pub fn rules(self) -> Vec<Rule> {
        let port = |to, protocol, port, action| Rule {
            to,
            which: Which::Ports(protocol, port, port),
            action,
        };
        let exempt = Rule {
            to: PLATFORM,
            which: Which::All,
            action: Action::Exempt,
        };
        match self {
            Self::Classic => vec![exempt],
            Self::Swift => vec![
                port(PLATFORM, UDP, DNS, Action::Masquerade),
                port(PLATFORM, TCP, DNS, Action::Masquerade),
                port(METADATA, TCP, HTTP, Action::Masquerade),
                exempt,
            ],
            Self::Locked => WIRESERVER_PORTS
                .map(|closed| port(PLATFORM, TCP, closed, Action::Drop))
                .into_iter()
                .chain([exempt])
                .collect(),
            Self::None => Vec::new(),
        }
    }
}
