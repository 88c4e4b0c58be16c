//! What the kernel has to offer.

use aya::util::KernelVersion;

use crate::datapath::{self, Wanted};
use crate::health::{Check, Finding};

/// The first kernel that has everything the eBPF tier needs.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);

/// The kernel's version, and the tiers that can be had.
pub fn check() -> Vec<Finding> {
    let mut findings = vec![version(KernelVersion::current().ok())];
    findings.extend(tiers());
    findings
}

fn version(kernel: Option<KernelVersion>) -> Finding {
    match kernel {
        Some(version) if version >= OLDEST => Finding::ok(Check::Kernel, "Linux 5.10 or later"),
        _ => Finding::warning(
            Check::Kernel,
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
            Check::Ebpf,
            ebpf,
            "the eBPF tier can be used",
            "mount -t bpf bpf /sys/fs/bpf, or leave it: the netfilter tier does the same, slower",
        ),
        finding(
            Check::Netfilter,
            netfilter,
            "the netfilter tier can be used",
            "apt-get install nftables (or iptables and ebtables). Without them nothing takes over where eBPF fails",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Verdict;

    #[test]
    fn an_old_kernel_is_named() {
        let verdict = |kernel| version(kernel).verdict;
        assert_eq!(
            verdict(Some(KernelVersion::new(5, 9, 16))),
            Verdict::Warning
        );
        assert_eq!(verdict(None), Verdict::Warning);
        assert_eq!(verdict(Some(OLDEST)), Verdict::Ok);
    }
}
