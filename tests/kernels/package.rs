//! A kernel as Debian packages it, unpacked and kept.

use std::fs;
use std::path::{Path, PathBuf};

use azure_vnet_testbed::debian::{Kind, Suite, kept};

/// Cargo's directory for the files of tests; it outlives them.
const STORE: &str = env!("CARGO_TARGET_TMPDIR");
/// Depends on the newest kernel of its suite for virtual machines.
const NEWEST: &str = "linux-image-cloud-amd64";

/// Which kernel, and what is expected of it.
#[derive(Debug)]
pub struct Kernel {
    /// How `uname -r` starts.
    pub release: &'static str,
    /// The suite of Debian that has it.
    pub suite: &'static str,
    /// How programs are attached there.
    pub mechanism: &'static str,
    /// The stage `prog`, as far as it can run there.
    pub prog: &'static str,
}

impl Kernel {
    /// The folder with the package's files.
    pub fn unpacked(&self) -> PathBuf {
        let name = format!("linux-{}", self.release.trim_end_matches('.'));
        kept(Path::new(STORE), &name, |folder, kept| {
            let suite = Suite::update(folder, Kind::Binary, self.suite);
            let newest = suite.run("apt-cache", &["show", NEWEST]);
            suite.unpack(dependency(&newest), kept);
        })
    }
}

/// The kernel image in an unpacked package, and the folder of its modules.
pub fn image_and_modules(unpacked: &Path) -> (PathBuf, PathBuf) {
    let entries = fs::read_dir(unpacked.join("boot")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let image = names
        .into_iter()
        .find(|name| name.starts_with("vmlinuz-"))
        .expect("a kernel's package has an image");
    let release = image.trim_start_matches("vmlinuz-");
    // Where /lib is a link to /usr/lib, from Debian 13 on.
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|folder| unpacked.join(folder).join(release))
        .into_iter()
        .find(|folder| folder.exists())
        .expect("a kernel's package has modules");
    (unpacked.join("boot").join(&image), modules)
}

/// The first package that a package depends on.
fn dependency(shown: &str) -> &str {
    let depends = shown
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "));
    let first = depends.and_then(|packages| packages.split([' ', ',']).next());
    first.expect("the kernel's package depends on that of its newest version")
}
