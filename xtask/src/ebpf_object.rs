//! Where the eBPF object lies, and whether it is the one of the sources beside it.
//!
//! `cargo xtask build-ebpf` writes the object and its stamp; `azure-vnet/build.rs` includes this
//! very file and embeds the object only when the stamp names the present sources. Standard library
//! only, so that the build script compiles in a moment.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The object. Always in the workspace's own `target`, whatever `CARGO_TARGET_DIR` says: every
/// target directory embeds the same one.
pub fn object_path(root: &Path) -> PathBuf {
    root.join("target/ebpf/azure-vnet.bpf.o")
}

/// The text beside the object that says what it was built from. Its first line is [`source_hash`].
pub fn stamp_path(root: &Path) -> PathBuf {
    root.join("target/ebpf/azure-vnet.bpf.stamp")
}

/// What the stamp says the object was built from; `None` when there is no object or no stamp.
pub fn built_from(root: &Path) -> Option<String> {
    let stamp = fs::read_to_string(stamp_path(root)).ok()?;
    let hash = stamp.lines().next()?.to_owned();
    object_path(root).is_file().then_some(hash)
}

/// The files and folders that decide what the object is, apart from the toolchain.
pub fn inputs(root: &Path) -> [PathBuf; 3] {
    ["ebpf", "Cargo.lock", "Cargo.toml"].map(|path| root.join(path))
}

/// A hash of all that decides what the object is: the sources, the versions of the BPF crates and
/// the build profile. FNV-1a of 64 bits, which tells edits apart; it defends against nobody.
pub fn source_hash(root: &Path) -> io::Result<String> {
    let [sources, lock, manifest] = inputs(root);
    let mut hash = Fnv::new();
    for file in files_below(&sources)? {
        hash.feed(
            file.strip_prefix(root)
                .unwrap_or(&file)
                .as_os_str()
                .as_encoded_bytes(),
        );
        hash.feed(&fs::read(&file)?);
    }
    hash.feed(bpf_crates(&fs::read_to_string(lock)?).as_bytes());
    hash.feed(bpf_profile(&fs::read_to_string(manifest)?).as_bytes());
    Ok(format!("{:016x}", hash.0))
}

/// Every Rust source and manifest below a folder, in a fixed order.
fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else if path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "toml")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The lock file's name and version lines of the crates whose code ends up in the object.
fn bpf_crates(lock: &str) -> String {
    let is_bpf = |package: &&str| package.trim_start().starts_with("name = \"aya-");
    lock.split("[[package]]")
        .filter(is_bpf)
        .flat_map(|package| package.trim_start().lines().take(2))
        .collect()
}

/// The `[profile.ebpf]` section of the workspace manifest.
fn bpf_profile(manifest: &str) -> String {
    manifest
        .lines()
        .skip_while(|line| *line != "[profile.ebpf]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .collect()
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds one field; its length goes first, so that no two lists of fields look alike.
    fn feed(&mut self, field: &[u8]) {
        let length = (field.len() as u64).to_le_bytes();
        for byte in length.iter().chain(field) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
