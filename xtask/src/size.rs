//! The release builds, and how large they may be: every call of a runtime reads them, and a cold node from its disk.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, ensure};

use crate::plugins::NAMES;

/// Bytes that the plugins may have, two names of one file, and what they are: as two files they had 13 MB. Where it becomes smaller, its ceiling comes down with it.
const CEILING: u64 = 12 << 20;
const WHY: &str = "static; netlink, aya, the eBPF object, IPAM with HTTP and XML, and the command line with HTTP, YAML, completions \
                   and man pages";

/// Compares the plugins in `directory`, as they are shipped, with the ceiling.
pub fn check(directory: &Path) -> Result<()> {
    let [program, ipam] = NAMES.map(|name| directory.join(name));
    let size = |path: &Path| {
        let file = fs::metadata(path).with_context(|| format!("no {}", path.display()))?;
        Ok::<_, anyhow::Error>((file.len(), file.ino()))
    };
    let (bytes, file) = size(&program)?;
    ensure!(
        size(&ipam)?.1 == file,
        "{} is a file of its own",
        ipam.display()
    );
    println!("{}: {bytes} bytes, ceiling {CEILING}", NAMES.join(", "));
    ensure!(
        bytes <= CEILING,
        "the plugins have {bytes} bytes, the ceiling is {CEILING} ({WHY}): find out what came in, or raise it in {} and say why",
        file!()
    );
    Ok(())
}
