//! The netfilter tier: the documented masquerade rule and the wall around each pod, as rules of our own.
//!
//! What must be there is worked out once ([`Elements`], the compiled policy). Two files write it: nft's, and where that program is
//! not there, iptables'. Which way it is is chosen once and kept: only the program that wrote rules takes them away again.
//!
//! Every change is made under the bridge's lock, which the program holds too: if this process is killed, the
//! next one waits for the transaction that is under way.

mod elements;
pub mod foreign;
mod iptables;
mod nft;
mod program;
mod seal;

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use elements::Elements;
use program::is_there;

use super::{Pod, Record, Uplink};
use crate::lock::Lock;

pub use nft::nics;
pub use program::{NetfilterError, execute};

/// Whose rules they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// `nft`.
    #[default]
    Nft,
    /// `iptables-restore`, and `ebtables-restore` for the wall.
    Iptables,
    /// `iptables-restore`. There is no wall.
    IptablesAlone,
}

impl Rules {
    /// From the best to the last resort.
    const ALL: [Self; 3] = [Self::Nft, Self::Iptables, Self::IptablesAlone];

    /// What these rules do not check, one sentence each.
    pub fn unchecked(self) -> &'static [&'static str] {
        match self {
            Self::Nft | Self::Iptables => &[],
            Self::IptablesAlone => &[
                "ebtables is not there, so a pod can send with the address of another pod of this node, and answer ARP for it",
                "what pods send to the MAC of another pod goes there without a check",
            ],
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Nft => &[nft::PROGRAM],
            Self::Iptables => &[
                "iptables-restore",
                "iptables-save",
                "ebtables-restore",
                "ebtables-save",
            ],
            Self::IptablesAlone => &["iptables-restore", "iptables-save"],
        }
    }

    fn are_to_be_had(self) -> bool {
        self.programs().iter().all(|program| is_there(program))
    }

    fn install(self, uplink: &Uplink, pods: &[Pod], lock: &Lock) -> Result<(), NetfilterError> {
        match self {
            Self::Nft => nft::install(uplink, pods, lock),
            Self::Iptables | Self::IptablesAlone => iptables::install(self, uplink, pods, lock),
        }
    }

    fn take_away(self, bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
        match self {
            Self::Nft => nft::take_away(bridge, lock),
            Self::Iptables | Self::IptablesAlone => iptables::take_away(bridge, lock),
        }
    }
}

/// As it stands behind the name of the tier.
impl fmt::Display for Rules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
            Self::IptablesAlone => "iptables without ebtables",
        })
    }
}

/// Installs the tier for `uplink` and all its `pods`, in the best way that this node takes.
pub fn install(uplink: &Uplink, pods: &[Pod], lock: &Lock) -> Result<Rules, NetfilterError> {
    check_names(uplink, pods)?;
    let mut refused = None;
    for rules in Rules::ALL.into_iter().filter(|way| way.are_to_be_had()) {
        match rules.install(uplink, pods, lock) {
            Ok(()) => return Ok(rules),
            Err(error @ (NetfilterError::Run { .. } | NetfilterError::Refused { .. })) => {
                tracing::warn!("the netfilter tier cannot be had by {rules}: {error}");
                // Part of it may be there already.
                let _ = rules.take_away(&uplink.bridge, lock);
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or(NetfilterError::NoProgram))
}

/// How many frames the wall has dropped for their source, as far as these rules count them.
pub fn spoofed(rules: Rules, bridge: &str) -> Option<u64> {
    match rules {
        Rules::Nft => nft::spoofed(bridge).ok(),
        Rules::Iptables | Rules::IptablesAlone => None,
    }
}

/// Makes sure that the tier is in place for `uplink` and all its `pods`, among them one that is `new`. Where it is as
/// it was installed, as nearly always, only what is the new pod's is added. Other pods that the
/// rules know are forgotten; whose addresses they had is returned.
pub fn mend(
    rules: Rules,
    uplink: &Uplink,
    pods: &[Pod],
    new: Option<&Pod>,
    lock: &Lock,
) -> Result<Vec<Ipv4Addr>, NetfilterError> {
    check_names(uplink, pods)?;
    match rules {
        Rules::Nft => nft::mend(uplink, pods, new, lock),
        Rules::Iptables | Rules::IptablesAlone => iptables::mend(rules, uplink, pods, lock),
    }
}

/// Forgets all pods but these, whatever rules there are; whose addresses they knew is returned.
pub fn retain(bridge: &str, pods: &[Pod], lock: &Lock) -> Result<Vec<Ipv4Addr>, NetfilterError> {
    let mut forgotten = Vec::new();
    if Rules::Nft.are_to_be_had() {
        forgotten.extend(nft::retain(bridge, pods, lock)?);
    }
    if let Some(rules) = [Rules::Iptables, Rules::IptablesAlone]
        .into_iter()
        .find(|way| way.are_to_be_had())
    {
        forgotten.extend(iptables::retain(rules, bridge, pods, lock)?);
    }
    Ok(forgotten)
}

/// The rules of a bridge, as they are.
pub enum Inspection {
    /// In nft's tables.
    Nft(nft::Inspection),
    /// In iptables' tables.
    Iptables(iptables::Inspection),
}

impl Inspection {
    /// Lists them.
    pub fn of(rules: Rules, bridge: &str) -> Result<Self, NetfilterError> {
        Ok(match rules {
            Rules::Nft => Self::Nft(nft::Inspection::of(bridge)?),
            Rules::Iptables | Rules::IptablesAlone => {
                Self::Iptables(iptables::Inspection::of(rules, bridge)?)
            }
        })
    }

    /// What of this tier is missing for `pod`.
    pub fn defects(&self, pod: &Pod) -> Vec<String> {
        match self {
            Self::Nft(tables) => tables.defects(pod),
            Self::Iptables(tables) => tables.defects(pod),
        }
    }
}

/// Whether this tier could be set up, as far as can be told without running a program.
pub fn probe() -> Result<(), NetfilterError> {
    if Rules::ALL.into_iter().any(Rules::are_to_be_had) {
        Ok(())
    } else {
        Err(NetfilterError::NoProgram)
    }
}

/// Leaves everything to another tier but the connections that netfilter translates already.
pub fn drain(rules: Rules, bridge: &str, lock: &Lock) {
    let drained = match rules {
        Rules::Nft => nft::drain(bridge, lock),
        Rules::Iptables | Rules::IptablesAlone => iptables::drain(bridge, lock),
    };
    if let Err(error) = drained {
        tracing::warn!("the rules of an earlier netfilter datapath ({rules}) stay: {error}");
    }
}

/// Takes the rules of both ways away, and what [`drain`] left of them. An error if those of `known` cannot be: of the others it is not
/// known that there are any.
pub fn take_away(known: Option<Rules>, bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    check_name(bridge)?;
    let mut result = Ok(());
    for rules in [Rules::Nft, Rules::Iptables] {
        let is_known = known.is_some_and(|known| (known == Rules::Nft) == (rules == Rules::Nft));
        match rules.take_away(bridge, lock) {
            Err(error) if is_known => result = Err(error),
            _ => {}
        }
    }
    if result.is_ok()
        && let Err(error) = seal::Seal::forget(bridge)
    {
        tracing::warn!("{}", super::chain(&error));
    }
    result
}

/// A range of destinations, and what is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// In no range: leaves from this address.
    Masquerade(Option<Ipv4Addr>),
    /// In this range: leaves with the pod's address.
    Keep(String),
    /// In this range: does not leave.
    Drop(String),
    /// In this range: rules by protocol and port decide, which this command shows.
    ByPort(String, String),
}

/// What the rules of `bridge` that are in place do with a destination.
pub fn judge(bridge: &str, destination: Ipv4Addr) -> Result<Judged, NetfilterError> {
    match Record::read(bridge).map(|record| record.rules) {
        None | Some(Rules::Nft) => nft::judge(bridge, destination),
        Some(Rules::Iptables | Rules::IptablesAlone) => iptables::judge(bridge, destination),
    }
}

/// Addresses of pods among these.
fn addresses(elements: &Elements) -> Vec<Ipv4Addr> {
    let pods = elements.in_set("pods");
    pods.filter_map(|address| address.parse().ok()).collect()
}

fn check_names(uplink: &Uplink, pods: &[Pod]) -> Result<(), NetfilterError> {
    let names = pods.iter().map(|pod| &pod.host_veth);
    names
        .chain([&uplink.bridge])
        .try_for_each(|name| check_name(name))
}

/// Linux allows quotes and worse in interface names; the programs' syntaxes have no way to escape them.
fn check_name(name: &str) -> Result<(), NetfilterError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.chars().all(plain) {
        Ok(())
    } else {
        Err(NetfilterError::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::masquerade::{Source, Timeouts};
    use crate::netlink::MacAddress;

    pub(super) fn uplink() -> Uplink {
        Uplink {
            bridge_ifindex: 3,
            bridge: "azure0".into(),
            name: "eth0".into(),
            address: Ipv4Addr::new(10, 0, 0, 4),
            ifindex: 2,
            mtu: 1500,
            fast_path: true,
            mac: MacAddress([0, 0x0d, 0x3a, 1, 2, 3]),
            ports: Ok((10240, 29999)),
            timeouts: Timeouts::default(),
            flows_per_pod: 1000,
            policy: Source::Off.policy("10.0.0.0/20".parse().unwrap(), None),
            subnet: "10.0.0.0/20".parse().unwrap(),
            source: Source::Off,
        }
    }

    pub(super) fn pod(host_veth: &str, container: u32, last: u8) -> Pod {
        Pod {
            network: "azure".into(),
            host_veth: host_veth.into(),
            ifindex: 7,
            container,
            address: Ipv4Addr::new(10, 0, 0, last),
            mac: MacAddress([0x0a, 0x58, 10, 0, 0, last]),
        }
    }

    #[test]
    fn a_name_that_would_end_the_quotes_is_refused() {
        let mut odd = uplink();
        odd.bridge = "e\"; flush ruleset".into();
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::acquire(
            &directory.path().join("lock"),
            std::time::Duration::from_secs(5),
        )
        .unwrap();
        let refused = install(&odd, &[], &lock);
        assert!(matches!(refused, Err(NetfilterError::Name(_))));
    }

    #[test]
    fn records_of_before_are_of_nft() {
        let record: Record = serde_json::from_str(r#"{"tier": "netfilter", "why": null}"#).unwrap();
        assert_eq!(record.rules, Rules::Nft);
    }
}
