//! The two compilers that can make BPF code, in the order in which they are tried.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    bpf_linker,
    command::{cargo, command, output, probe},
};

/// Debian's own rustc and, prebuilt, its `core` for `bpfel-unknown-none`.
pub const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// A nightly of the LLVM that bpf-linker loads; later ones have moved to LLVM 23.
pub const NIGHTLY: &str = "nightly-2026-05-20";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "bpfel-unknown-none";

/// A compiler that was found to fit.
#[derive(Clone, Copy)]
enum Kind {
    /// Debian's rustc with a prebuilt `core`.
    Debian,
    /// rustup's pinned nightly, which builds `core` from `rust-src`.
    Nightly,
}

/// A compiler for BPF, and the version it gave.
pub struct Compiler {
    kind: Kind,
    release: String,
}

impl Compiler {
    /// The first compiler that fits; when none does, the error says why and what would help.
    pub fn choose() -> Result<Self> {
        let debian = match debian() {
            Ok(release) => {
                return Ok(Self {
                    kind: Kind::Debian,
                    release,
                });
            }
            Err(reason) => reason,
        };
        let nightly = match nightly() {
            Ok(release) => {
                return Ok(Self {
                    kind: Kind::Nightly,
                    release,
                });
            }
            Err(reason) => reason,
        };
        bail!(
            "no compiler for {TARGET} on this machine.\n  \
             Debian's rustc: {debian}\n  \
             rustup's {NIGHTLY}: {nightly}\n\
             Either of these commands helps (`cargo xtask setup` runs the one that works here):\n  \
             apt-get install --no-install-recommends {}\n  \
             rustup toolchain install {NIGHTLY} --profile minimal --component rust-src",
            DEBIAN_PACKAGES.join(" ")
        )
    }

    /// The `cargo build` that compiles `package` with the given profile and linker.
    pub fn build(&self, package: &str, profile: &str, linker: &Path) -> Result<Command> {
        let mut build = match self.kind {
            Kind::Debian => {
                let mut build = cargo();
                // aya-ebpf uses unstable features, which a stable compiler gives only when told so.
                build
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1")
                    .arg("build");
                build
            }
            Kind::Nightly => {
                let mut build = rustup_run("cargo");
                build
                    .env_remove("RUSTC")
                    .args(["build", "-Zbuild-std=core"]);
                build
            }
        };
        build
            .args([
                "--package",
                package,
                "--profile",
                profile,
                "--target",
                TARGET,
            ])
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
            .env("CARGO_ENCODED_RUSTFLAGS", "-Clink-arg=--btf")
            .env("LD_LIBRARY_PATH", llvm_directory()?);
        Ok(build)
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Debian => write!(
                out,
                "Debian's rustc {} with its prebuilt core",
                self.release
            ),
            Kind::Nightly => write!(
                out,
                "rustup's {NIGHTLY} ({}) with -Zbuild-std",
                self.release
            ),
        }
    }
}

/// Debian's release, or why it does not do.
fn debian() -> Result<String, String> {
    let rustc = || command(DEBIAN_RUSTC);
    let release = release(rustc())?;
    let core = probe(rustc().args(["--print", "target-libdir", "--target", TARGET]));
    if !core.is_some_and(|folder| has_core(Path::new(folder.trim()))) {
        return Err(format!("{DEBIAN_RUSTC} has no core for {TARGET}"));
    }
    Ok(release)
}

/// The nightly's release, or why it does not do.
fn nightly() -> Result<String, String> {
    let rustc = || rustup_run("rustc");
    let release = release(rustc())?;
    let sysroot = probe(rustc().args(["--print", "sysroot"])).unwrap_or_default();
    if !Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
    {
        return Err("it has no component rust-src".to_owned());
    }
    Ok(release)
}

/// What `rustc -vV` says, if its LLVM is the one that bpf-linker reads the bitcode of.
fn release(mut rustc: Command) -> Result<String, String> {
    let about = probe(rustc.arg("-vV")).ok_or("it is not installed")?;
    let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name));
    let llvm = field("LLVM version: ").unwrap_or("unknown");
    if llvm.split('.').next() != Some(&bpf_linker::LLVM_MAJOR.to_string()) {
        let (linker, wanted) = (bpf_linker::VERSION, bpf_linker::LLVM_MAJOR);
        return Err(format!(
            "it has LLVM {llvm}, and bpf-linker {linker} needs LLVM {wanted}"
        ));
    }
    Ok(format!(
        "{}, LLVM {llvm}",
        field("release: ").unwrap_or("unknown")
    ))
}

fn has_core(folder: &Path) -> bool {
    let names = folder
        .read_dir()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name()));
    names
        .into_iter()
        .any(|name| name.to_string_lossy().starts_with("libcore-"))
}

/// A program of the pinned nightly; never one that rustup would first have to download.
fn rustup_run(program: &str) -> Command {
    let mut run = command("rustup");
    run.args(["run", NIGHTLY, program])
        .env_remove("RUSTUP_TOOLCHAIN");
    run
}

/// The folder of the LLVM library that bpf-linker loads: that of the toolchain which runs us.
fn llvm_directory() -> Result<PathBuf> {
    let sysroot = output(
        command("rustc").args(["--print", "sysroot"]),
        Duration::from_secs(10),
    )?;
    Ok(Path::new(sysroot.trim()).join("lib"))
}
