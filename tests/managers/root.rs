//! Debian with network managers in it, made with mmdebstrap and kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use azure_vnet_testbed::debian::{archive, kept};
use azure_vnet_testbed::process::Program;

/// Cargo's directory for the files of tests; it outlives them.
const STORE: &str = env!("CARGO_TARGET_TMPDIR");
const LIMIT: Duration = Duration::from_mins(10);

/// A system, and what is installed on it.
#[derive(Debug)]
pub struct System {
    pub suite: &'static str,
    /// The managers; what every system needs comes beside.
    pub managers: &'static str,
}

/// What is on each.
const COMMON: &str =
    "systemd,systemd-sysv,systemd-resolved,udev,dbus,iproute2,iptables,nftables,procps";

impl System {
    /// The folder with its files, which nobody may change.
    pub fn root(&self) -> PathBuf {
        let name = format!("managers-{}", self.suite);
        kept(Path::new(STORE), &name, |folder, kept| {
            let include = format!("--include={COMMON},{}", self.managers);
            let mmdebstrap = Program::new("mmdebstrap")
                .args(["--mode=root", "--variant=minbase", "--quiet", &include])
                // What nobody reads takes a third of the time.
                .arg("--dpkgopt=path-exclude=/usr/share/man/*")
                .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
                .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
                .arg("--dpkgopt=force-unsafe-io")
                .arg(r#"--aptopt=Acquire::Languages "none""#)
                .arg(r#"--aptopt=Acquire::Retries "3""#)
                .arg(self.suite)
                .arg(kept)
                .arg(archive(folder, self.suite));
            mmdebstrap.limit(LIMIT).checked().unwrap();
        })
    }
}
