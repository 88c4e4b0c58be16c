//! `cargo xtask setup`: installs what this machine lacks, and says what and why. A machine that has
//! all of it is left alone in well under a second.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    bpf_compiler::{Compiler, DEBIAN_PACKAGES, NIGHTLY},
    bpf_linker,
    command::{as_root, command, is_root, line, probe, run},
    neighbour_table,
};

const INSTALL_LIMIT: Duration = Duration::from_mins(15);

/// A package, the file that shows that it (or an equal) is there, and why we want it. A witness
/// without a slash is a program, looked for where root would find it.
struct Package {
    name: &'static str,
    witness: &'static str,
    reason: &'static str,
}

const PACKAGES: [Package; 6] = [
    Package {
        name: "iproute2",
        witness: "ip",
        reason: "builds the simulated Azure",
    },
    Package {
        name: "nftables",
        witness: "nft",
        reason: "netfilter tier, and what the simulated Azure enforces",
    },
    Package {
        name: "iptables",
        witness: "iptables",
        reason: "called by the portmap plugin",
    },
    Package {
        name: "containernetworking-plugins",
        witness: "/usr/lib/cni/portmap",
        reason: "portmap, chained behind ours; bridge and host-local to compare with",
    },
    Package {
        name: "dnsmasq-base",
        witness: "dnsmasq",
        reason: "a resolver on the node, which pods ask",
    },
    Package {
        name: "strace",
        witness: "strace",
        reason: "shows which programs an ADD executes",
    },
];

/// What the stage `runtime` needs beside.
const RUNTIME_PACKAGES: [Package; 7] = [
    Package {
        name: "containerd",
        witness: "containerd",
        reason: "calls the plugins through CRI",
    },
    Package {
        name: "docker.io",
        witness: "dockerd",
        reason: "containers without network, for docker-run.sh",
    },
    Package {
        name: "podman",
        witness: "podman",
        reason: "calls the plugins through its CNI backend",
    },
    Package {
        name: "runc",
        witness: "runc",
        reason: "runs the containers of all of them",
    },
    Package {
        name: "busybox-static",
        witness: "/usr/share/doc/busybox-static",
        reason: "the only image of the tests",
    },
    Package {
        name: "xz-utils",
        witness: "xz",
        reason: "unpacks Debian's sources of cnitool",
    },
    Package {
        name: "jq",
        witness: "jq",
        reason: "reads the network configuration in docker-run.sh",
    },
];

/// What the stage `kernels` needs beside.
const KERNEL_PACKAGES: [Package; 5] = [
    Package {
        name: "qemu-system-x86",
        witness: "qemu-system-x86_64",
        reason: "boots older kernels",
    },
    Package {
        name: "busybox-static",
        witness: "/usr/share/doc/busybox-static",
        reason: "the first process on them",
    },
    Package {
        name: "cpio",
        witness: "cpio",
        reason: "packs what they boot into",
    },
    Package {
        name: "xz-utils",
        witness: "xz",
        reason: "unpacks their modules",
    },
    Package {
        name: "binutils",
        witness: "strip",
        reason: "leaves debug information out of what they boot into",
    },
];

/// What the stage `managers` needs beside.
const MANAGER_PACKAGES: [Package; 1] = [Package {
    name: "mmdebstrap",
    witness: "mmdebstrap",
    reason: "makes the systems that are booted with real network managers",
}];

/// What `dist` needs beside, where it builds for another machine.
const EMULATION_PACKAGES: [Package; 1] = [Package {
    name: "qemu-user",
    witness: "qemu-aarch64",
    reason: "runs programs of other processors",
}];

/// Installs user emulation, where it is missing.
pub fn emulation() -> Result<()> {
    install_lacking(&EMULATION_PACKAGES)
}

/// Installs the container runtimes that the stage `runtime` calls the plugins with, where missing.
pub fn runtimes() -> Result<()> {
    install_lacking(&RUNTIME_PACKAGES)
}

/// Installs what the stage `kernels` boots Debian's kernels with, where missing. The kernels themselves
/// are downloaded by the stage, and kept.
pub fn kernels() -> Result<()> {
    install_lacking(&KERNEL_PACKAGES)
}

/// Installs what the stage `managers` makes its systems with, where missing. They are made by the stage, and kept.
pub fn managers() -> Result<()> {
    install_lacking(&MANAGER_PACKAGES)
}

fn install_lacking(packages: &[Package]) -> Result<()> {
    match lacking(packages) {
        missing if missing.is_empty() => Ok(()),
        missing => install_packages(&missing, false),
    }
}

/// Installs what is missing.
pub fn main() -> Result<()> {
    neighbour_table::make_room();
    let missing = lacking(&PACKAGES);
    let compiler = Compiler::choose().is_ok();
    let linker = bpf_linker::installed().is_some();
    if missing.is_empty() && compiler && linker {
        println!("setup: nothing to do");
        return Ok(());
    }
    if !missing.is_empty() || !compiler {
        install_packages(&missing, !compiler)?;
    }
    if Compiler::choose().is_err() {
        // When this fails too, the reasons that `choose` gives say more than rustup's exit status.
        install_nightly().or_else(|_| Compiler::choose().map(drop))?;
    }
    bpf_linker::ensure()?;
    println!("setup: done");
    Ok(())
}

fn lacking(packages: &[Package]) -> Vec<&Package> {
    packages
        .iter()
        .filter(|package| !package.is_there())
        .collect()
}

impl Package {
    fn is_there(&self) -> bool {
        if self.witness.starts_with('/') {
            return Path::new(self.witness).exists();
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        env::split_paths(&path)
            .chain(system)
            .any(|folder| folder.join(self.witness).exists())
    }
}

/// Installs the missing packages and, where the distribution has it, the BPF compiler.
fn install_packages(missing: &[&Package], compiler: bool) -> Result<()> {
    if probe(command("apt-get").arg("--version")).is_none() {
        return no_apt(missing);
    }
    run_apt(&["update"])?;
    let mut names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    for package in missing {
        println!("setup: installing {} ({})", package.name, package.reason);
    }
    if compiler && DEBIAN_PACKAGES.iter().all(|name| has_candidate(name)) {
        println!(
            "setup: installing {} (compiles the eBPF programs)",
            DEBIAN_PACKAGES.join(" and ")
        );
        names.extend(DEBIAN_PACKAGES);
    }
    if names.is_empty() {
        return Ok(());
    }
    let install = ["install", "--yes", "--no-install-recommends"];
    run_apt(&[&install[..], &names[..]].concat())
}

/// Without apt we install nothing: names differ, and guessing them is worse than saying so.
fn no_apt(missing: &[&Package]) -> Result<()> {
    for package in missing {
        println!("setup: missing: {} ({})", package.witness, package.reason);
    }
    if !missing.is_empty() {
        bail!("this is no Debian or Ubuntu: install the above with your package manager");
    }
    Ok(())
}

fn run_apt(arguments: &[&str]) -> Result<()> {
    let mut apt = apt(arguments);
    if !is_root() && probe(command("sudo").arg("--version")).is_none() {
        bail!(
            "installing packages needs root, and there is no sudo. Run as root:\n  {}",
            line(&apt)
        );
    }
    run(&mut apt, INSTALL_LIMIT)
}

fn apt(arguments: &[&str]) -> Command {
    let mut apt = as_root("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args([
            "-qq",
            "-o",
            "DPkg::Lock::Timeout=120",
            "-o",
            "Acquire::Retries=3",
        ])
        .args(["-o", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .stdout(Stdio::null()); // its progress; errors come on stderr
    apt
}

fn has_candidate(package: &str) -> bool {
    let policy = probe(command("apt-cache").args(["policy", package])).unwrap_or_default();
    policy
        .lines()
        .any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)"))
}

/// The other way to a BPF compiler, for distributions that do not package one.
fn install_nightly() -> Result<()> {
    println!("setup: installing rustup's {NIGHTLY} with rust-src (compiles the eBPF programs)");
    let mut rustup = command("rustup");
    rustup
        .args(["toolchain", "install", NIGHTLY, "--no-self-update"])
        .args(["--profile", "minimal", "--component", "rust-src"]);
    run(&mut rustup, INSTALL_LIMIT)
}
