//! The file system that a kernel boots into: the plugins, the demo, the programs that these run, with their libraries, and the
//! kernel's modules.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use azure_vnet_testbed::debian::program_in;
use azure_vnet_testbed::process::Program;
use tempfile::TempDir;

use crate::machine::Step;
use crate::modules;

/// Built by this workspace; the machine has them in /t.
const OURS: [&str; 4] = ["azure-vnet", "azure-vnet-ipam", "demo", "ebpf-stats"];
/// Debian's, as this machine has them.
const TOOLS: [&str; 6] = [
    "ip",
    "bridge",
    "nft",
    "iptables",
    "iptables-restore",
    "getent",
];
/// The reference plugins that the demo chains.
const REFERENCE: [&str; 2] = ["portmap", "loopback"];
const FOLDERS: [&str; 13] = [
    "bin",
    "dev",
    "etc/cni/net.d",
    "modules",
    "opt/cni/bin",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/lib/cni",
    "usr/sbin",
    "var/lib",
    "var/log",
];

/// The archive, in a folder of its own that goes with the value.
pub struct Initramfs {
    folder: TempDir,
}

impl Initramfs {
    /// Gathers everything, to run `steps` on a kernel with these modules.
    pub fn make(modules: &Path, steps: &[Step]) -> Self {
        let folder = TempDir::new().unwrap();
        let root = Root(folder.path().join("root"));
        for name in FOLDERS {
            fs::create_dir_all(root.0.join(name)).unwrap();
        }
        root.put_programs();
        root.put_modules(modules);
        root.write("steps", &script(steps));
        root.write("init", include_str!("init.sh"));
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(root.0.join("init"), executable).unwrap();

        let names = program_in(&root.0, "find").checked().unwrap();
        let pack = program_in(&root.0, "cpio").args(["--create", "--format=newc", "--quiet", "-O"]);
        let archive = folder.path().join("initramfs");
        pack.arg(&archive).stdin(names).checked().unwrap();
        fs::remove_dir_all(&root.0).unwrap();
        Self { folder }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("initramfs")
    }
}

/// The steps as /init sources them; what they print stands between two lines that name them.
fn script(steps: &[Step]) -> String {
    let mut script = String::new();
    for Step { name, command } in steps {
        let _ = writeln!(
            script,
            "echo '@begin {name}'\n{command} 2>&1\necho \"@end {name} $?\""
        );
    }
    script
}

struct Root(PathBuf);

impl Root {
    fn put_programs(&self) {
        let built = built();
        for name in OURS {
            self.put_program(&built.join(name), &format!("t/{name}"));
        }
        self.put_program(&newest_test(&built.join("deps"), "prog"), "t/prog");
        // The object that the plugin embeds, for the verifier's figures.
        fs::write(
            self.0.join("t/azure-vnet.bpf.o"),
            azure_vnet::datapath::OBJECT,
        )
        .unwrap();
        for name in TOOLS {
            self.put_program(&which(name), &format!("usr/sbin/{name}"));
        }
        for name in REFERENCE {
            let plugin = Path::new("/usr/lib/cni").join(name);
            self.put_program(&plugin, &format!("usr/lib/cni/{name}"));
        }
        self.put_program(Path::new("/bin/busybox"), "bin/busybox");
        self.put_iptables_extensions();
    }

    /// Copies a program without its debug information, and the libraries that it is linked with.
    fn put_program(&self, program: &Path, target: &str) {
        let target = self.0.join(target);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(program, &target).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        // A Go program without symbols is left as it is.
        let _ = Program::new("strip").arg(&target).checked();
        // Fails for a static program, which has no libraries.
        let libraries = Program::new("ldd")
            .arg(program)
            .checked()
            .unwrap_or_default();
        let paths = libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for library in paths {
            self.put_file(Path::new(library));
        }
    }

    /// iptables loads them when a rule names them, so ldd does not know them.
    fn put_iptables_extensions(&self) {
        let libraries = Program::new("ldd")
            .arg(which("iptables"))
            .checked()
            .unwrap();
        let library = libraries
            .split_whitespace()
            .find(|word| word.starts_with('/') && word.contains("libxtables"))
            .expect("iptables is linked with libxtables");
        let folder = fs::canonicalize(library).unwrap().with_file_name("xtables");
        for entry in fs::read_dir(folder).unwrap() {
            self.put_file(&entry.unwrap().path());
        }
    }

    fn put_file(&self, path: &Path) {
        let target = self.0.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }

    /// The modules, and the list of them in the order in which they are loaded.
    fn put_modules(&self, folder: &Path) {
        let mut order = String::new();
        for (name, content) in modules::in_order(folder) {
            fs::write(self.0.join("modules").join(&name), content).unwrap();
            let _ = writeln!(order, "{name}");
        }
        self.write("modules/order", &order);
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).unwrap();
    }
}

/// Where cargo puts what it builds with this program, which is itself in `deps` there.
fn built() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path
}

/// The test program that was built last.
fn newest_test(folder: &Path, name: &str) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let programs = entries.filter(|entry| {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        file.starts_with(&format!("{name}-")) && !file.contains('.')
    });
    programs
        .max_by_key(|entry| entry.metadata().unwrap().modified().unwrap())
        .expect("`cargo xtask test` has built every stage")
        .path()
}

/// Where a program is, without the links to it.
fn which(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let program = folders
        .map(|folder| folder.join(name))
        .find(|path| path.exists());
    let program = program.unwrap_or_else(|| panic!("{name} is not installed"));
    fs::canonicalize(program).unwrap()
}
