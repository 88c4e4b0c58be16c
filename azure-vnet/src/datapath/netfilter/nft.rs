//! The rules as nftables, in two tables of our own. What changes with every pod is in sets; the rest is replaced whole, in one
//! transaction, where it is not as it was installed.

mod installed;
mod judged;
pub mod nics;
mod policy;
mod ruleset;

use std::net::Ipv4Addr;
use std::process::Stdio;

use installed::Installed;

use super::elements::{Elements, SETS};
use super::program::{NetfilterError, execute, output};
use super::seal::{Digest, Seal, digest};
use super::{addresses, check_name};
use crate::datapath::{Pod, Uplink};
use crate::lock::Lock;

pub use judged::judge;

/// Of the package nftables.
pub const PROGRAM: &str = "nft";

/// Installs the tier for `uplink` and all its `pods`, in the place of what was there.
pub fn install(uplink: &Uplink, pods: &[Pod], lock: &Lock) -> Result<(), NetfilterError> {
    nft(&ruleset::ruleset(uplink, &Elements::of(pods)), lock)?;
    seal(uplink);
    Ok(())
}

/// Makes sure that the tier is in place for `uplink` and all its `pods`, among them one that is `new`. Where it is as
/// it was installed, as nearly always, that is one run of nft which adds elements for the new pod. Other pods that the
/// rules know are forgotten; whose addresses they had is returned.
pub fn mend(
    uplink: &Uplink,
    pods: &[Pod],
    new: Option<&Pod>,
    lock: &Lock,
) -> Result<Vec<Ipv4Addr>, NetfilterError> {
    let (bridge, table) = (&uplink.bridge, table(&uplink.bridge));
    let Some(seal) = Seal::read(bridge).filter(|seal| seal.rules == digest_of(uplink)) else {
        return install(uplink, pods, lock).map(|()| Vec::new());
    };
    let new = new.map_or_else(Elements::default, |pod| Elements::of_one(pod, pods));
    let before = Installed::read_then(bridge, &installed::script(&new, "add", &table), lock)?;
    let Some(mut there) = before.filter(|before| before.form == seal.form) else {
        tracing::warn!(
            "the nftables rules of {bridge} were changed by somebody; installing them anew"
        );
        return install(uplink, pods, lock).map(|()| Vec::new());
    };
    there.elements.extend(new);
    let wanted = Elements::of(pods);
    let (missing, surplus) = (
        wanted.without(&there.elements),
        there.elements.without(&wanted),
    );
    if !missing.is_empty() || pods.is_empty() {
        // A set that nft could not list (no memory) looks to it like an empty one, and what is in it is not known.
        return install(uplink, pods, lock).map(|()| addresses(&surplus));
    }
    forget(&table, &surplus, lock)?;
    Ok(addresses(&surplus))
}

/// Forgets all pods but these, whatever rules there are; whose addresses they knew is returned.
pub fn retain(bridge: &str, pods: &[Pod], lock: &Lock) -> Result<Vec<Ipv4Addr>, NetfilterError> {
    let there = Installed::read(bridge)?.elements;
    let surplus = there.without(&Elements::of(pods));
    match forget(&table(bridge), &surplus, lock) {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(addresses(&surplus)),
    }
}

/// How many frames the wall has dropped for their source: the counters of the rules that ask for one.
pub fn spoofed(bridge: &str) -> Result<u64, NetfilterError> {
    let arguments = ["list", "table", "bridge", &table(bridge)];
    let text = output(PROGRAM, &arguments, Stdio::null())?;
    let counted = text
        .lines()
        .filter(|line| line.contains("saddr"))
        .map(|line| {
            let behind = line.split("counter packets ").nth(1)?;
            behind.split_whitespace().next()?.parse::<u64>().ok()
        });
    Ok(counted.flatten().sum())
}

/// The tables of a bridge, as they are.
pub struct Inspection {
    bridge: String,
    installed: Installed,
    seal: Option<Seal>,
    of_nics: Vec<String>,
}

impl Inspection {
    /// Lists them.
    pub fn of(bridge: &str) -> Result<Self, NetfilterError> {
        Ok(Self {
            bridge: bridge.to_owned(),
            installed: Installed::read(bridge)?,
            seal: Seal::read(bridge),
            of_nics: nics::defects(bridge)?,
        })
    }

    /// What of this tier is missing for `pod`.
    pub fn defects(&self, pod: &Pod) -> Vec<String> {
        let named = |family: &str| format!("the nftables table {family} {}", table(&self.bridge));
        let idle = CHAINS
            .iter()
            .filter(|(family, chain)| !self.installed.has_rules(family, chain));
        let mut defects: Vec<String> = idle
            .map(|(family, chain)| format!("{} has no rules in {chain}", named(family)))
            .collect();
        if defects.is_empty()
            && self
                .seal
                .is_some_and(|seal| seal.form != self.installed.form)
        {
            defects.push(format!(
                "the nftables tables {} are not as they were installed",
                table(&self.bridge)
            ));
        }
        defects.extend(self.of_nics.iter().cloned());
        let missing = Elements::of_one(pod, &[]).without(&self.installed.elements);
        for (family, set) in SETS {
            let elements = missing.in_set(set);
            defects.extend(
                elements
                    .map(installed::written)
                    .map(|element| format!("{} does not have {element} in {set}", named(family))),
            );
        }
        defects
    }
}

/// Leaves everything to another tier but the connections that netfilter translates already.
pub fn drain(bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    check_name(bridge)?;
    let drained = nft(&ruleset::drained(&table(bridge)), lock);
    drained.and(nics::take_away(bridge, lock))
}

/// Takes the tables away, and what [`drain`] left of them.
pub fn take_away(bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    nft(&ruleset::emptied(&table(bridge)), lock)?;
    nics::take_away(bridge, lock)
}

/// The chains that packets come to, by the family of their table.
const CHAINS: [(&str, &str); 3] = [
    ("bridge", "prerouting"),
    ("ip", "forward"),
    ("ip", "postrouting"),
];

/// Remembers what was installed.
fn seal(uplink: &Uplink) {
    let bridge = &uplink.bridge;
    match Installed::read(bridge) {
        Ok(installed) => Seal {
            rules: digest_of(uplink),
            form: installed.form,
        }
        .write(bridge),
        Err(error) => tracing::warn!("cannot list the nftables rules of {bridge}: {error}"),
    }
}

/// Of the rules, whatever pods there are.
fn digest_of(uplink: &Uplink) -> Digest {
    digest(&ruleset::ruleset(uplink, &Elements::default()))
}

fn forget(table: &str, surplus: &Elements, lock: &Lock) -> Result<(), NetfilterError> {
    if surplus.is_empty() {
        return Ok(());
    }
    nft(&installed::script(surplus, "delete", table), lock)
}

/// Whether nft said that what it should delete or list is not there.
fn is_missing(error: &NetfilterError) -> bool {
    matches!(error, NetfilterError::Refused { stderr, .. } if stderr.contains("No such file or directory"))
}

fn table(bridge: &str) -> String {
    format!("azure-vnet-{bridge}")
}

/// Runs one transaction. It prints nothing, so the lock can be its standard output.
fn nft(script: &str, lock: &Lock) -> Result<(), NetfilterError> {
    let lock = lock.share().map_err(NetfilterError::of(PROGRAM))?;
    execute(PROGRAM, &["-f", "-"], script, lock)
}

#[cfg(test)]
mod tests {
    use super::super::tests::uplink;
    use super::*;

    #[test]
    fn no_pods_leave_no_empty_list() {
        let text = ruleset::ruleset(&uplink(), &Elements::default());
        assert!(!text.contains("{ }") && !text.contains("{  }"), "{text}");
    }
}
