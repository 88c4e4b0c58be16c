//! The netfilter tier: the documented masquerade rule and the frame rewriting of bridge mode as
//! nftables, in two tables of our own that are replaced whole, in one transaction.
//!
//! Every change is made under the bridge's lock, which nft holds too: if this process is killed, the
//! next one waits for the transaction that is under way.
//!
//! It sees bridged packets only where the bridge hands them to netfilter (`nf_call_iptables`,
//! which our bridge has), so without `br_netfilter` there is no such tier.

pub mod foreign;
mod installed;
pub mod judged;
mod policy;

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use azure_vnet_abi::Mac;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use installed::Table;

use super::{Pod, Uplink};
use crate::lock::Lock;
use crate::names;
use crate::netlink::MacAddress;

/// Of the package nftables.
const PROGRAM: &str = "nft";

/// How long one transaction may take. It waits for no lock; the kernel's part takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Why the netfilter tier cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    /// Bridged packets do not reach netfilter.
    #[error(
        "bridged packets do not reach netfilter: the kernel module br_netfilter is not loaded (modprobe br_netfilter)"
    )]
    NoBridgeNetfilter,
    /// A name that nft's syntax has no form for.
    #[error("interface name {0:?} cannot be written in an nft rule")]
    Name(String),
    /// The program is not there.
    #[error("cannot run nft (package nftables)")]
    Run(#[source] io::Error),
    /// The program did not end.
    #[error("nft did not end within {} s", LIMIT.as_secs())]
    TimedOut,
    /// The kernel did not take the rules.
    #[error("nft ended with {status}: {stderr}")]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
}

/// Installs the tier for `uplink` and all its `pods`, in the place of what was there.
pub fn install(uplink: &Uplink, pods: &[Pod], lock: &Lock) -> Result<(), NetfilterError> {
    if !bridges_reach_netfilter() {
        return Err(NetfilterError::NoBridgeNetfilter);
    }
    for name in [&uplink.name, &uplink.bridge] {
        check_name(name)?;
    }
    nft(&ruleset(uplink, pods), lock)
}

/// Whether the kernel hands bridged packets to netfilter at all.
pub fn bridges_reach_netfilter() -> bool {
    Path::new("/proc/sys/net/bridge").exists()
}

/// Forgets one pod. Its three elements came in one transaction, so all are there or none.
pub fn remove_pod(bridge: &str, address: Ipv4Addr, lock: &Lock) -> Result<(), NetfilterError> {
    check_name(bridge)?;
    let table = table(bridge);
    let mut script = String::new();
    for (family, set) in SETS {
        let _ = writeln!(
            script,
            "delete element {family} {table} {set} {{ {address} }}"
        );
    }
    match nft(&script, lock) {
        Err(error) if is_missing(&error) => Ok(()),
        result => result,
    }
}

/// The addresses of the pods that the rules know.
pub fn addresses(bridge: &str) -> Result<Vec<Ipv4Addr>, NetfilterError> {
    let table = Table::read("bridge", bridge)?;
    Ok(table.addresses("macs").to_vec())
}

/// Both tables of a bridge, as they are.
pub struct Inspection {
    bridge: String,
    tables: [(&'static str, Table); 2],
}

impl Inspection {
    /// Lists them.
    pub fn of(bridge: &str) -> Result<Self, NetfilterError> {
        let read = |family| Ok::<_, NetfilterError>((family, Table::read(family, bridge)?));
        Ok(Self {
            bridge: bridge.to_owned(),
            tables: [read("bridge")?, read("ip")?],
        })
    }

    /// What of this tier is missing for `pod`.
    pub fn defects(&self, pod: &Pod) -> Vec<String> {
        let mut defects = Vec::new();
        for (family, installed) in &self.tables {
            let table = format!("the nftables table {family} {}", table(&self.bridge));
            let chains = CHAINS.iter().filter(|(of, _)| of == family);
            for (_, chain) in chains.filter(|(_, chain)| !installed.has_rules(chain)) {
                defects.push(format!("{table} has no rules in {chain}"));
            }
            let sets = SETS.iter().filter(|(of, _)| of == family);
            for (_, set) in sets.filter(|(_, set)| !installed.addresses(set).contains(&pod.address))
            {
                defects.push(format!("{table} does not have {} in {set}", pod.address));
            }
        }
        defects
    }
}

/// Whether this tier could be set up, as far as can be told without running nft.
pub fn probe() -> Result<(), NetfilterError> {
    if !bridges_reach_netfilter() {
        return Err(NetfilterError::NoBridgeNetfilter);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(PROGRAM).is_file());
    if found {
        Ok(())
    } else {
        Err(NetfilterError::Run(io::ErrorKind::NotFound.into()))
    }
}

/// Leaves everything to another tier but the connections that netfilter translates already. They
/// live in connection tracking, which goes on as long as a chain of type nat and an expression of
/// kind `ct` ask for it: the rule does nothing else.
pub fn drain(bridge: &str, lock: &Lock) {
    if check_name(bridge).is_err() {
        return;
    }
    let table = table(bridge);
    let script = format!(
        "{}table ip {table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ct state established accept
    }}
}}
",
        emptied(&table)
    );
    if let Err(error) = nft(&script, lock) {
        tracing::warn!("the nftables rules of an earlier netfilter datapath stay: {error}");
    }
}

/// Takes both tables away, and what [`drain`] left of them.
pub fn take_away(bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    check_name(bridge)?;
    nft(&emptied(&table(bridge)), lock)
}

/// Both tables gone. `add` before `delete` because deleting what is not there is an error.
fn emptied(table: &str) -> String {
    ["bridge", "ip"]
        .map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n"))
        .concat()
}

/// The sets and maps that know every pod, by the family of their table.
const SETS: [(&str, &str); 3] = [("bridge", "macs"), ("bridge", "local"), ("ip", "pods")];

/// The chains, by the family of their table.
const CHAINS: [(&str, &str); 4] = [
    ("bridge", "prerouting"),
    ("bridge", "postrouting"),
    ("ip", "forward"),
    ("ip", "postrouting"),
];

/// Whether nft said that what it should delete or list is not there.
fn is_missing(error: &NetfilterError) -> bool {
    matches!(error, NetfilterError::Refused { stderr, .. } if stderr.contains("No such file or directory"))
}

fn table(bridge: &str) -> String {
    format!("azure-vnet-{bridge}")
}

/// Linux allows quotes and worse in interface names; nft has no way to escape them.
fn check_name(name: &str) -> Result<(), NetfilterError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.chars().all(plain) {
        Ok(())
    } else {
        Err(NetfilterError::Name(name.to_owned()))
    }
}

/// Both tables, made anew.
fn ruleset(uplink: &Uplink, pods: &[Pod]) -> String {
    format!(
        "{}{}{}",
        emptied(&table(&uplink.bridge)),
        Frames { uplink, pods },
        Masquerade { uplink, pods }
    )
}

/// The frames: what the programs do to MAC addresses and ARP. Before postrouting a frame with the NIC's MAC
/// is the node's own.
///
/// IPv4 under a VLAN tag is not handed to netfilter (`bridge-nf-filter-vlan-tagged`), so it cannot be
/// masqueraded; under two tags nobody looks. IPv6 of pods stays here: decision 15.
struct Frames<'a> {
    uplink: &'a Uplink,
    pods: &'a [Pod],
}

impl fmt::Display for Frames<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, pods } = self;
        let (table, nic) = (table(&uplink.bridge), &uplink.name);
        // Of whatever bridge: another NIC's frames have the fabric's MAC too.
        let pod_links = names::PREFIX;
        let (mac, fabric) = (uplink.mac, MacAddress(Mac::FABRIC.0));
        let macs = elements(
            pods.iter()
                .map(|pod| format!("{} : {}", pod.address, pod.mac)),
        );
        let addresses = pods.iter().map(|pod| pod.address).chain([uplink.address]);
        let local = elements(addresses);
        let (node, closed) = (
            uplink.address,
            elements(policy::closed(&uplink.policy.compile())),
        );
        write!(
            formatter,
            r#"table bridge {table} {{
    map macs {{
        type ipv4_addr : ether_addr
        {macs}
    }}
    set local {{
        type ipv4_addr
        {local}
    }}
    set closed {{
        type ipv4_addr
        flags interval
        {closed}
    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        iifname "{pod_links}*" ether saddr {{ {mac}, {fabric} }} counter drop
        iifname "{nic}" ether type ip ether daddr set ip daddr map @macs
        iifname "{nic}" arp operation reply ether daddr set arp daddr ip map @macs
    }}
    chain postrouting {{
        type filter hook postrouting priority 300; policy accept;
        oifname != "{nic}" accept
        arp operation request arp daddr ip @local drop
        ether type arp arp saddr ether set {mac}
        ether saddr != {mac} meta protocol ip6 counter drop
        ether saddr != {mac} ether type {{ 8021q, 8021ad }} meta protocol {{ ip, 8021q, 8021ad }} counter drop
        ip saddr != {node} ip saddr @local ip daddr @closed drop
        ether saddr set {mac}
    }}
}}
"#
        )
    }
}

/// The addresses: the documented rule with a list of ranges, for the pods of this node only.
///
/// What a rule closes is closed to the flows that pods begin, from their next packet on. A packet that
/// connection tracking cannot place would pass the nat chain unseen and leave with the pod's address,
/// so it is dropped where it would leave the ranges.
struct Masquerade<'a> {
    uplink: &'a Uplink,
    pods: &'a [Pod],
}

impl fmt::Display for Masquerade<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, pods } = self;
        let (table, node) = (table(&uplink.bridge), uplink.address);
        let pods = elements(pods.iter().map(|pod| pod.address));
        let policy = uplink.policy.compile();
        let (chains, policy) = (
            policy::Chains(&policy),
            elements(policy::destinations(&policy)),
        );
        write!(
            formatter,
            r"table ip {table} {{
    set pods {{
        type ipv4_addr
        {pods}
    }}
    map destinations {{
        type ipv4_addr : verdict
        flags interval
        {policy}
    }}
{chains}    chain forward {{
        type filter hook forward priority filter; policy accept;
        ip saddr != @pods accept
        ip daddr @pods accept
        ct direction reply accept
        ip daddr vmap @destinations
        ct state invalid drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr != @pods accept
        ip daddr vmap @destinations
        snat to {node}
    }}
}}
"
        )
    }
}

/// `elements = { … }`, or nothing: nft takes no empty list.
fn elements<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    if items.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }}", items.join(", "))
    }
}

/// Runs one transaction. It prints nothing, so the lock can be its standard output.
fn nft(script: &str, lock: &Lock) -> Result<(), NetfilterError> {
    let lock = lock.share().map_err(NetfilterError::Run)?;
    run(&["-f", "-"], script, lock)
}

/// Runs nft to its end.
fn run(arguments: &[&str], script: &str, stdout: File) -> Result<(), NetfilterError> {
    execute(PROGRAM, arguments, script, stdout)
}

/// Runs nft, or a program that lists or deletes the rules of others, to its end, without a shell.
pub fn execute(
    program: &str,
    arguments: &[&str],
    script: &str,
    stdout: File,
) -> Result<(), NetfilterError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that runs programs of netfilter"
    )]
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NetfilterError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends without reading says why on stderr.
        let _ = stdin.write_all(script.as_bytes());
    }
    let status = wait(&mut child)?;
    let mut stderr = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        let _ = pipe.read_to_string(&mut stderr);
    }
    if status.success() {
        return Ok(());
    }
    let stderr = stderr.trim().to_owned();
    Err(NetfilterError::Refused { status, stderr })
}

fn wait(child: &mut Child) -> Result<ExitStatus, NetfilterError> {
    let ended = Pid::from_raw(child.id().cast_signed())
        .map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .transpose()
        .and_then(|pidfd| {
            let limit = Timespec::try_from(LIMIT).ok();
            let mut fds = pidfd
                .iter()
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect::<Vec<_>>();
            poll(&mut fds, limit.as_ref())
        })
        .map_err(|errno| NetfilterError::Run(errno.into()))?;
    if ended == 0 {
        let _ = child.kill();
        let _ = child.wait();
        return Err(NetfilterError::TimedOut);
    }
    child.wait().map_err(NetfilterError::Run)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::masquerade::{Source, Timeouts};

    fn uplink() -> Uplink {
        Uplink {
            bridge_ifindex: 3,
            bridge: "azure0".into(),
            name: "eth0".into(),
            address: Ipv4Addr::new(10, 0, 0, 4),
            ifindex: 2,
            mtu: 1500,
            fast_path: true,
            mac: MacAddress([0, 0x0d, 0x3a, 1, 2, 3]),
            ports: (10240, 29999),
            timeouts: Timeouts::default(),
            flows_per_pod: 1000,
            policy: Source::Off.policy("10.0.0.0/20".parse().unwrap(), None),
            subnet: "10.0.0.0/20".parse().unwrap(),
            source: Source::Off,
        }
    }

    #[test]
    fn no_pods_leave_no_empty_list() {
        let text = ruleset(&uplink(), &[]);
        assert!(!text.contains("{ }"), "{text}");
        assert!(text.contains("elements = { 10.0.0.4 }"), "{text}");
    }

    #[test]
    fn a_name_that_would_end_the_quotes_is_refused() {
        let mut odd = uplink();
        odd.name = "e\"; flush ruleset".into();
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::acquire(&directory.path().join("lock")).unwrap();
        let refused = install(&odd, &[], &lock);
        assert!(matches!(refused, Err(NetfilterError::Name(_))));
    }
}
