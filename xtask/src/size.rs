//! The release builds, and how large they may be: every call of a runtime reads them, and a cold node from its disk.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

/// Program, bytes it may have, and what they are. Where one becomes smaller, its ceiling comes down with it.
const CEILINGS: [(&str, u64, &str); 2] = [
    (
        "azure-vnet",
        10 << 20,
        "static; netlink, aya, the eBPF object, and the command line with HTTP, YAML, completions and man pages",
    ),
    (
        "azure-vnet-ipam",
        3_300_000,
        "static; HTTP and XML without TLS",
    ),
];

/// Compares the plugins in `directory`, as they are shipped, with the ceilings.
pub fn check(directory: &Path) -> Result<()> {
    for (program, ceiling, why) in CEILINGS {
        let path = directory.join(program);
        let bytes = fs::metadata(&path)
            .with_context(|| format!("no {}", path.display()))?
            .len();
        println!("{program}: {bytes} bytes, ceiling {ceiling}");
        ensure!(
            bytes <= ceiling,
            "{program} has {bytes} bytes, the ceiling is {ceiling} ({why}): find out what came in, or raise it in {} and say why",
            file!()
        );
    }
    Ok(())
}
