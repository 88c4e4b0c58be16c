//! Pinned maps outlive every process, so the layouts of `ebpf/abi` are stored formats. The lock file
//! beside them holds the layouts of each `ABI_VERSION`'s last acceptance: a layout that changes
//! while the number stays is refused.

use std::{fmt::Write as _, fs, io, path::PathBuf};

use anyhow::{Context, Result, bail};
use azure_vnet_abi::{ABI_VERSION, LAYOUT};

use crate::workspace;

/// Compares the layouts with the lock file.
pub fn check() -> Result<()> {
    let (path, present) = (lock_file(), present());
    let locked = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if locked == present {
        return Ok(());
    }
    match locked_version(&locked) {
        Some(version) if version == ABI_VERSION => bail!(
            "the layouts of ebpf/abi changed and ABI_VERSION is still {version}: raise it, then run \
             `cargo xtask accept-abi`\n{}",
            difference(&locked, &present)
        ),
        _ => bail!(
            "ABI_VERSION is {ABI_VERSION} and not yet in the lock file: run `cargo xtask accept-abi`"
        ),
    }
}

/// Writes the present layouts into the lock file, if their number is a new one.
pub fn accept() -> Result<()> {
    let path = lock_file();
    let locked = fs::read_to_string(&path).unwrap_or_default();
    let present = present();
    if locked != present && locked_version(&locked) == Some(ABI_VERSION) {
        bail!(
            "ABI_VERSION {ABI_VERSION} already stands for other layouts: raise it (or, when that \
             version has never run outside a test, delete {} first)\n{}",
            path.display(),
            difference(&locked, &present)
        );
    }
    fs::write(&path, present).with_context(|| format!("cannot write {}", path.display()))
}

fn lock_file() -> PathBuf {
    workspace::root().join("ebpf/abi/layout.lock")
}

fn present() -> String {
    let mut text = format!("ABI_VERSION {ABI_VERSION}\n");
    for (name, field, offset) in LAYOUT {
        let _ = writeln!(text, "{name}.{field} {offset}"); // a String takes everything
    }
    text
}

fn locked_version(locked: &str) -> Option<u32> {
    locked
        .lines()
        .next()?
        .strip_prefix("ABI_VERSION ")?
        .parse()
        .ok()
}

/// The lines of one that the other lacks, as a diff would show them.
fn difference(old: &str, new: &str) -> String {
    let lacks = |text: &str, line: &str| !text.lines().any(|other| other == line);
    let gone = old
        .lines()
        .filter(|line| lacks(new, line))
        .map(|line| format!("  - {line}"));
    let come = new
        .lines()
        .filter(|line| lacks(old, line))
        .map(|line| format!("  + {line}"));
    gone.chain(come).collect::<Vec<_>>().join("\n")
}
