//! The netfilter tier: the documented masquerade rule and the frame rewriting of bridge mode as
//! nftables, in two tables of our own that are replaced whole, in one transaction.
//!
//! It sees bridged packets only where the bridge hands them to netfilter (`nf_call_iptables`,
//! which our bridge has), so without `br_netfilter` there is no such tier.

use std::fmt::{self, Write as _};
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Pod, Uplink};
use crate::masquerade::{Action, Policy};

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
pub fn install(uplink: &Uplink, pods: &[Pod]) -> Result<(), NetfilterError> {
    if !Path::new("/proc/sys/net/bridge").exists() {
        return Err(NetfilterError::NoBridgeNetfilter);
    }
    for name in [&uplink.name, &uplink.bridge] {
        check_name(name)?;
    }
    nft(&ruleset(uplink, pods))
}

/// Forgets one pod. Its three elements came in one transaction, so all are there or none.
pub fn remove_pod(bridge: &str, address: Ipv4Addr) -> Result<(), NetfilterError> {
    check_name(bridge)?;
    let table = table(bridge);
    let mut script = String::new();
    for (family, set) in [("bridge", "macs"), ("bridge", "local"), ("ip", "pods")] {
        let _ = writeln!(
            script,
            "delete element {family} {table} {set} {{ {address} }}"
        );
    }
    match nft(&script) {
        Err(NetfilterError::Refused { stderr, .. })
            if stderr.contains("No such file or directory") =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Takes the tables away, if they are there. Called when another tier has taken over.
pub fn remove(bridge: &str) {
    if check_name(bridge).is_err() {
        return;
    }
    let table = table(bridge);
    let mut script = String::new();
    for family in ["bridge", "ip"] {
        let _ = writeln!(
            script,
            "add table {family} {table}\ndelete table {family} {table}"
        );
    }
    if let Err(error) = nft(&script) {
        tracing::warn!("the nftables rules of an earlier netfilter datapath stay: {error}");
    }
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

/// Both tables, made anew. `add` before `delete` because deleting what is not there is an error.
fn ruleset(uplink: &Uplink, pods: &[Pod]) -> String {
    let table = table(&uplink.bridge);
    let mut script = String::new();
    for family in ["bridge", "ip"] {
        let _ = writeln!(
            script,
            "add table {family} {table}\ndelete table {family} {table}"
        );
    }
    let _ = write!(
        script,
        "{}{}",
        Frames { uplink, pods },
        Masquerade { uplink, pods }
    );
    script
}

/// The frames: what `to_uplink` and `from_uplink` do to MAC addresses and ARP.
struct Frames<'a> {
    uplink: &'a Uplink,
    pods: &'a [Pod],
}

impl fmt::Display for Frames<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, pods } = self;
        let (table, nic) = (table(&uplink.bridge), &uplink.name);
        let mac = uplink.mac;
        let macs = elements(
            pods.iter()
                .map(|pod| format!("{} : {}", pod.address, pod.mac)),
        );
        let addresses = pods.iter().map(|pod| pod.address).chain([uplink.address]);
        let local = elements(addresses);
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
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        iifname "{nic}" ether type ip ether daddr set ip daddr map @macs
        iifname "{nic}" arp operation reply ether daddr set arp daddr ip map @macs
    }}
    chain postrouting {{
        type filter hook postrouting priority 300; policy accept;
        oifname != "{nic}" accept
        arp operation request arp daddr ip @local drop
        ether type arp arp saddr ether set {mac}
        ether type ip6 ether saddr != {mac} drop
        ether saddr set {mac}
    }}
}}
"#
        )
    }
}

/// The addresses: the documented rule with a list of ranges, for the pods of this node only.
///
/// A packet that connection tracking cannot place would pass the nat chain unseen and leave with
/// the pod's address, so it is dropped where it would leave the ranges.
struct Masquerade<'a> {
    uplink: &'a Uplink,
    pods: &'a [Pod],
}

impl fmt::Display for Masquerade<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, pods } = self;
        let (table, node) = (table(&uplink.bridge), uplink.address);
        let pods = elements(pods.iter().map(|pod| pod.address));
        let policy = elements(verdicts(&uplink.policy));
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
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ip saddr != @pods accept
        ip daddr vmap @destinations
        ct state invalid drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr != @pods accept
        fib daddr type local accept
        ip daddr vmap @destinations
        snat to {node}
    }}
}}
"
        )
    }
}

fn verdicts(policy: &Policy) -> impl Iterator<Item = String> {
    policy.intervals().into_iter().map(|(first, last, action)| {
        let verdict = if action == Action::Drop {
            "drop"
        } else {
            "accept"
        };
        format!("{first}-{last} : {verdict}")
    })
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

/// Runs one transaction.
fn nft(script: &str) -> Result<(), NetfilterError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the netfilter tier's one external program"
    )]
    let mut child = std::process::Command::new("nft")
        .args(["-f", "-"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
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
    use crate::masquerade::{DEFAULT_RANGES, PLATFORM};
    use crate::netlink::MacAddress;

    fn uplink() -> Uplink {
        Uplink {
            bridge: "azure0".into(),
            name: "eth0".into(),
            address: Ipv4Addr::new(10, 0, 0, 4),
            mac: MacAddress([0, 0x0d, 0x3a, 1, 2, 3]),
            ports: (10240, 29999),
            policy: Policy::new(
                &DEFAULT_RANGES,
                "10.0.0.0/20".parse().unwrap(),
                true,
                &[(PLATFORM, Action::Exempt)],
            ),
        }
    }

    #[test]
    fn policy_is_disjoint_intervals() {
        let text: Vec<String> = verdicts(&uplink().policy).collect();
        assert_eq!(
            text,
            [
                "10.0.0.0-10.255.255.255 : accept",
                "168.63.129.16-168.63.129.16 : accept",
                "224.0.0.0-239.255.255.255 : drop",
                "255.255.255.255-255.255.255.255 : drop",
            ]
        );
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
        assert!(matches!(install(&odd, &[]), Err(NetfilterError::Name(_))));
    }
}
