//! The plugins of v0.1.0, built from the repository's history and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use azure_vnet_testbed::debian::{kept, program_in};

const STORE: &str = env!("CARGO_TARGET_TMPDIR");
const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const COMMIT: &str = "a98a5ec";
/// It compiles everything, dependencies included.
const LIMIT: Duration = Duration::from_mins(20);

/// The folder with both plugins.
pub fn plugins() -> PathBuf {
    kept(Path::new(STORE), "azure-vnet-v0.1.0", |folder, kept| {
        let source = folder.join("source");
        fs::create_dir(&source).unwrap();
        let archive = folder.join("source.tar");
        let git = program_in(Path::new(REPOSITORY), "git");
        let git = git.args(["-C", "..", "archive", COMMIT, "--output"]);
        git.arg(&archive).checked().unwrap();
        let tar = program_in(&source, "tar").arg("-xf").arg(&archive);
        tar.checked().unwrap();
        for command in [
            &["xtask", "build-ebpf"][..],
            &["build", "-p", "azure-vnet", "-p", "azure-vnet-ipam"],
        ] {
            // Not where the tests are being built from.
            let cargo = program_in(&source, "cargo").args(command);
            let cargo = cargo.env("CARGO_TARGET_DIR", source.join("target"));
            cargo.limit(LIMIT).checked().unwrap();
        }
        for plugin in ["azure-vnet", "azure-vnet-ipam"] {
            let built = source.join("target/debug").join(plugin);
            fs::copy(built, kept.join(plugin)).unwrap();
        }
    })
}
