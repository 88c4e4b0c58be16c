//! A VM on which a daemon can be at home: to the VM's network and files it adds processes, names and cgroups of its own.
//!
//! Whatever a runtime leaves running is in the node's pid namespace and ends with its first process, which ends with this one.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use azure_vnet_testbed::Vm;
use azure_vnet_testbed::process::{Program, Running};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::Cgroup;
use crate::eventually;

/// Where programs are looked for: what the distribution ships, not what somebody put into /usr/local.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
const HOME: &str = "/run/home";
const TMPDIR: &str = "/run/tmp";
const LIMIT: Duration = Duration::from_secs(20);

/// A VM with an init process.
pub struct Node<'vm> {
    pub vm: &'vm Vm,
    init: Pid,
    unshare: Running,
    /// Where runtimes are told to put their containers. Dropped last, when no process is in it.
    pub cgroup: Cgroup,
}

/// A program that runs on a node until this is dropped, which kills it whatever it is at, and nothing that it started.
pub struct Daemon<'vm> {
    vm: &'vm Vm,
    name: String,
    log: PathBuf,
    pid: Pid,
    nsenter: Running,
}

impl<'vm> Node<'vm> {
    /// Starts an init on the VM.
    pub fn boot(vm: &'vm Vm) -> Self {
        let unshare = vm.program("unshare").unwrap();
        let namespaces = [
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--uts",
            "--ipc",
        ];
        // An init has to reap every orphan; for a process that ignores SIGCHLD the kernel does.
        let init = ["env", "--ignore-signal=CHLD", "sleep", "infinity"];
        let unshare = unshare.args(namespaces).args(init).start().unwrap();
        let node = Self {
            vm,
            cgroup: Cgroup::new(),
            init: only_child(unshare.id()),
            unshare,
        };
        eventually("the node's init runs", || {
            let comm = format!("/proc/{}/comm", node.init.as_raw_nonzero());
            (fs::read_to_string(comm).unwrap().trim() == "sleep").then_some(())
        });
        node.run("hostname", &[&vm.name]);
        node.run("mkdir", &["-p", HOME, TMPDIR]);
        // podman keeps its locks there.
        node.run("mount", &["-t", "tmpfs", "tmpfs", "/dev/shm"]);
        node
    }

    /// Fails at once, and by name, when a program that the test needs is missing.
    pub fn require(&self, programs: &[&str]) {
        let is_missing = |program: &&&str| {
            let which = ["-c", r#"command -v "$0""#, program];
            self.program("sh").args(which).checked().is_err()
        };
        let missing: Vec<_> = programs.iter().filter(is_missing).collect();
        assert!(
            missing.is_empty(),
            "not installed, see `cargo xtask setup`: {missing:?}"
        );
    }

    /// A program to run on the node.
    pub fn program(&self, name: &str) -> Program {
        let init = self.init.as_raw_nonzero().to_string();
        let namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc"];
        Program::new("nsenter")
            .args(["--target", &init])
            .args(namespaces)
            .arg(name)
            .env("PATH", PATH)
            .env("HOME", HOME)
            .env("TMPDIR", TMPDIR)
    }

    /// Runs a program on the node to its end, which must be a success; returns what it printed.
    pub fn run(&self, name: &str, args: &[&str]) -> String {
        self.program(name).args(args).checked().unwrap()
    }

    /// Starts a daemon, with its log in a file of the node.
    pub fn start(&self, name: &str, args: &[&str]) -> Daemon<'vm> {
        let log = format!("/run/{}.log", name.replace('/', "-"));
        let nsenter = self
            .program("sh")
            .args(["-c", r#"exec "$@" >>"$0" 2>&1"#, &log, name])
            .args(args)
            .start()
            .unwrap();
        Daemon {
            vm: self.vm,
            name: name.to_owned(),
            log: log.into(),
            pid: only_child(nsenter.id()),
            nsenter,
        }
    }

    /// Reads a file of the node.
    pub fn read(&self, path: &str) -> io::Result<String> {
        self.vm
            .namespace()
            .run(|| fs::read_to_string(path))
            .unwrap()
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // With its init all of a pid namespace is killed, and init is gone only when all the others are.
        end(&mut self.unshare, self.init);
    }
}

impl Daemon<'_> {
    /// Asks the daemon to end, and waits.
    pub fn stop(mut self) {
        kill_process(self.pid, Signal::TERM).unwrap();
        let ended = self.nsenter.wait(LIMIT).unwrap();
        assert!(ended.is_some(), "{} does not end", self.name);
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        end(&mut self.nsenter, self.pid);
        if std::thread::panicking() {
            let log = self.vm.namespace().run(|| fs::read_to_string(&self.log));
            let log = log.and_then(|log| log).unwrap_or_default();
            let grave = |line: &&str| !line.contains("level=info");
            let lines: Vec<_> = log.lines().filter(grave).collect();
            eprintln!("the log of {}:\n{}", self.name, lines.join("\n"));
        }
    }
}

/// Kills the child of `parent`, which then ends too. If that has happened, the child's number may be somebody else's by now.
fn end(parent: &mut Running, child: Pid) {
    if let Ok(None) = parent.wait(Duration::ZERO) {
        let _ = kill_process(child, Signal::KILL);
        let _ = parent.wait(LIMIT);
    }
}

/// The one process that `parent` forks.
fn only_child(parent: u32) -> Pid {
    let list = format!("/proc/{parent}/task/{parent}/children");
    eventually("a child process", || {
        let children = fs::read_to_string(&list).unwrap();
        Pid::from_raw(children.trim().parse().ok()?)
    })
}
