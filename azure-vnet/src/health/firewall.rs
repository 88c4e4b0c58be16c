//! The firewall that others have set up: whether the chains of FORWARD, iptables' and nftables', pass what pods send and get. We add no
//! rule there (docs/decisions/0025-forward-is-its-owners.md).

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use super::path::WORLD;
use super::{Check, Finding};
use crate::datapath::NetfilterError;
use crate::datapath::foreign::chains::{self, Chain, Hook};
use crate::datapath::foreign::traversal::{End, Probe, ends};
use crate::datapath::foreign::{self, Line};
use crate::live;
use crate::node;
use crate::state;

/// A bridge, its NIC, and an address behind it.
#[derive(Clone, Debug)]
pub struct Network {
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the NIC.
    pub nic: String,
    /// The address of some pod, or one that the next pod may get.
    pub pod: Ipv4Addr,
}

/// The networks of this node; before the first pod, that of the shipped configuration.
pub fn networks() -> Vec<Network> {
    let mut known = node::remembered();
    if known.is_empty() {
        known.push(("azure0".to_owned(), "eth0".to_owned()));
    }
    let of = |(bridge, nic): (String, String)| {
        let pods = live::pods(&bridge).unwrap_or_default();
        let pod = pods.first().map(|pod| pod.address).or_else(|| {
            let pool = azure_vnet_ipam::pool(Path::new(state::DIRECTORY));
            pool.ok()?.into_iter().next()
        });
        Network {
            bridge,
            nic,
            pod: pod.unwrap_or(Ipv4Addr::UNSPECIFIED),
        }
    };
    known.into_iter().map(of).collect()
}

/// A FORWARD chain whose policy drops all that pods send and get, as where nobody has thought of them: for those who ask often, or keep
/// pods away. Where no chain has such a policy, which the kernel says itself, no program is run. Other rules that drop, and chains that
/// pass some ways and not others, which may be meant so, are found by [`forward`].
pub fn dropping() -> Option<Finding> {
    let chains = chains::all().unwrap_or_default();
    let has_policy = chains
        .iter()
        .any(|chain| chain.hook == Hook::Forward && chain.drops && !is_own(chain));
    // The tables of the older kind of iptables, which are no nftables.
    let legacy = fs::read_to_string("/proc/self/net/ip_tables_names").unwrap_or_default();
    let has_legacy = legacy.lines().any(|table| table == "filter");
    if !has_policy && !has_legacy {
        return None;
    }
    let lines = foreign::iptables_filter(has_legacy).unwrap_or_default();
    let found = judged(&lines, &networks(), Asked::Everything);
    found.into_iter().find(Finding::is_problem)
}

/// Says it in the log.
pub fn warn() {
    if let Some(finding) = dropping() {
        let fix = finding.fix.unwrap_or_default();
        tracing::warn!("{}; fix: {fix}", finding.found);
    }
}

/// Whether FORWARD passes what pods send and get, by these rules of iptables and by the chains of nftables.
pub fn forward(lines: &[Line], networks: &[Network]) -> Vec<Finding> {
    let mut findings = judged(lines, networks, Asked::Anything);
    findings.extend(around(lines, networks));
    if findings
        .iter()
        .any(|it| it.check == Check::Forward && it.is_problem())
    {
        findings.retain(|it| it.check != Check::Forward || it.fix.is_some());
    }
    findings
}

/// What has to be dropped to be worth a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// One way of a pod's packets.
    Anything,
    /// All of them, by the policy of the chain.
    Everything,
}

fn judged(lines: &[Line], networks: &[Network], asked: Asked) -> Vec<Finding> {
    let mut findings = iptables(lines, networks, asked);
    let chains = chains::all().unwrap_or_else(|error| {
        let found = format!("the kernel does not say which nftables chains there are: {error}");
        findings.push(Finding::warning(
            Check::Iptables,
            found,
            "list them by hand: nft list chains",
        ));
        Vec::new()
    });
    // Where iptables is not installed, its chains are there all the same.
    let is_listed =
        |chain: &Chain| chain.family == "ip" && chain.table == "filter" && !lines.is_empty();
    let foreign = chains.iter().filter(|chain| {
        chain.hook == Hook::Forward && chain.drops && !is_own(chain) && !is_listed(chain)
    });
    for chain in foreign {
        match foreign::nft_chain(chain) {
            Ok(text) => findings.extend(nft(chain, &text.unwrap_or_default(), networks, asked)),
            Err(error) => findings.push(unreadable(&error)),
        }
    }
    if !findings.iter().any(|it| it.check == Check::Forward) {
        findings.push(Finding::ok(
            Check::Forward,
            "no chain of FORWARD drops what is routed for pods",
        ));
    }
    findings
}

/// A listing that failed; the error has the program's name.
pub fn unreadable(error: &NetfilterError) -> Finding {
    let found = format!("the rules of others cannot be listed: {error}");
    Finding::warning(Check::Iptables, found, "list them by hand")
}

/// A table that the netfilter tier has made.
pub fn is_own(chain: &Chain) -> bool {
    chain.table.starts_with("azure-vnet-")
}

fn iptables(lines: &[Line], networks: &[Network], asked: Asked) -> Vec<Finding> {
    let mut programs: Vec<&str> = lines.iter().map(|line| line.program).collect();
    programs.dedup();
    let mut findings = Vec::new();
    for program in programs {
        let of_program: Vec<&Line> = lines.iter().filter(|it| it.program == program).collect();
        let (mut sure, mut fixes, mut culprit) = (false, Vec::new(), None);
        let mut passes = false;
        for (way, probe) in networks.iter().flat_map(packets) {
            let ends = ends(&of_program, "filter", "FORWARD", probe);
            let mut drops = ends.iter().filter_map(End::dropped);
            let policy = drops.clone().find(|line| is_policy(line));
            passes |= !ends.iter().all(|end| end.dropped().is_some_and(is_policy));
            let is_sure = ends.iter().all(|end| end.dropped().is_some());
            // A rule for some ports, or for a set, is somebody's wish.
            let Some(line) = policy.or_else(|| drops.next().filter(|_| is_sure)) else {
                continue;
            };
            sure |= is_sure;
            culprit = culprit.or(Some(line));
            let fix = accepting(line, &way);
            if !fixes.contains(&fix) {
                fixes.push(fix);
            }
        }
        let Some(line) = culprit else { continue };
        if passes && asked == Asked::Everything {
            continue;
        }
        let what = if is_policy(line) {
            "the policy of iptables' FORWARD chain is DROP (docker sets it): packets of pods that no rule accepts are lost"
                .to_owned()
        } else {
            format!("a rule of iptables drops packets of pods: {}", line.text)
        };
        let fix = fixes.join("; ");
        findings.push(if sure {
            Finding::problem(Check::Forward, what, fix)
        } else {
            let found = format!("{what}; whether a rule before it accepts them cannot be told");
            Finding::warning(
                Check::Forward,
                found,
                format!("{fix}, if pods do not get through"),
            )
        });
    }
    findings
}

/// Rules that drop what pods send or get before FORWARD, or behind it.
fn around(lines: &[Line], networks: &[Network]) -> Vec<Finding> {
    const CHAINS: [(&str, &str); 4] = [
        ("raw", "PREROUTING"),
        ("mangle", "PREROUTING"),
        ("mangle", "FORWARD"),
        ("mangle", "POSTROUTING"),
    ];
    let mut programs: Vec<&str> = lines.iter().map(|line| line.program).collect();
    programs.dedup();
    let mut findings = Vec::new();
    for program in programs {
        let of_program: Vec<&Line> = lines.iter().filter(|it| it.program == program).collect();
        for (table, chain) in CHAINS {
            let dropping = networks.iter().flat_map(packets).find_map(|(_, probe)| {
                let ends = ends(&of_program, table, chain, probe);
                let all = ends.iter().all(|end| end.dropped().is_some());
                ends.first().and_then(End::dropped).filter(|_| all)
            });
            let Some(line) = dropping else { continue };
            let (tool, text) = (line.tool(), &line.text);
            let fix = if is_policy(line) {
                format!("{tool} -t {table} -P {chain} ACCEPT")
            } else {
                format!("{tool} -t {table} {}", text.replacen("-A ", "-D ", 1))
            };
            let found = format!("a rule of iptables drops packets of pods (table {table}): {text}");
            findings.push(Finding::problem(Check::Forward, found, fix));
        }
    }
    findings
}

/// The packets of [`ways`], of the protocols that a rule may tell apart.
fn packets(network: &Network) -> impl Iterator<Item = (String, Probe<'_>)> {
    ways(network).into_iter().flat_map(|(way, probe)| {
        ["tcp", "udp"].map(|protocol| {
            let probe = Probe {
                protocol: Some(protocol),
                ..probe
            };
            (way.clone(), probe)
        })
    })
}

fn is_policy(line: &Line) -> bool {
    line.text.starts_with(':')
}

/// A rule as it was written.
fn without_handle(line: &str) -> &str {
    line.split(" # handle").next().unwrap_or_default().trim()
}

/// The packets of pods that pass FORWARD, and what an accepting rule has to ask for.
fn ways(network: &Network) -> [(String, Probe<'_>); 3] {
    let Network { bridge, nic, pod } = network;
    let probe = |comes_in, goes_out, source, destination| Probe {
        protocol: None,
        comes_in: Some(comes_in),
        goes_out,
        source,
        destination,
    };
    // Another host of the VNet, and another pod of the node.
    let [host, other] = [0x100, 1].map(|bit| Ipv4Addr::from_bits(pod.to_bits() ^ bit));
    [
        (
            format!("-i {bridge}"),
            probe(bridge.as_str(), nic.as_str(), *pod, WORLD),
        ),
        (format!("-o {bridge}"), probe(nic, bridge, host, *pod)),
        (format!("-i {bridge}"), probe(bridge, bridge, *pod, other)),
    ]
}

/// The command that accepts what this line drops: behind all rules where it is the policy, else in front of the rule.
fn accepting(line: &Line, way: &str) -> String {
    let (tool, chain) = (line.tool(), line.chain());
    if is_policy(line) {
        format!("{tool} -A {chain} {way} -j ACCEPT")
    } else {
        format!("{tool} -I {chain} {} {way} -j ACCEPT", line.number)
    }
}

/// What a chain with policy drop lacks. Other rules of it may accept pods' packets in other words.
fn nft(chain: &Chain, text: &str, networks: &[Network], asked: Asked) -> Option<Finding> {
    let Chain {
        family,
        table,
        name,
        ..
    } = chain;
    let lines = || text.lines().map(without_handle);
    let accepts = |way: &str, bridge: &str| {
        lines().any(|line| {
            line.contains(way)
                && line.contains(&format!("\"{bridge}\""))
                && line.ends_with("accept")
        })
    };
    let lacking: Vec<String> = networks
        .iter()
        .flat_map(|network| ["iifname", "oifname"].map(|way| (way, network.bridge.as_str())))
        .filter(|(way, bridge)| !accepts(way, bridge))
        .map(|(way, bridge)| format!("nft add rule {family} {table} {name} {way} {bridge} accept"))
        .collect();
    let passes = lacking.len() < 2 * networks.len();
    if lacking.is_empty() || passes && asked == Asked::Everything {
        return None;
    }
    let found = format!(
        "the policy of the nftables chain {family} {table} {name} is drop: packets of pods that no rule accepts are lost"
    );
    let is_other = |line: &str| {
        let decides = ["accept", "jump", "goto", "vmap"]
            .iter()
            .any(|it| line.contains(it));
        decides && !line.starts_with("type ") && !line.contains("established")
    };
    let fix = lacking.join("; ");
    Some(if lines().any(is_other) || text.is_empty() {
        let found = format!("{found}; whether one does cannot be told");
        Finding::warning(
            Check::Forward,
            found,
            format!("{fix}, if pods do not get through"),
        )
    } else {
        Finding::problem(Check::Forward, found, fix)
    })
}
