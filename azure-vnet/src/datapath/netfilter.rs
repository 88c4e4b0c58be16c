//! The netfilter tier: the documented masquerade rule and the wall around each pod as nftables, in two tables
//! of our own. What changes with every pod is in sets; the rest is replaced whole, in one transaction, where it is not as
//! it was installed.
//!
//! Every change is made under the bridge's lock, which nft holds too: if this process is killed, the
//! next one waits for the transaction that is under way.

mod elements;
pub mod foreign;
mod installed;
pub mod judged;
pub mod nics;
mod policy;
mod ruleset;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use elements::{Elements, SETS};
use installed::{Installed, Seal};

use super::{Pod, Uplink};
use crate::lock::Lock;

/// Of the package nftables.
const PROGRAM: &str = "nft";

/// How long one transaction may take. It waits for no lock; the kernel's part takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Why the netfilter tier cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
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
    let names = pods.iter().map(|pod| &pod.host_veth);
    names
        .chain([&uplink.bridge])
        .try_for_each(|name| check_name(name))?;
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
    let Some(seal) = Seal::read(bridge).filter(|seal| seal.rules == digest(uplink)) else {
        return install(uplink, pods, lock).map(|()| Vec::new());
    };
    let new = new.map_or_else(Elements::default, |pod| Elements::of_one(pod, pods));
    let before = Installed::read_then(bridge, &new.script("add", &table), lock)?;
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
    change(&table, &missing, &surplus, lock)?;
    Ok(addresses(&surplus))
}

/// Forgets all pods but these, whatever rules there are; whose addresses they knew is returned.
pub fn retain(bridge: &str, pods: &[Pod], lock: &Lock) -> Result<Vec<Ipv4Addr>, NetfilterError> {
    let there = Installed::read(bridge)?.elements;
    let surplus = there.without(&Elements::of(pods));
    match change(&table(bridge), &Elements::default(), &surplus, lock) {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(addresses(&surplus)),
    }
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
                    .map(|element| format!("{} does not have {element} in {set}", named(family))),
            );
        }
        defects
    }
}

/// Whether this tier could be set up, as far as can be told without running nft.
pub fn probe() -> Result<(), NetfilterError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(PROGRAM).is_file());
    if found {
        Ok(())
    } else {
        Err(NetfilterError::Run(io::ErrorKind::NotFound.into()))
    }
}

/// Leaves everything to another tier but the connections that netfilter translates already.
pub fn drain(bridge: &str, lock: &Lock) {
    if check_name(bridge).is_err() {
        return;
    }
    let drained = nft(&ruleset::drained(&table(bridge)), lock);
    if let Err(error) = drained.and(nics::take_away(bridge, lock)) {
        tracing::warn!("the nftables rules of an earlier netfilter datapath stay: {error}");
    }
}

/// Takes both tables away, and what [`drain`] left of them.
pub fn take_away(bridge: &str, lock: &Lock) -> Result<(), NetfilterError> {
    check_name(bridge)?;
    nft(&ruleset::emptied(&table(bridge)), lock)?;
    nics::take_away(bridge, lock)?;
    if let Err(error) = Seal::forget(bridge) {
        tracing::warn!("{}", super::chain(&error));
    }
    Ok(())
}

/// The chains that packets come to, by the family of their table.
const CHAINS: [(&str, &str); 3] = [
    ("bridge", "prerouting"),
    ("ip", "forward"),
    ("ip", "postrouting"),
];

/// Remembers what was installed. Without it the rules work, and are installed anew by the next call.
fn seal(uplink: &Uplink) {
    let bridge = &uplink.bridge;
    let sealed = Installed::read(bridge).and_then(|installed| {
        let seal = Seal {
            rules: digest(uplink),
            form: installed.form,
        };
        seal.write(bridge).map_err(NetfilterError::Run)
    });
    if let Err(error) = sealed {
        tracing::warn!(
            "cannot note the nftables rules of {bridge}: {}",
            super::chain(&error)
        );
    }
}

/// Of the rules, whatever pods there are.
fn digest(uplink: &Uplink) -> installed::Digest {
    installed::digest(&ruleset::ruleset(uplink, &Elements::default()))
}

fn addresses(elements: &Elements) -> Vec<Ipv4Addr> {
    let pods = elements.in_set("pods");
    pods.filter_map(|address| address.parse().ok()).collect()
}

fn change(
    table: &str,
    missing: &Elements,
    surplus: &Elements,
    lock: &Lock,
) -> Result<(), NetfilterError> {
    if missing.is_empty() && surplus.is_empty() {
        return Ok(());
    }
    let script = surplus.script("delete", table) + &missing.script("add", table);
    nft(&script, lock)
}

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

/// Runs one transaction. It prints nothing, so the lock can be its standard output.
fn nft(script: &str, lock: &Lock) -> Result<(), NetfilterError> {
    let lock = lock.share().map_err(NetfilterError::Run)?;
    execute(PROGRAM, &["-f", "-"], script, lock)
}

/// Runs nft, or a program that lists or deletes the rules of others, to its end, without a shell.
pub fn execute(
    program: &str,
    arguments: &[&str],
    script: &str,
    stdout: File,
) -> Result<(), NetfilterError> {
    run(program, arguments, Stdio::piped(), script, stdout)
}

/// As [`execute`]; a script only where `stdin` is a pipe.
fn run(
    program: &str,
    arguments: &[&str],
    stdin: Stdio,
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
        .stdin(stdin)
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
    use crate::netlink::MacAddress;

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
        let text = ruleset::ruleset(&uplink(), &Elements::default());
        assert!(!text.contains("{ }") && !text.contains("{  }"), "{text}");
    }

    #[test]
    fn a_name_that_would_end_the_quotes_is_refused() {
        let mut odd = uplink();
        odd.bridge = "e\"; flush ruleset".into();
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::acquire(&directory.path().join("lock")).unwrap();
        let refused = install(&odd, &[], &lock);
        assert!(matches!(refused, Err(NetfilterError::Name(_))));
    }
}
