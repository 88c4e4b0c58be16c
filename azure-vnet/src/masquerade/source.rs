//! What the configuration says about the policy, and what becomes of it with ip-masq-agent's files.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::agent::Settings;
use super::{DEFAULT_RANGES, Parts, Policy, Rule};

/// What the configuration has for the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// `"datapath": "off"`: frames are handled, nothing is masqueraded.
    Off,
    /// Ranges and rules.
    On {
        /// `nonMasqueradeCIDRs`, if it is there.
        ranges: Option<Vec<Ipv4Net>>,
        /// `masqLinkLocal`, if it is there.
        link_local: Option<bool>,
        /// `rules`, and those of the preset.
        rules: Vec<Rule>,
    },
}

impl Source {
    /// The policy for a pool in `subnet`, with what ip-masq-agent's files say.
    pub fn policy(&self, subnet: Ipv4Net, files: Option<&Settings>) -> Policy {
        let Self::On {
            ranges,
            link_local,
            rules,
        } = self
        else {
            return Policy::off();
        };
        let own = ranges.as_deref();
        let (ranges, masquerade_link_local) = match files {
            Some(files) => (
                [own.unwrap_or_default(), &files.ranges].concat(),
                link_local.unwrap_or(false) || files.link_local,
            ),
            None => (
                own.unwrap_or(&DEFAULT_RANGES).to_vec(),
                link_local.unwrap_or(true),
            ),
        };
        Policy::new(Parts {
            ranges: &ranges,
            subnet,
            masquerade_link_local,
            rules,
        })
    }
}
