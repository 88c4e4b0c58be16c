//! What Debian has and this machine lacks: packages of other suites and sources, by way of an apt state of its own, kept below
//! cargo's target directory, so that the network is needed once. For tests; a failure panics and says which program failed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "only tests call this, and a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::process::Program;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LIMIT: Duration = Duration::from_mins(10);

/// Held while something is made, so that tests that want the same get the same.
static MAKING: Mutex<()> = Mutex::new(());

/// What apt is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Packages to install.
    Binary,
    /// Packages to build from.
    Source,
}

/// The folder `name` among what is kept in `store`. When it is missing, `make` fills it (second argument), with another folder to
/// work in (first argument).
pub fn kept(store: &Path, name: &str, make: impl FnOnce(&Path, &Path)) -> PathBuf {
    // A test that failed while it made something has left nothing that counts.
    let _alone = MAKING.lock().unwrap_or_else(|poisoned| {
        MAKING.clear_poison();
        poisoned.into_inner()
    });
    let kept = store.join(name);
    if kept.exists() {
        return kept;
    }
    let folder = kept.with_extension("work");
    // What a run that was broken off has left.
    let _ = fs::remove_dir_all(&folder);
    let result = folder.join("result");
    fs::create_dir_all(&result).unwrap();
    make(&folder, &result);
    fs::rename(result, &kept).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    kept
}

/// The apt state in `folder` that knows one `suite` only, made up to date.
#[derive(Debug)]
pub struct Suite {
    folder: PathBuf,
    config: PathBuf,
}

impl Suite {
    /// Asks the archive that this machine gets its own packages from what `suite` has.
    pub fn update(folder: &Path, kind: Kind, suite: &str) -> Self {
        let (state, shown) = (folder.join("apt"), folder.display());
        fs::create_dir_all(state.join("lists/partial")).unwrap();
        fs::create_dir_all(state.join("cache/archives/partial")).unwrap();
        let kind = match kind {
            Kind::Binary => "deb",
            Kind::Source => "deb-src",
        };
        let archive = archive(folder, suite);
        let list = format!("{kind} [signed-by={KEYRING}] {archive} {suite} main\n");
        fs::write(state.join("sources.list"), list).unwrap();
        let config_text = format!(
            r#"Dir::Etc::sourcelist "{shown}/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
Dir::State::lists "{shown}/apt/lists";
Dir::Cache "{shown}/apt/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
"#
        );
        let config = state.join("apt.conf");
        fs::write(&config, config_text).unwrap();
        let suite = Self {
            folder: folder.to_owned(),
            config,
        };
        suite.run("apt-get", &["update"]);
        suite
    }

    /// Runs one of apt's programs in the folder, and returns what it printed.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let apt = program_in(&self.folder, program).arg("-qq").args(args);
        let apt = apt.env("APT_CONFIG", &self.config).limit(LIMIT);
        apt.checked().unwrap()
    }

    /// Downloads a package and unpacks it into `target`, without its scripts.
    pub fn unpack(&self, package: &str, target: &Path) {
        self.run("apt-get", &["download", package]);
        let archive = only(&self.folder, &format!("{package}_"));
        let target = target.to_str().expect("a path that is text");
        run_in(&self.folder, "dpkg", &["--extract", &archive, target]);
    }

    /// Downloads a source package's original archive and returns the name of the folder that it unpacks to, which starts with
    /// `prefix`.
    pub fn unpack_source(&self, source: &str, prefix: &str) -> String {
        self.run(
            "apt-get",
            &["source", "--download-only", "--tar-only", source],
        );
        let archive = only(&self.folder, &format!("{source}_"));
        run_in(&self.folder, "tar", &["-xf", &archive]);
        only(&self.folder, prefix)
    }
}

/// Where this machine gets Debian's packages from; security updates have an archive of their own. apt is asked in `folder`.
pub fn archive(folder: &Path, suite: &str) -> String {
    let wanted = if suite.ends_with("-security") {
        "/debian-security"
    } else {
        "/debian"
    };
    let targets = program_in(folder, "apt-get").args(["indextargets", "--format", "$(REPO_URI)"]);
    let known = targets.arg("Created-By: Packages").checked().unwrap();
    let archive = known.lines().map(|uri| uri.trim_end_matches('/'));
    archive
        .into_iter()
        .find(|uri| uri.ends_with(wanted))
        .expect("apt knows no archive of Debian: `apt-get update`, or leave this stage to a Debian machine")
        .to_owned()
}

/// The one name in `folder` that starts like this.
fn only(folder: &Path, prefix: &str) -> String {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
    let [name] = &names[..] else {
        panic!("{prefix}… in {}: {names:?}", folder.display());
    };
    name.clone()
}

fn run_in(folder: &Path, name: &str, args: &[&str]) {
    let program = program_in(folder, name).args(args).limit(LIMIT);
    program.checked().unwrap();
}

/// A program that runs in `folder`.
pub fn program_in(folder: &Path, name: &str) -> Program {
    Program::new("env").arg("--chdir").arg(folder).arg(name)
}
