//! Programs that no package has: built from Debian's source packages, by way of an apt state of their own, and kept below cargo's
//! target directory, so that the network is needed once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use azure_vnet_testbed::process::Program;

/// Cargo's directory for the files of tests; it outlives them.
const KEPT: &str = env!("CARGO_TARGET_TMPDIR");
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LIMIT: Duration = Duration::from_mins(10);
const KUBELET_LIMIT: Duration = Duration::from_mins(30);
/// What libcni 1.3 wants.
const OLDEST_GO: (u32, u32) = (1, 21);

/// Held while something is made, so that tests that want the same get the same.
static MAKING: Mutex<()> = Mutex::new(());

/// libcni's own client, and its version. Only unstable has one that knows GC and STATUS; its source needs nothing but Go.
pub fn cnitool() -> (PathBuf, String) {
    let _alone = MAKING.lock();
    let kept = made("cnitool", |folder, kept| {
        let source = "golang-github-appc-cni";
        let newest = ["source", "--download-only", "--tar-only", source];
        apt(folder, "deb-src", "unstable", &newest);
        let archive = only(folder, &format!("{source}_"));
        run_in(folder, "tar", &["-xf", &archive]);
        let tree = only(folder, &format!("{source}-"));
        let build = go(&folder.join(&tree)).args(["build", "-o"]);
        let build = build.arg(kept.join("cnitool")).arg("./cnitool");
        build.limit(LIMIT).checked().unwrap();
        fs::write(kept.join("source"), tree).unwrap();
    });
    let version = fs::read_to_string(kept.join("source")).unwrap();
    (kept.join("cnitool"), version)
}

/// The kubelet of Kubernetes 1.20, whose source package has all that it needs. Builds with one process, beside other tests.
pub fn kubelet() -> PathBuf {
    let _alone = MAKING.lock();
    let kept = made("kubelet", |folder, kept| {
        let newest = ["source", "--download-only", "--tar-only", "kubernetes"];
        apt(folder, "deb-src", "bookworm", &newest);
        let archive = only(folder, "kubernetes_");
        run_in(folder, "tar", &["-xf", &archive]);
        // From before Go's modules: the path of the source is the name of the package.
        let workspace = folder.join("src/k8s.io");
        fs::create_dir_all(&workspace).unwrap();
        let tree = only(folder, "kubernetes-");
        fs::rename(folder.join(&tree), workspace.join("kubernetes")).unwrap();
        let version = tree.replace("kubernetes-", "v");
        let name = format!(
            "-X k8s.io/kubernetes/vendor/k8s.io/component-base/version.gitVersion={version}"
        );
        let build = go(&workspace.join("kubernetes"))
            .env("GO111MODULE", "off")
            .env("GOPATH", folder)
            .env("GOFLAGS", "");
        let build = build
            .args(["build", "-p", "1", "-ldflags", &name, "-o"])
            .arg(kept.join("kubelet"));
        build
            .arg("./cmd/kubelet")
            .limit(KUBELET_LIMIT)
            .checked()
            .unwrap();
    });
    kept.join("kubelet")
}

/// Go's compiler, in the folder of a source that is complete: whatever else it asked for would be another version than Debian's.
fn go(tree: &Path) -> Program {
    let go = if installed_go() >= Some(OLDEST_GO) {
        program_in(tree, "go")
    } else {
        let root = golang().join("usr/lib/go-1.23");
        program_in(tree, root.join("bin/go").to_str().unwrap()).env("GOROOT", root)
    };
    go.env("GOCACHE", Path::new(KEPT).join("go-build"))
        .env("GOPATH", Path::new(KEPT).join("go"))
        .env("GOPROXY", "off")
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
}

fn installed_go() -> Option<(u32, u32)> {
    let version = Program::new("go")
        .args(["env", "GOVERSION"])
        .checked()
        .ok()?;
    let mut numbers = version.trim().strip_prefix("go")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The Go of bookworm-backports, which needs no other package.
fn golang() -> PathBuf {
    made("golang", |folder, golang| {
        let packages = ["golang-1.23-go", "golang-1.23-src"];
        apt(
            folder,
            "deb",
            "bookworm-backports",
            &[&["download"][..], &packages].concat(),
        );
        for package in packages {
            let package = only(folder, &format!("{package}_"));
            run_in(
                folder,
                "dpkg",
                &["--extract", &package, golang.to_str().unwrap()],
            );
        }
    })
}

/// The folder `name` among what is kept. When it is missing, `make` fills it, with another folder to work in.
fn made(name: &str, make: impl FnOnce(&Path, &Path)) -> PathBuf {
    let kept = Path::new(KEPT).join(name);
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

/// Where this machine gets Debian's packages from.
fn archive(folder: &Path) -> String {
    let targets = program_in(folder, "apt-get").args(["indextargets", "--format", "$(REPO_URI)"]);
    let known = targets.arg("Created-By: Packages").checked().unwrap();
    let archive = known.lines().map(|uri| uri.trim_end_matches('/'));
    archive
        .into_iter()
        .find(|uri| uri.ends_with("/debian"))
        .expect("apt knows no archive of Debian: `apt-get update`, or leave this stage to a Debian machine")
        .to_owned()
}

/// apt-get in `folder`, with a state of its own there that knows one suite only.
fn apt(folder: &Path, kind: &str, suite: &str, args: &[&str]) {
    let (state, shown) = (folder.join("apt"), folder.display());
    fs::create_dir_all(state.join("lists/partial")).unwrap();
    fs::create_dir_all(state.join("cache/archives/partial")).unwrap();
    let archive = archive(folder);
    let list = format!("{kind} [signed-by={KEYRING}] {archive} {suite} main\n");
    fs::write(state.join("sources.list"), list).unwrap();
    let config = format!(
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
    let config_file = state.join("apt.conf");
    fs::write(&config_file, config).unwrap();
    for args in [&["update"], args] {
        let apt = program_in(folder, "apt-get").arg("-qq").args(args);
        apt.env("APT_CONFIG", &config_file)
            .limit(LIMIT)
            .checked()
            .unwrap();
    }
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
    program_in(folder, name)
        .args(args)
        .limit(LIMIT)
        .checked()
        .unwrap();
}

fn program_in(folder: &Path, name: &str) -> Program {
    Program::new("env").arg("--chdir").arg(folder).arg(name)
}
