//! The rules as iptables, ip6tables and ebtables write them: chains of our own in tables that others use as well, to which we
//! jump first. Each pod has a rule in some of the chains, and an ADD adds these; the rest is replaced whole, a table in one
//! transaction, where it is not as it was installed.
//!
//! Our chains never accept: what may pass returns to whoever has the chain that we are called from. (A goto instead of a jump
//! makes a `RETURN` leave all of ours at once; ebtables has none.)

mod judged;
mod layout;
mod listed;
mod policy;
mod script;
mod wall;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use layout::Part;
use listed::Listed;

use super::elements::Elements;
use super::program::{NetfilterError, execute, is_there};
use super::seal::{Seal, digest};
use super::{Rules, addresses, check_name};
use crate::datapath::{Pod, Uplink};
use crate::lock::Lock;

pub use judged::judge;
pub use layout::is_own;

/// How long to wait for another iptables, in seconds.
const WAIT: &str = "10";

/// Installs the tier for `uplink` and all its `pods`, in the place of what was there.
pub fn install(
    rules: Rules,
    uplink: &Uplink,
    pods: &[Pod],
    lock: &Lock,
) -> Result<(), NetfilterError> {
    let bridge = &uplink.bridge;
    let parts = layout::parts(rules, uplink);
    let before = Listed::read(&parts, bridge)?;
    // `iptables` may have been another of the two when it was installed last. Where it was the same, nothing is there either.
    let mut stale = Vec::new();
    if before.is_nothing() {
        let siblings = layout::siblings(bridge);
        let there = Listed::read(&siblings, bridge)?;
        stale.extend(siblings.into_iter().zip(there.parts));
        stale.retain(|(_, there)| there.is_something());
    }
    let elements = Elements::of(pods);
    restore(
        parts
            .iter()
            .zip(&before.parts)
            .map(|(part, there)| (part.program, script::install(part, there, &elements))),
        lock,
    )?;
    let stale = (stale.iter()).map(|(part, there)| (part.program, script::remove(part, there)));
    restore(stale, lock)?;
    let form = Listed::read(&parts, bridge)?.form;
    let rules = digest(&script::text(&parts));
    Seal { rules, form }.write(bridge);
    Ok(())
}

/// Makes sure that the tier is in place for `uplink` and all its `pods`. Other pods that the rules know are forgotten; whose
/// addresses they had is returned.
pub fn mend(
    rules: Rules,
    uplink: &Uplink,
    pods: &[Pod],
    lock: &Lock,
) -> Result<Vec<Ipv4Addr>, NetfilterError> {
    let bridge = &uplink.bridge;
    let parts = layout::parts(rules, uplink);
    let seal = Seal::read(bridge).filter(|seal| seal.rules == digest(&script::text(&parts)));
    let Some(seal) = seal else {
        return install(rules, uplink, pods, lock).map(|()| Vec::new());
    };
    let there = Listed::read(&parts, bridge)?;
    if there.form != seal.form || !there.torn.is_empty() {
        tracing::warn!(
            "the iptables rules of {bridge} were changed by somebody; installing them anew"
        );
        return install(rules, uplink, pods, lock).map(|()| Vec::new());
    }
    let wanted = Elements::of(pods);
    let missing = wanted.without(&there.elements);
    let surplus = there.elements.without(&wanted);
    let scripts = (parts.iter().zip(&there.parts)).map(|(part, there)| {
        (
            part.program,
            script::change(part, there, &missing, &surplus),
        )
    });
    restore(scripts, lock)?;
    Ok(addresses(&surplus))
}

/// Forgets all pods but these, whatever rules there are; whose addresses they knew is returned.
pub fn retain(
    rules: Rules,
    bridge: &str,
    pods: &[Pod],
    lock: &Lock,
) -> Result<Vec<Ipv4Addr>, NetfilterError> {
    let parts = layout::lists(rules, bridge);
    let there = Listed::read(&parts, bridge)?;
    let mut known = there.elements;
    known.extend(there.torn);
    let surplus = known.without(&Elements::of(pods));
    let scripts = (parts.iter().zip(&there.parts)).map(|(part, there)| {
        let surplus = there.of(part, &surplus);
        (part.program, script::forget(part, &surplus))
    });
    restore(scripts, lock)?;
    Ok(addresses(&surplus))
}

/// The rules of a bridge, as they are.
pub struct Inspection {
    parts: Vec<Part>,
    there: Listed,
    bridge: String,
    seal: Option<Seal>,
}

impl Inspection {
    /// Lists them.
    pub fn of(rules: Rules, bridge: &str) -> Result<Self, NetfilterError> {
        check_name(bridge)?;
        let parts = layout::lists(rules, bridge);
        Ok(Self {
            there: Listed::read(&parts, bridge)?,
            parts,
            bridge: bridge.to_owned(),
            seal: Seal::read(bridge),
        })
    }

    /// What of this tier is missing for `pod`.
    pub fn defects(&self, pod: &Pod) -> Vec<String> {
        let mut defects = Vec::new();
        for (part, there) in self.parts.iter().zip(&self.there.parts) {
            let named = part.named();
            for (hook, chain) in &part.jumps {
                if there.jumps(hook, chain) == 0 {
                    defects.push(format!("{named} does not lead from {hook} to {chain}"));
                }
            }
        }
        if defects.is_empty() && self.seal.is_some_and(|seal| seal.form != self.there.form) {
            let bridge = &self.bridge;
            defects.push(format!(
                "the iptables rules of {bridge} are not as they were installed"
            ));
        }
        let wanted = Elements::of_one(pod, &[]);
        for (part, there) in self.parts.iter().zip(&self.there.parts) {
            let missing = part.rules_for(&wanted).filter(|rule| !there.has(rule));
            defects.extend(
                missing.map(|(chain, rule)| {
                    format!("{} does not have {rule} in {chain}", part.named())
                }),
            );
        }
        defects
    }
}

/// Leaves everything to another tier but the connections that netfilter translates already: they live in connection tracking,
/// which goes on as long as a rule asks for it.
pub fn drain(bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    take_away(bridge, lock)?;
    let part = layout::drained(bridge);
    let there = Listed::read(std::slice::from_ref(&part), bridge)?;
    let script = script::install(&part, &there.parts[0], &Elements::default());
    restore([(part.program, script)].into_iter(), lock)
}

/// Takes all of it away, whichever iptables wrote it, and what [`drain`] left of it.
pub fn take_away(bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    check_name(bridge)?;
    let mut parts = layout::everything(bridge);
    parts.extend(layout::siblings(bridge));
    remove(&parts, bridge, lock)
}

/// One table after the other: a sibling may have been another name for what is gone by then.
fn remove(parts: &[Part], bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    for part in parts {
        let there = Listed::read(std::slice::from_ref(part), bridge)?;
        let script = script::remove(part, &there.parts[0]);
        restore([(part.program, script)].into_iter(), lock)?;
    }
    Ok(())
}

/// Runs each program once, in the order of their first tables.
fn restore(
    scripts: impl Iterator<Item = (&'static str, String)>,
    lock: &Lock,
) -> Result<(), NetfilterError> {
    let mut order = Vec::new();
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    for (program, script) in scripts.filter(|(_, script)| !script.is_empty()) {
        if !order.contains(&program) {
            order.push(program);
        }
        texts.entry(program).or_default().push_str(&script);
    }
    for program in order {
        let restore = format!("{program}-restore");
        let arguments: &[&str] = if program == layout::EBTABLES {
            &["--noflush"]
        } else {
            &["--noflush", "--wait", WAIT]
        };
        let stdout = lock.share().map_err(NetfilterError::of(&restore))?;
        execute(&restore, arguments, &texts[program], stdout)?;
    }
    Ok(())
}

/// Whether `program` can list and write tables here.
fn can_run(program: &str) -> bool {
    is_there(&format!("{program}-save")) && is_there(&format!("{program}-restore"))
}

#[cfg(test)]
mod tests;
