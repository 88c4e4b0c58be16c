//! What there is of the NIC: addresses, routes, rules, resolver. It is the manager's, so it is the same before the first pod, with
//! pods, and after the teardown.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use regex::Regex;

use crate::eventually;
use crate::machine::Booted;

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture(String);

const COMMANDS: [&[&str]; 5] = [
    &["ip", "-d", "addr", "show", "dev", "eth0"],
    &["ip", "route", "show", "table", "all", "dev", "eth0"],
    &["ip", "-6", "route", "show", "table", "all", "dev", "eth0"],
    &["ip", "rule"],
    &["cat", "/etc/resolv.conf"],
];
const RESOLVED: [&[&str]; 3] = [
    &["resolvectl", "dns", "eth0"],
    &["resolvectl", "domain", "eth0"],
    &["resolvectl", "default-route", "eth0"],
];

impl Picture {
    /// As it is now.
    pub fn take(booted: &Booted<'_>, has_resolved: bool) -> Self {
        let mut text = String::new();
        let resolved = RESOLVED.iter().filter(|_| has_resolved);
        for command in COMMANDS.iter().chain(resolved) {
            let output = booted.output(command);
            let _ = writeln!(
                text,
                "# {}\n{}{}",
                command.join(" "),
                output.stdout,
                output.stderr
            );
        }
        // Lifetimes go by.
        let lifetime = Regex::new(r"(valid_lft|preferred_lft|expires) \d+sec").unwrap();
        Self(lifetime.replace_all(&text, "$1 …").into_owned())
    }

    /// As it is when nothing changes any more.
    pub fn take_settled(booted: &Booted<'_>, has_resolved: bool) -> Self {
        let mut before = Self::take(booted, has_resolved);
        eventually("the NIC's configuration has settled", || {
            std::thread::sleep(std::time::Duration::from_secs(1));
            let now = Self::take(booted, has_resolved);
            let is_settled = now == before && !now.0.contains("tentative");
            before = now;
            is_settled.then_some(())
        });
        before
    }

    /// With another address in its place.
    pub fn with(&self, former: Ipv4Addr, new: Ipv4Addr) -> Self {
        Self(self.0.replace(&former.to_string(), &new.to_string()))
    }

    /// The first line that is different now, if any is.
    pub fn difference(&self, now: &Self) -> Option<String> {
        let gone = self.0.lines().find(|line| !now.0.contains(line));
        let new = now.0.lines().find(|line| !self.0.contains(line));
        match (gone, new) {
            _ if self == now => None,
            (Some(line), _) => Some(format!("gone: {}", line.trim())),
            (_, Some(line)) => Some(format!("new: {}", line.trim())),
            _ => Some("another order".into()),
        }
    }
}
