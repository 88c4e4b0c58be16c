//! `azure-vnet status`: what is in place on this node, and what is wrong with it.

use std::fmt;

use azure_vnet_abi::ABI_VERSION;
use azure_vnet_ipam::Report;
use serde::Serialize;

use super::bridges::{self, Bridge};
use super::output::Output;
use super::pool::Exhausted;
use super::table::Table;
use super::{Failure, Outcome, pool};
use crate::datapath::Rules;
use crate::health::{firewall, path};
use crate::masquerade::agent;
use crate::netlink::Netlink;

/// What is in place.
#[derive(Serialize)]
pub struct Status {
    /// Of the plugin.
    version: &'static str,
    /// Of the maps' layouts; part of the pin path.
    abi: u32,
    /// `not_set_up`, `healthy` or `degraded`.
    health: Health,
    /// The bridges that pods are attached to.
    bridges: Vec<Bridge>,
    /// The addresses for pods; null before the first one was asked for.
    pool: Option<Report>,
    /// What is in force of ip-masq-agent's files.
    ip_masq_agent: agent::InForce,
    /// What is wrong beside the bridges' own problems.
    problems: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    NotSetUp,
    Healthy,
    Degraded,
}

/// Prints the status; a problem if there is one.
pub async fn run(output: Output) -> Result<Outcome, Failure> {
    let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
    let status = gather(&netlink).await?;
    output.show(&status)?;
    Ok(if status.health == Health::Degraded {
        Outcome::Problem
    } else {
        Outcome::Fine
    })
}

/// The facts.
pub async fn gather(netlink: &Netlink) -> Result<Status, Failure> {
    let bridges = bridges::survey(netlink).await?;
    let mut problems = Vec::new();
    let pool = pool::read().unwrap_or_else(|error| {
        problems.push(error);
        None
    });
    problems.extend(pool.as_ref().and_then(pool::exhausted).map(said));
    problems.extend(off_the_way(netlink).await?);
    let ip_masq_agent = agent::last();
    let refused = |problem| format!("ip-masq-agent's last good files stay in force: {problem}");
    problems.extend(ip_masq_agent.problem.as_ref().map(refused));
    let wrong = !problems.is_empty() || bridges.iter().any(|bridge| !bridge.problems.is_empty());
    Ok(Status {
        version: env!("CARGO_PKG_VERSION"),
        abi: ABI_VERSION,
        health: match (wrong, bridges.is_empty()) {
            (true, _) => Health::Degraded,
            (false, true) => Health::NotSetUp,
            (false, false) => Health::Healthy,
        },
        bridges,
        pool,
        ip_masq_agent,
        problems,
    })
}

/// What keeps packets from where they should go. That the node does not route is a bridge's problem.
async fn off_the_way(netlink: &Netlink) -> Result<Vec<String>, Failure> {
    let links = netlink.links().await.map_err(|error| Failure::of(&error))?;
    let path = path::look(netlink, &links, usize::MAX).await;
    let path = path.map_err(|error| Failure::of(&error))?;
    let problems = path.into_iter().chain(firewall::dropping());
    let problems = problems.filter(|it| it.is_problem() && !it.is_mended_by_add);
    Ok(problems.map(|it| it.found).collect())
}

fn said(exhausted: Exhausted) -> String {
    let advice = match exhausted {
        Exhausted {
            gone: 0,
            unusable: 0,
        } => "add ipconfigs to the NIC, or run fewer pods".to_owned(),
        Exhausted { gone: 0, unusable } => {
            format!("azure-vnet doctor says why {unusable} cannot be used")
        }
        Exhausted { gone, .. } => format!("azure-vnet gc gives back {gone} of pods that are gone"),
    };
    format!("no address is free for the next pod: {advice}")
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let health = match self.health {
            Health::NotSetUp => "not set up yet, as no pod was attached since boot",
            Health::Healthy => "healthy",
            Health::Degraded => "DEGRADED",
        };
        writeln!(
            out,
            "azure-vnet v{} (ABI {}): {health}",
            self.version, self.abi
        )?;
        for bridge in &self.bridges {
            write!(out, "\n{bridge}")?;
        }
        if let Some(pool) = &self.pool {
            writeln!(out, "\npool")?;
            for subnet in &pool.subnets {
                let unusable = match subnet.unusable {
                    0 => String::new(),
                    count => format!(", {count} unusable"),
                };
                writeln!(
                    out,
                    "  {:<12}{} of {} addresses in use{unusable}, {} free",
                    subnet.subnet.to_string() + " ",
                    subnet.in_use,
                    subnet.total,
                    subnet.free
                )?;
            }
        }
        write_problems(out, self.problems.iter())
    }
}

impl fmt::Display for Bridge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tier = self.tier.map_or("none".to_owned(), |tier| tier.to_string());
        if let Some(rules) = self.rules.filter(|rules| *rules != Rules::Nft) {
            tier = format!("{tier} ({rules})");
        }
        let pods = match self.pods {
            1 => "1 pod".to_owned(),
            pods => format!("{pods} pods"),
        };
        writeln!(out, "{}: {tier}, {pods}", self.name)?;
        if let Some(why) = &self.why {
            write_wrapped(out, "eBPF cannot be used: ", why)?;
        }
        for what in self.unchecked {
            write_wrapped(out, "not checked: ", what)?;
        }
        if let Some(nic) = &self.nic {
            let mac = self.mac.map_or_else(|| "-".into(), |mac| mac.to_string());
            let mtu = self.mtu.map_or_else(|| "-".into(), |mtu| mtu.to_string());
            writeln!(out, "  NIC         {nic}, MAC {mac}, MTU {mtu}")?;
        }
        if let Some(address) = self.address {
            let ports = self
                .ports
                .map(|(first, last)| format!(", ports {first}-{last}"));
            let reserved = self
                .reserved_ports
                .filter(|count| *count > 0)
                .map(|count| format!(" without {count}"));
            let policy = self
                .policy_prefixes
                .map(|prefixes| format!(", policy of {prefixes} prefixes"));
            writeln!(
                out,
                "  masquerade  as {address}{}{}{}",
                ports.unwrap_or_default(),
                reserved.unwrap_or_default(),
                policy.unwrap_or_default()
            )?;
        }
        if let Some(programs) = &self.programs {
            let build: String = programs.build.chars().take(12).collect();
            let current = if programs.current {
                ""
            } else {
                ", not of this binary: the next ADD replaces them"
            };
            writeln!(out, "  programs    build {build}{current}")?;
            writeln!(out, "  pins        {}", programs.pins)?;
        }
        self.write_counters(out)?;
        write_problems(out, self.problems.iter().map(|problem| &problem.what))?;
        let mut notes = self.notes.iter();
        notes.try_for_each(|note| write_wrapped(out, "note: ", note))
    }
}

impl Bridge {
    fn write_counters(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["", "  reason", ">packets", ""]);
        let counted = self.counters.iter().filter(|counter| counter.packets > 0);
        let mut any = false;
        for counter in counted {
            any = true;
            table.row([
                String::new(),
                format!("  {}", counter.reason),
                counter.packets.to_string(),
                if counter.dropped {
                    "dropped".into()
                } else {
                    String::new()
                },
            ]);
        }
        if any {
            write!(out, "{table}")?;
        }
        Ok(())
    }
}

fn write_problems<'a>(
    out: &mut fmt::Formatter<'_>,
    mut problems: impl Iterator<Item = &'a String>,
) -> fmt::Result {
    problems.try_for_each(|problem| write_wrapped(out, "PROBLEM: ", problem))
}

fn write_wrapped(out: &mut fmt::Formatter<'_>, lead: &str, text: &str) -> fmt::Result {
    let wrapped = super::output::wrapped(&format!("{lead}{text}"), 2);
    writeln!(out, "{wrapped}")
}
