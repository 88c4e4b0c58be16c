//! The frame rules of the original plugin, as it wrote them with ebtables: one by one, so that each is
//! deleted by saying it again. Where there is no ebtables, there are no rules.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::process::ExitStatus;

use crate::datapath::{self, NetfilterError};
use crate::netlink::MacAddress;

const PROGRAM: &str = "ebtables";

/// How often a rule is deleted: the original wrote rules twice when it was called twice.
const MOST_COPIES: usize = 16;

/// Why a rule may still be there.
#[derive(Debug, thiserror::Error)]
pub enum EbtablesError {
    /// The program could not be run.
    #[error("cannot run ebtables")]
    Run(#[source] io::Error),
    /// The program did not end.
    #[error("ebtables did not end in time")]
    TimedOut,
    /// The kernel did not delete the rule, though it may be there.
    #[error("ebtables ended with {status}: {stderr}")]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
}

/// Deletes the rules for a pod's address.
pub fn remove_pod(nic: &str, address: IpAddr, mac: MacAddress) -> Result<(), EbtablesError> {
    let mac = mac.to_string();
    let ip = address.to_string();
    let (protocol, destination) = match address {
        IpAddr::V4(_) => ("IPv4", "--ip-dst"),
        IpAddr::V6(_) => ("IPv6", "--ip6-dst"),
    };
    if address.is_ipv4() {
        delete(&[&["PREROUTING"][..], &arp_reply(&ip, &mac)].concat())?;
    }
    delete(&[
        "PREROUTING",
        "-p",
        protocol,
        "-i",
        nic,
        destination,
        &ip,
        "-j",
        "dnat",
        "--to-dst",
        &mac,
        "--dnat-target",
        "ACCEPT",
    ])
}

/// Deletes the rules for a NIC, whose first address is `address`.
pub fn remove_nic(
    nic: &str,
    address: Option<IpAddr>,
    mac: MacAddress,
) -> Result<(), EbtablesError> {
    let mac = mac.to_string();
    delete(&[
        "POSTROUTING",
        "-s",
        "unicast",
        "-o",
        nic,
        "-j",
        "snat",
        "--to-src",
        &mac,
        "--snat-arp",
        "--snat-target",
        "ACCEPT",
    ])?;
    delete(&[
        "PREROUTING",
        "-p",
        "ARP",
        "-i",
        nic,
        "--arp-op",
        "Reply",
        "-j",
        "dnat",
        "--to-dst",
        "ff:ff:ff:ff:ff:ff",
        "--dnat-target",
        "ACCEPT",
    ])?;
    match address {
        Some(ip) => delete(&[&["PREROUTING"][..], &arp_reply(&ip.to_string(), &mac)].concat()),
        None => Ok(()),
    }
}

fn arp_reply<'a>(ip: &'a str, mac: &'a str) -> [&'a str; 12] {
    [
        "-p",
        "ARP",
        "--arp-op",
        "Request",
        "--arp-ip-dst",
        ip,
        "-j",
        "arpreply",
        "--arpreply-mac",
        mac,
        "--arpreply-target",
        "DROP",
    ]
}

/// Deletes a rule of the table `nat` until it is there no more.
fn delete(rule: &[&str]) -> Result<(), EbtablesError> {
    for _ in 0..MOST_COPIES {
        match run(&[&["--concurrent", "-t", "nat", "-D"][..], rule].concat()) {
            Ok(()) => {}
            Err(EbtablesError::Run(error)) if error.kind() == io::ErrorKind::NotFound => break,
            Err(EbtablesError::Refused { stderr, .. }) if is_missing(&stderr) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the two kinds of ebtables say of a rule, or a table, that is not there.
fn is_missing(stderr: &str) -> bool {
    let words = [
        "does a matching rule exist",
        "rule does not exist",
        "No such file or directory",
        "doesn't support the ebtables",
    ];
    words.iter().any(|words| stderr.contains(words))
}

fn run(arguments: &[&str]) -> Result<(), EbtablesError> {
    let nowhere = File::options().write(true).open("/dev/null");
    let nowhere = nowhere.map_err(EbtablesError::Run)?;
    datapath::execute(PROGRAM, arguments, "", nowhere).map_err(|error| match error {
        NetfilterError::Run { source, .. } => EbtablesError::Run(source),
        NetfilterError::Refused { status, stderr, .. } => EbtablesError::Refused { status, stderr },
        // The only other way in which running a program fails.
        _ => EbtablesError::TimedOut,
    })
}
