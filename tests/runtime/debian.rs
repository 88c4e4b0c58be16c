//! Programs that no package has: built from Debian's source packages, once, and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use azure_vnet_testbed::debian::{Kind, Suite, kept, program_in};
use azure_vnet_testbed::process::Program;

/// Cargo's directory for the files of tests; it outlives them.
const STORE: &str = env!("CARGO_TARGET_TMPDIR");
const LIMIT: Duration = Duration::from_mins(10);
const KUBELET_LIMIT: Duration = Duration::from_mins(30);
/// What libcni 1.3 wants.
const OLDEST_GO: (u32, u32) = (1, 21);

/// libcni's own client, and its version. Only unstable has one that knows GC and STATUS; its source needs nothing but Go.
pub fn cnitool() -> (PathBuf, String) {
    let go = go_root();
    let kept = kept(Path::new(STORE), "cnitool", |folder, kept| {
        let source = "golang-github-appc-cni";
        let unstable = Suite::update(folder, Kind::Source, "unstable");
        let tree = unstable.unpack_source(source, &format!("{source}-"));
        let build = self::go(go.as_deref(), &folder.join(&tree)).args(["build", "-o"]);
        let build = build.arg(kept.join("cnitool")).arg("./cnitool");
        build.limit(LIMIT).checked().unwrap();
        fs::write(kept.join("source"), tree).unwrap();
    });
    let version = fs::read_to_string(kept.join("source")).unwrap();
    (kept.join("cnitool"), version)
}

/// The kubelet of Kubernetes 1.20, whose source package has all that it needs. Builds with one process, beside other tests.
pub fn kubelet() -> PathBuf {
    let go = go_root();
    let kept = kept(Path::new(STORE), "kubelet", |folder, kept| {
        let bookworm = Suite::update(folder, Kind::Source, "bookworm");
        let tree = bookworm.unpack_source("kubernetes", "kubernetes-");
        // From before Go's modules: the path of the source is the name of the package.
        let workspace = folder.join("src/k8s.io");
        fs::create_dir_all(&workspace).unwrap();
        fs::rename(folder.join(&tree), workspace.join("kubernetes")).unwrap();
        let version = tree.replace("kubernetes-", "v");
        let name = format!(
            "-X k8s.io/kubernetes/vendor/k8s.io/component-base/version.gitVersion={version}"
        );
        let build = self::go(go.as_deref(), &workspace.join("kubernetes"))
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
fn go(root: Option<&Path>, tree: &Path) -> Program {
    let go = match root {
        None => program_in(tree, "go"),
        Some(root) => program_in(tree, root.join("bin/go").to_str().unwrap()).env("GOROOT", root),
    };
    go.env("GOCACHE", Path::new(STORE).join("go-build"))
        .env("GOPATH", Path::new(STORE).join("go"))
        .env("GOPROXY", "off")
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
}

/// Where Go is, if not on the path: that of bookworm-backports, which needs no other package.
fn go_root() -> Option<PathBuf> {
    if installed_go() >= Some(OLDEST_GO) {
        return None;
    }
    let golang = kept(Path::new(STORE), "golang", |folder, golang| {
        let backports = Suite::update(folder, Kind::Binary, "bookworm-backports");
        for package in ["golang-1.23-go", "golang-1.23-src"] {
            backports.unpack(package, golang);
        }
    });
    Some(golang.join("usr/lib/go-1.23"))
}

fn installed_go() -> Option<(u32, u32)> {
    let version = Program::new("go")
        .args(["env", "GOVERSION"])
        .checked()
        .ok()?;
    let mut numbers = version.trim().strip_prefix("go")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
