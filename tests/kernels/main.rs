//! The kernels that nodes have: Debian's 5.10, 6.1 and 6.12, each booted by qemu with the plugins and the demo on board.
//!
//! What differs between them is what this stage is for: the verifier, the helpers, and how programs are attached (`cls_bpf`
//! before 6.6, TCX from then on). On each kernel every program has to load, and the demo has to be right in both tiers.
//! qemu emulates the processor, so that this runs where there is no KVM; half a minute becomes a minute.
//!
//! `AZURE_VNET_KERNELS_PROG=1` runs the stage `prog` on each kernel as well: some minutes more.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod initramfs;
mod machine;
mod modules;
mod package;

use std::io::Write as _;

use machine::{Machine, Step};
use package::Kernel;

const PROG: &str = "/t/prog --test-threads=2";
/// Before 5.18 a test run cannot be told where a packet came in: there `devices` has that alone.
const OLD_PROG: &str =
    "/t/prog --test-threads=2 --skip unknown_port:: --skip every_reason_has_a_packet";

/// Long-term support ends in 2026, 2027 and 2028; AKS' own kernels (5.15, 6.6, 6.8) lie between.
const LINUX_5_10: Kernel = Kernel {
    release: "5.10.",
    suite: "bullseye-security",
    mechanism: "cls_bpf",
    prog: OLD_PROG,
};
const LINUX_6_1: Kernel = Kernel {
    release: "6.1.",
    suite: "bookworm-security",
    mechanism: "cls_bpf",
    prog: PROG,
};
const LINUX_6_12: Kernel = Kernel {
    release: "6.12.",
    suite: "trixie",
    mechanism: "tcx",
    prog: PROG,
};

#[test]
fn linux_5_10() {
    pods_work_on(&LINUX_5_10);
}

#[test]
fn linux_6_1() {
    pods_work_on(&LINUX_6_1);
}

#[test]
fn linux_6_12() {
    pods_work_on(&LINUX_6_12);
}

fn pods_work_on(kernel: &Kernel) {
    let mut steps = vec![
        Step::new("verifier", "/t/ebpf-stats /t/azure-vnet.bpf.o"),
        Step::new("ebpf", "/t/demo --datapath=ebpf"),
        Step::new("netfilter", "/t/demo --datapath=netfilter"),
    ];
    if std::env::var_os("AZURE_VNET_KERNELS_PROG").is_some() {
        steps.push(Step::new("prog", kernel.prog));
    }
    let machine = Machine::boot(kernel, &steps);

    let release = machine.release();
    assert!(release.starts_with(kernel.release), "booted {release}");
    for Step { name, .. } in &steps {
        let outcome = machine.outcome(name);
        assert_eq!(outcome.status, 0, "{name} on {release}:\n{}", outcome.text);
    }
    let ebpf = machine.outcome("ebpf").text;
    let tier = format!("ebpf ({})", kernel.mechanism);
    assert!(ebpf.contains(&tier), "no {tier} on {release}:\n{ebpf}");
    report(&format!("{release}, {}", kernel.mechanism));
    report(machine.outcome("verifier").text.trim_end());
}

/// Says what ran, past libtest, which shows only what failed.
fn report(lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(std::io::stderr(), "kernels: {line}");
    }
}
