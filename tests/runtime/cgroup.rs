//! A control group below which runtimes put their containers. No namespace takes it along when it ends, so it is removed here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::report;

const ROOT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "azure-vnet-test-";

/// The name of a cgroup, and the promise to remove it from every hierarchy. Runtimes create it when they need it.
pub struct Cgroup {
    /// The path in the hierarchy, as runtimes want it.
    pub path: String,
}

impl Cgroup {
    /// A name of its own. Takes the chance to remove what killed tests have left.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        hierarchies()
            .iter()
            .flat_map(|hierarchy| folders(hierarchy))
            .filter(|path| is_abandoned(path))
            .for_each(|path| remove(&path));
        Self {
            path: format!("/{PREFIX}{}-{number}", process::id()),
        }
    }
}

/// Removes a cgroup that a runtime puts in the root whatever it is told, unless it was there before.
pub struct Uninvited {
    paths: Vec<PathBuf>,
}

impl Uninvited {
    /// To be called before the runtime is started, and dropped after its processes are gone.
    pub fn named(name: &str) -> Self {
        let paths = hierarchies()
            .into_iter()
            .map(|hierarchy| hierarchy.join(name));
        Self {
            paths: paths.filter(|path| !path.exists()).collect(),
        }
    }
}

impl Drop for Uninvited {
    fn drop(&mut self) {
        self.paths.iter().for_each(|path| remove(path));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for hierarchy in hierarchies() {
            remove(&hierarchy.join(&self.path[1..]));
        }
    }
}

/// The one of cgroup v2, or those of the controllers of v1.
fn hierarchies() -> Vec<PathBuf> {
    let mut hierarchies = folders(Path::new(ROOT));
    hierarchies.push(ROOT.into());
    hierarchies
}

fn is_abandoned(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let owner = name
        .strip_prefix(PREFIX)
        .and_then(|name| name.split('-').next());
    owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists())
}

fn remove(cgroup: &Path) {
    if let Err(error) = try_remove(cgroup) {
        report(&format!("{} stays behind: {error}", cgroup.display()));
    }
}

/// Removes a cgroup and all below it; one that does not exist is as good.
fn try_remove(cgroup: &Path) -> io::Result<()> {
    for below in folders(cgroup) {
        try_remove(&below)?;
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
