//! What has the address of another NIC leaves by that one: a table of family `netdev`, which a kernel has from 5.16 on. Only on
//! a node with several NICs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use azure_vnet_abi::Mac;

use super::super::seal::{Digest, Seal, digest};
use super::installed::Installed;
use super::{NetfilterError, PROGRAM, check_name, nft, table};
use crate::datapath::nics::Nics;
use crate::datapath::record;
use crate::lock::Lock;
use crate::netlink::MacAddress;
use crate::state;

/// [`Seal::form`] of rules that the kernel did not take: they are not tried again before the next boot.
const REFUSED: Digest = [0; 32];

/// Whether the table is to be there, or to go.
pub fn is_needed(bridge: &str, nics: &Nics) -> bool {
    !nics.elsewhere.is_empty() || path(bridge).exists()
}

/// What is not as it was installed.
pub fn defects(bridge: &str) -> Result<Vec<String>, NetfilterError> {
    let table = table(bridge);
    Ok(match Seal::at(&path(bridge)) {
        Some(seal) if seal.form == REFUSED => vec![format!(
            "the kernel did not take the nftables table netdev {table} (Linux 5.16): what has another NIC's address leaves by the \
             wrong one"
        )],
        Some(seal) if seal.form != Installed::of_nics(bridge)?.form => {
            vec![format!(
                "the nftables table netdev {table} is not as it was installed"
            )]
        }
        _ => Vec::new(),
    })
}

/// Makes sure that the table is as it should be.
pub fn install(bridge: &str, nics: &Nics, lock: &Lock) -> Result<(), NetfilterError> {
    if nics.elsewhere.is_empty() {
        return take_away(bridge, lock);
    }
    let others = nics.elsewhere.iter().map(|it| &it.nic);
    others
        .chain([&nics.name])
        .try_for_each(|name| check_name(name))?;
    let text = ruleset(bridge, nics);
    let rules = digest(&text);
    if let Some(seal) = Seal::at(&path(bridge)).filter(|seal| seal.rules == rules)
        && (seal.form == REFUSED || seal.form == Installed::of_nics(bridge)?.form)
    {
        return Ok(());
    }
    let outcome = nft(&text, lock);
    let form = match &outcome {
        Ok(()) => Installed::of_nics(bridge)?.form,
        Err(NetfilterError::Refused { .. }) => REFUSED,
        Err(_) => return outcome,
    };
    state::write_json(&path(bridge), &Seal { rules, form }).map_err(NetfilterError::of(PROGRAM))?;
    outcome
}

/// Takes the table away, if there is one.
pub fn take_away(bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    let path = path(bridge);
    if !path.exists() {
        return Ok(());
    }
    match nft(&emptied(&table(bridge)), lock) {
        // A kernel that took no such table has none.
        Err(NetfilterError::Refused { .. }) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    if let Err(error) = record::remove(path) {
        tracing::warn!("{}", crate::datapath::chain(&error));
    }
    Ok(())
}

fn emptied(table: &str) -> String {
    format!("add table netdev {table}\ndelete table netdev {table}\n")
}

fn ruleset(bridge: &str, nics: &Nics) -> String {
    let (table, nic, router) = (table(bridge), &nics.name, MacAddress(Mac::FABRIC.0));
    let rules = nics.elsewhere.iter().fold(String::new(), |mut rules, it| {
        let _ = writeln!(
            rules,
            "        ip saddr {} counter ether saddr set {} ether daddr set {router} fwd to \"{}\"",
            it.address, it.mac, it.nic
        );
        rules
    });
    format!(
        "{}table netdev {table} {{
    chain egress {{
        type filter hook egress device \"{nic}\" priority 0; policy accept;
{rules}    }}
}}
",
        emptied(&table)
    )
}

fn path(bridge: &str) -> PathBuf {
    Path::new(state::DIRECTORY).join(format!("nics-{bridge}.json"))
}
