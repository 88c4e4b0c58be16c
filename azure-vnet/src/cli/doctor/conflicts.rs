//! What others have set up and that gets in the way.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::super::bridges::Bridge;
use super::Finding;
use crate::datapath::foreign::{self, Line};
use crate::{ports, state};

/// Kubernetes' `--service-node-port-range`, unless changed.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// The chain of ip-masq-agent, which Azure's version has too.
const AGENT: &str = "IP-MASQ-AGENT";

pub fn check(bridges: &[Bridge]) -> Vec<Finding> {
    let mut findings = Vec::new();
    match foreign::iptables() {
        Ok(lines) => {
            let pods: Vec<Ipv4Addr> = state::everything().iter().map(|pod| pod.address).collect();
            findings.extend(masquerade(&lines, &pods));
            findings.push(agent(&lines));
            findings.push(forward(&lines, bridges));
        }
        Err(error) => findings.push(unreadable("iptables", &error)),
    }
    match foreign::ebtables() {
        Ok(lines) => findings.push(ebtables(&lines)),
        Err(error) => findings.push(unreadable("ebtables", &error)),
    }
    findings.extend(bridges.iter().filter_map(port_range));
    findings
}

fn unreadable(check: &'static str, error: &crate::datapath::NetfilterError) -> Finding {
    let found = format!("its rules cannot be listed: {error}");
    Finding::warning(check, found, "list them by hand")
}

/// Rules that masquerade pods before `to_uplink` sees them: then the policy does not decide.
fn masquerade(lines: &[Line], pods: &[Ipv4Addr]) -> Vec<Finding> {
    let mut found: Vec<Finding> = lines
        .iter()
        .filter(|line| line.table == "nat" && catches_pods(&line.text, pods))
        .map(|line| {
            let tool = line.program.trim_end_matches("-save");
            Finding::problem(
                "iptables_masquerade",
                format!(
                    "a rule of iptables masquerades pods, so masquerade.rules and the ranges of the \
                     configuration do not decide: {}",
                    line.text
                ),
                format!("{tool} -t nat {}", line.text.replacen("-A ", "-D ", 1)),
            )
        })
        .collect();
    if found.is_empty() {
        found.push(Finding::ok(
            "iptables_masquerade",
            "no rule of iptables masquerades pods",
        ));
    }
    found
}

/// A rule of POSTROUTING for sources among which pods are. Those of kube-proxy, portmap and docker go by a mark, a
/// chain of their own, or a source of their own.
pub fn catches_pods(rule: &str, pods: &[Ipv4Addr]) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let after = |flag: &str| {
        let at = words.iter().position(|word| *word == flag)?;
        let negated = at > 0 && words[at - 1] == "!";
        words.get(at + 1).map(|value| (*value, negated))
    };
    let target = after("-j").map(|(target, _)| target);
    let source = match after("-s") {
        None => true,
        Some((source, negated)) => source
            .parse::<Ipv4Net>()
            .is_ok_and(|source| pods.iter().any(|pod| source.contains(pod) != negated)),
    };
    after("-A").is_some_and(|(chain, _)| chain == "POSTROUTING")
        && matches!(target, Some("MASQUERADE" | "SNAT"))
        && !words.contains(&"--mark")
        && source
}

fn agent(lines: &[Line]) -> Finding {
    let chain = format!(":{AGENT} ");
    if lines
        .iter()
        .any(|line| line.table == "nat" && line.text.starts_with(&chain))
    {
        return Finding::problem(
            "ip_masq_agent",
            "ip-masq-agent is or was here (chain IP-MASQ-AGENT): it masquerades pods by its own ranges first",
            "kubectl -n kube-system delete daemonset azure-ip-masq-agent (its configuration in /etc/config is \
             read by azure-vnet); then iptables -t nat -F IP-MASQ-AGENT",
        );
    }
    Finding::ok("ip_masq_agent", "no chain of ip-masq-agent")
}

/// What pods send and get is routed, so it passes FORWARD. We add no rule there: whose policy is DROP has a firewall, and where in it
/// pods belong is for its owner to say (docs/decisions/0025-forward-is-its-owners.md).
fn forward(lines: &[Line], bridges: &[Bridge]) -> Finding {
    let drops = |line: &&Line| line.table == "filter" && line.text.starts_with(":FORWARD DROP");
    // Before the first pod, the bridge of the shipped configuration.
    let names = bridges.iter().map(|bridge| bridge.name.as_str());
    let names: Vec<&str> = names
        .chain(bridges.is_empty().then_some("azure0"))
        .collect();
    let lacking = names
        .iter()
        .flat_map(|name| [format!("-i {name}"), format!("-o {name}")])
        .filter(|way| !lines.iter().any(|line| accepts(&line.text, way)));
    let fix: Vec<String> = lacking
        .map(|way| format!("iptables -A FORWARD {way} -j ACCEPT"))
        .collect();
    if lines.iter().any(|line| drops(&line)) && !fix.is_empty() {
        return Finding::problem(
            "forward_policy",
            "the policy of iptables' FORWARD chain is DROP (docker sets it): packets of pods that no rule accepts are lost",
            fix.join("; "),
        );
    }
    Finding::ok(
        "forward_policy",
        "iptables' FORWARD chain does not drop what is routed for pods",
    )
}

/// Whether a rule accepts all that comes from a bridge, or goes to it.
fn accepts(rule: &str, way: &str) -> bool {
    rule == format!("-A FORWARD {way} -j ACCEPT")
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
    let rules: Vec<&str> = lines
        .iter()
        .filter(is_nat)
        .map(|line| line.text.as_str())
        .collect();
    match rules.first() {
        None => Finding::ok("ebtables", "no rule of ebtables rewrites frames"),
        Some(rule) => Finding::problem(
            "ebtables",
            format!(
                "{} rules of ebtables rewrite frames, as the original azure-vnet leaves them; the first: {rule}",
                rules.len()
            ),
            "ebtables -t nat -F (and -t broute -F), when no pod of the original plugin is left",
        ),
    }
}

/// Ports that the node's own sockets get, or that come in as `NodePorts`, must not be used to masquerade.
fn port_range(bridge: &Bridge) -> Option<Finding> {
    let (first, last) = bridge.ports?;
    let local = ports::local_range();
    let overlaps = |range: &RangeInclusive<u16>| first <= *range.end() && *range.start() <= last;
    Some(if overlaps(&local) {
        Finding::problem(
            "ports",
            format!(
                "{}: the ports to masquerade with, {first}-{last}, overlap net.ipv4.ip_local_port_range {}-{}: \
                 replies to the node may go to a pod",
                bridge.name,
                local.start(),
                local.end()
            ),
            match ports::Ports::Auto.choose(&local) {
                Ok(_) => {
                    "attach a pod: the next ADD chooses other ports, where masquerade.ports is \"auto\""
                }
                Err(_) => {
                    "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\": as it is, no 1024 ports in a row are left"
                }
            },
        )
    } else if overlaps(&NODE_PORTS) {
        Finding::problem(
            "ports",
            format!(
                "{}: the ports to masquerade with, {first}-{last}, overlap NodePorts 30000-32767",
                bridge.name
            ),
            "choose others in masquerade.ports",
        )
    } else {
        let found = format!("{}: {first}-{last}, apart from the node's own", bridge.name);
        Finding::ok("ports", found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: [Ipv4Addr; 1] = [Ipv4Addr::new(10, 0, 0, 5)];

    #[test]
    fn only_a_rule_for_all_of_a_bridge_makes_up_for_the_policy() {
        assert!(accepts("-A FORWARD -i azure0 -j ACCEPT", "-i azure0"));
        for rule in [
            "-A FORWARD -i azure0 -o docker0 -j ACCEPT",
            "-A FORWARD -i azure0 -p tcp -j ACCEPT",
            "-A FORWARD -i azure0 -j DROP",
            "-A FORWARD -o azure0 -j ACCEPT",
        ] {
            assert!(!accepts(rule, "-i azure0"), "{rule}");
        }
    }

    #[test]
    fn rules_that_masquerade_pods_are_told_from_those_that_do_not() {
        for rule in [
            "-A POSTROUTING -m addrtype ! --dst-type LOCAL ! -d 10.0.0.0/8 -j MASQUERADE",
            "-A POSTROUTING -m iprange ! --dst-range 168.63.129.16-168.63.129.16 ! -d 10.0.0.0/8 -j MASQUERADE",
            "-A POSTROUTING -s 10.0.0.0/20 -o eth0 -j SNAT --to-source 10.0.0.4",
            "-A POSTROUTING ! -s 172.17.0.0/16 -j MASQUERADE",
        ] {
            assert!(catches_pods(rule, &PODS), "{rule}");
        }
        for rule in [
            "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
            "-A POSTROUTING ! -s 10.0.0.0/20 -j MASQUERADE",
            "-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING",
            "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
            "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
            "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
        ] {
            assert!(!catches_pods(rule, &PODS), "{rule}");
        }
    }
}
