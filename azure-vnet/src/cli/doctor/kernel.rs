//! What the kernel has to offer.

use aya::util::KernelVersion;

use super::Finding;
use crate::datapath::{self, Wanted};
use crate::sysctl;

/// The first kernel that has everything the eBPF tier needs.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);

/// `in_use`: whether there are pods already.
pub fn check(in_use: bool) -> Vec<Finding> {
    let mut findings = vec![version()];
    findings.extend(tiers());
    findings.push(forwarding(in_use));
    findings
}

fn version() -> Finding {
    match KernelVersion::current() {
        Ok(version) if version >= OLDEST => Finding::ok("kernel", "Linux 5.10 or later"),
        _ => Finding::warning(
            "kernel",
            "older than Linux 5.10: the eBPF tier cannot be used",
            "use a newer kernel, or stay with the netfilter tier",
        ),
    }
}

fn tiers() -> [Finding; 2] {
    let ebpf = datapath::probe(Wanted::Ebpf, None);
    let netfilter = datapath::probe(Wanted::Netfilter, None);
    let neither = ebpf.is_err() && netfilter.is_err();
    let finding = |check, result: Result<(), datapath::Error>, fine, fix: &str| match result {
        Ok(()) => Finding::ok(check, fine),
        Err(error) => {
            let found = super::super::Failure::of(&error).to_string();
            if neither {
                Finding::problem(check, found, fix)
            } else {
                Finding::warning(check, found, fix)
            }
        }
    };
    [
        finding(
            "ebpf",
            ebpf,
            "the eBPF tier can be used",
            "mount -t bpf bpf /sys/fs/bpf; or leave it: the netfilter tier does the same, slower",
        ),
        finding(
            "netfilter",
            netfilter,
            "the netfilter tier can be used",
            "apt-get install nftables (or iptables and ebtables). Without them nothing takes over where eBPF fails",
        ),
    ]
}

fn forwarding(in_use: bool) -> Finding {
    match sysctl::read("net/ipv4/ip_forward") {
        Ok(Some(value)) if value == "1" => Finding::ok("ip_forward", "net.ipv4.ip_forward is 1"),
        _ if in_use => Finding::problem(
            "ip_forward",
            "net.ipv4.ip_forward is not 1: this node does not route for its pods",
            "sysctl -w net.ipv4.ip_forward=1, and find out what switched it off (/etc/sysctl.d)",
        ),
        _ => Finding::ok(
            "ip_forward",
            "net.ipv4.ip_forward will be set by the first ADD",
        ),
    }
}
