//! What others have set up and that gets in the way.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::super::bridges::Bridge;
use crate::datapath::foreign::chains::{self, Chain, Hook};
use crate::datapath::foreign::traversal::{self, End, Probe};
use crate::datapath::foreign::{self, Line};
use crate::health::firewall::{self, Network};
use crate::health::path::WORLD;
use crate::health::{Check, Finding};
use crate::ports;

/// Kubernetes' `--service-node-port-range`, unless changed.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// The chain of ip-masq-agent, which Azure's version has too.
const AGENT: &str = "IP-MASQ-AGENT";

pub fn check(bridges: &[Bridge]) -> Vec<Finding> {
    let networks = firewall::networks();
    let mut findings = Vec::new();
    match foreign::iptables() {
        Ok(lines) => {
            findings.push(Finding::ok(
                Check::Iptables,
                "the rules of iptables can be listed",
            ));
            findings.extend(masquerade(&lines, &networks));
            findings.push(agent(&lines));
            findings.extend(firewall::forward(&lines, &networks));
        }
        Err(error) => findings.push(firewall::unreadable(&error)),
    }
    findings.extend(nft_masquerade(&networks));
    findings.push(match foreign::ebtables() {
        Ok(lines) => ebtables(&lines),
        Err(error) => firewall::unreadable(&error),
    });
    findings.extend(bridges.iter().filter_map(port_range));
    findings
}

/// Rules that masquerade pods before `to_uplink` sees them: then the policy does not decide. What they do with a packet of a pod is
/// worked out, whatever their form and chain.
fn masquerade(lines: &[Line], networks: &[Network]) -> Vec<Finding> {
    const OVERRULED: &str = "so masquerade.rules and the ranges of the configuration do not decide";
    let mut findings: Vec<Finding> = Vec::new();
    let mut programs: Vec<&str> = lines.iter().map(|line| line.program).collect();
    programs.dedup();
    for program in programs {
        let of_program: Vec<&Line> = lines.iter().filter(|it| it.program == program).collect();
        for network in networks {
            let probe = Probe {
                protocol: None,
                comes_in: None,
                goes_out: &network.nic,
                source: network.pod,
                destination: WORLD,
            };
            let ends = traversal::ends(&of_program, "nat", "POSTROUTING", probe);
            let translated = ends.iter().filter_map(|end| match end {
                End::Translated(line) => Some(*line),
                _ => None,
            });
            for line in translated {
                let is_sure = ends.iter().all(|end| matches!(end, End::Translated(_)));
                let rule = &line.text;
                let fix = format!("{} -t nat {}", line.tool(), rule.replacen("-A ", "-D ", 1));
                let finding = if is_sure {
                    let found = format!("a rule of iptables masquerades pods, {OVERRULED}: {rule}");
                    Finding::problem(Check::Masquerade, found, fix)
                } else {
                    let found = format!(
                        "a rule of iptables may masquerade some packets of pods, and where it does, the configuration does not decide: {rule}"
                    );
                    Finding::warning(Check::Masquerade, found, fix)
                };
                if !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            Check::Masquerade,
            "no rule of iptables masquerades pods",
        ));
    }
    findings
}

/// The same of nftables: rules in the chains that packets come to first. Those of kube-proxy go by a mark.
fn nft_masquerade(networks: &[Network]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let chains = chains::all().unwrap_or_default();
    let foreign = chains.iter().filter(|chain| {
        // iptables lists its own.
        let is_iptables = chain.family == "ip" && chain.table == "nat";
        let is_known = is_iptables || chain.table == "kube-proxy" || firewall::is_own(chain);
        chain.hook == Hook::Postrouting && !is_known
    });
    for chain in foreign {
        let text = match foreign::nft_chain(chain) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => {
                findings.push(firewall::unreadable(&error));
                continue;
            }
        };
        for line in text.lines().map(str::trim) {
            let Some((rule, handle)) = line.split_once(" # handle ") else {
                continue;
            };
            if networks.iter().any(|it| nft_catches(rule, it)) {
                let Chain {
                    family,
                    table,
                    name,
                    ..
                } = chain;
                findings.push(Finding::problem(
                    Check::NftMasquerade,
                    format!(
                        "a rule of nftables masquerades pods, so the configuration does not decide (chain {family} {table} {name}): {rule}"
                    ),
                    format!("nft delete rule {family} {table} {name} handle {handle}"),
                ));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            Check::NftMasquerade,
            "no rule of nftables masquerades pods",
        ));
    }
    findings
}

/// Whether a rule translates what a pod sends to the world by its NIC. What is asked by marks, sets and states is others' own.
fn nft_catches(rule: &str, network: &Network) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let translates = words.iter().any(|it| matches!(*it, "masquerade" | "snat"));
    let holds = |key: &str, is_it: &dyn Fn(&str) -> bool| {
        let Some(at) = words.iter().position(|it| *it == key) else {
            return true;
        };
        match words.get(at + 1) {
            Some(&"!=") => words.get(at + 2).is_some_and(|value| !is_it(value)),
            Some(value) => is_it(value),
            None => false,
        }
    };
    let within = |address: Ipv4Addr| {
        move |net: &str| {
            net.parse::<Ipv4Net>()
                .is_ok_and(|net| net.contains(&address))
        }
    };
    let is_nic = |name: &str| name.trim_matches('"') == network.nic;
    translates
        && !words.iter().any(|it| matches!(*it, "mark" | "ct" | "fib"))
        && holds("saddr", &within(network.pod))
        && holds("daddr", &within(WORLD))
        && holds("oifname", &is_nic)
        && holds("oif", &is_nic)
}

fn agent(lines: &[Line]) -> Finding {
    let here = || lines.iter().filter(|line| line.table == "nat");
    let chain = format!(":{AGENT} ");
    let Some(of_chain) = here().find(|line| line.text.starts_with(&chain)) else {
        return Finding::ok(Check::IpMasqAgent, "no chain of ip-masq-agent");
    };
    let tool = of_chain.tool();
    let jumps = here().filter(|it| it.program == of_chain.program && it.text.ends_with(AGENT));
    let mut commands: Vec<String> = jumps
        .map(|jump| format!("{tool} -t nat {}", jump.text.replacen("-A ", "-D ", 1)))
        .collect();
    commands.extend(["-F", "-X"].map(|what| format!("{tool} -t nat {what} {AGENT}")));
    Finding::problem(
        Check::IpMasqAgent,
        "ip-masq-agent is or was here (chain IP-MASQ-AGENT): it masquerades pods by its own ranges first",
        format!(
            "{}, and kubectl -n kube-system delete daemonset azure-ip-masq-agent (its configuration in /etc/config is read by azure-vnet)",
            commands.join("; ")
        ),
    )
}

/// What the original plugin leaves: it rewrites MACs and answers ARP by rules for each pod.
fn ebtables(lines: &[Line]) -> Finding {
    let is_nat = |line: &&Line| {
        let text = line.text.to_ascii_lowercase();
        line.text.starts_with("-A ")
            && ["-j snat", "-j dnat", "-j arpreply", "-j redirect"]
                .iter()
                .any(|target| text.contains(target))
    };
    let rules: Vec<&Line> = lines.iter().filter(is_nat).collect();
    let Some(first) = rules.first() else {
        return Finding::ok(Check::Ebtables, "no rule of ebtables rewrites frames");
    };
    let tables: BTreeSet<&str> = rules.iter().map(|rule| rule.table.as_str()).collect();
    let flush = tables.iter().map(|table| format!("ebtables -t {table} -F"));
    let flush: Vec<String> = flush.collect();
    Finding::problem(
        Check::Ebtables,
        format!(
            "{} rules of ebtables rewrite frames, as the original azure-vnet leaves them; the first: {}",
            rules.len(),
            first.text
        ),
        format!(
            "{}, when no pod of the original plugin is left",
            flush.join("; ")
        ),
    )
}

/// Ports that the node's own sockets get, or that come in as `NodePorts`, must not be used to masquerade.
fn port_range(bridge: &Bridge) -> Option<Finding> {
    let (first, last) = bridge.ports?;
    let local = ports::local_range();
    let overlaps = |range: &RangeInclusive<u16>| first <= *range.end() && *range.start() <= last;
    Some(if overlaps(&local) {
        Finding::problem(
            Check::Ports,
            format!(
                "{}: the ports to masquerade with, {first}-{last}, overlap net.ipv4.ip_local_port_range {}-{}: \
                 replies to the node may go to a pod",
                bridge.name,
                local.start(),
                local.end()
            ),
            match ports::Ports::Auto.choose(&local) {
                Ok(_) => {
                    "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\", or attach a pod: the next ADD chooses other ports, where masquerade.ports is \"auto\""
                }
                Err(_) => {
                    "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\", as now no 1024 ports in a row are left"
                }
            },
        )
    } else if overlaps(&NODE_PORTS) {
        Finding::problem(
            Check::Ports,
            format!(
                "{}: the ports to masquerade with, {first}-{last}, overlap NodePorts 30000-32767",
                bridge.name
            ),
            "choose others in masquerade.ports",
        )
    } else {
        let found = format!("{}: {first}-{last}, apart from the node's own", bridge.name);
        Finding::ok(Check::Ports, found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nft_rules_that_masquerade_pods_are_told_from_those_that_do_not() {
        let network = Network {
            bridge: "azure0".to_owned(),
            nic: "eth0".to_owned(),
            pod: Ipv4Addr::new(10, 0, 0, 5),
        };
        for rule in [
            "masquerade",
            "oifname \"eth0\" masquerade",
            "ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 counter masquerade",
            "oif \"eth0\" snat to 10.0.0.4",
        ] {
            assert!(nft_catches(rule, &network), "{rule}");
        }
        for rule in [
            "ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade",
            "oifname \"docker0\" masquerade",
            "meta mark & 0x00004000 == 0x00004000 masquerade",
            "ip saddr @others masquerade",
            "jump POST",
        ] {
            assert!(!nft_catches(rule, &network), "{rule}");
        }
    }
}
