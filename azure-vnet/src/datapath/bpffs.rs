//! The BPF file system and our place in it.
//!
//! ```text
//! /sys/fs/bpf/azure-vnet/v<ABI>/<bridge>/maps/<map>
//!                                       /programs/<build>/<program>
//!                                       /links/{to_uplink,from_uplink,to_pods,<host veth>}     (TCX only)
//! ```

use std::io;
use std::path::{Path, PathBuf};

use azure_vnet_abi::{ABI_VERSION, maps};
use rustix::mount::{MountFlags, mount};

use super::ebpf::EbpfError;

const MOUNT_POINT: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;

/// The pins of one bridge.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    pub fn of(bridge: &str) -> Self {
        Self {
            root: place().join(bridge),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    pub fn programs(&self, build: &str) -> PathBuf {
        self.root.join("programs").join(build)
    }

    pub fn link(&self, name: &str) -> PathBuf {
        self.root.join("links").join(name)
    }

    /// What other versions of the ABI have pinned for the same bridge, the newest first.
    pub fn of_other_versions(&self) -> Vec<(u32, Self)> {
        let entries = std::fs::read_dir(all()).into_iter().flatten().flatten();
        let versions = entries.filter_map(|entry| {
            let version = entry
                .file_name()
                .to_str()?
                .strip_prefix('v')?
                .parse()
                .ok()?;
            let root = entry.path().join(self.root.file_name()?);
            (root != self.root && root.exists()).then_some((version, Self { root }))
        });
        let mut versions: Vec<_> = versions.collect();
        versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        versions
    }

    /// Whether nothing of another build is there, nor of another version: a call that was killed on the way from there to here has
    /// left both.
    pub fn are_only_of(&self, build: &str) -> bool {
        let builds = std::fs::read_dir(self.root.join("programs"));
        let mut builds = builds.into_iter().flatten().flatten();
        builds.all(|entry| entry.file_name() == build) && self.of_other_versions().is_empty()
    }

    /// Whether every map is pinned.
    pub fn have_all_maps(&self) -> bool {
        let pinned = names_in(&self.root.join("maps"));
        maps::ALL
            .iter()
            .all(|map| pinned.iter().any(|name| name == map))
    }

    /// The bridges that have pins.
    pub fn bridges() -> Vec<String> {
        names_in(&place())
    }

    /// The names of the pinned links.
    pub fn links(&self) -> Vec<String> {
        names_in(&self.root.join("links"))
    }

    /// Removes the pin of a link; one that is not there is as good.
    pub fn remove_link(&self, name: &str) -> Result<(), EbpfError> {
        let path = self.link(name);
        as_good(&path, std::fs::remove_file(&path)).map(drop)
    }

    /// Removes the pin of a map, likewise.
    pub fn remove_map(&self, name: &str) -> Result<(), EbpfError> {
        let path = self.map(name);
        as_good(&path, std::fs::remove_file(&path)).map(drop)
    }

    /// Makes the directories, and mounts the BPF file system where nobody has (no systemd).
    pub fn create(&self, build: &str) -> io::Result<()> {
        if !is_bpffs()? {
            mount("bpf", MOUNT_POINT, "bpf", MountFlags::empty(), None)?;
        }
        for directory in ["maps", "links"].map(|name| self.root.join(name)) {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::create_dir_all(self.programs(build))
    }

    /// Removes the programs of every build but this one.
    pub fn forget_other_builds(&self, build: &str) {
        let Ok(builds) = std::fs::read_dir(self.root.join("programs")) else {
            return;
        };
        for other in builds.flatten().filter(|entry| entry.file_name() != build) {
            let _ = std::fs::remove_dir_all(other.path());
        }
    }

    /// Removes what any version of the plugin has pinned for `bridge`, and every directory of ours that
    /// is empty then.
    pub fn remove_all(bridge: &str) -> Result<(), EbpfError> {
        let root = all();
        let Some(versions) = as_good(&root, std::fs::read_dir(&root))? else {
            return Ok(());
        };
        for version in versions.flatten() {
            let root = version.path().join(bridge);
            Self { root }.remove()?;
        }
        as_good(&root, std::fs::remove_dir(&root)).map(drop)
    }

    /// Removes these pins, and the version's directory if nothing else is in it.
    pub fn remove(&self) -> Result<(), EbpfError> {
        as_good(&self.root, std::fs::remove_dir_all(&self.root))?;
        match self.root.parent() {
            Some(version) => as_good(version, std::fs::remove_dir(version)).map(drop),
            None => Ok(()),
        }
    }
}

/// What is in a directory; nothing where it cannot be read.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory);
    let entries = entries.into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string());
    names.filter_map(Result::ok).collect()
}

/// What is not there, or has something of another bridge in it, is no failure.
fn as_good<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, EbpfError> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(EbpfError::Unpin {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Of all bridges.
fn place() -> PathBuf {
    all().join(format!("v{ABI_VERSION}"))
}

/// Of all versions.
fn all() -> PathBuf {
    Path::new(MOUNT_POINT).join("azure-vnet")
}

/// Whether the BPF file system is there, or could be mounted, as far as can be seen without trying.
pub fn is_available() -> io::Result<()> {
    is_bpffs().map(drop)
}

fn is_bpffs() -> io::Result<bool> {
    let info = rustix::fs::statfs(MOUNT_POINT)?;
    Ok(u32::try_from(info.f_type) == Ok(MAGIC))
}
