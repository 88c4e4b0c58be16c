//! A machine: a disk that lasts, and systemd booted from it with a NIC at the fabric.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::process::{Output, Running};
use azure_vnet_testbed::{Azure, NETNS_DIR, Verdicts, Vm, bin_dir, dhcp};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};
use rustix::process::Pid;
use serde::Serialize;
use serde_json::json;

use crate::cgroup::Cgroup;
use crate::eventually;
use crate::manager::Manager;

/// Where this release was unpacked on the machine.
pub const RELEASE: &str = "/opt/azure-vnet";
/// Where v0.1.0 was, if it is wanted.
pub const FORMER_RELEASE: &str = "/opt/azure-vnet-v0.1.0";
/// Where the disk is, as long as the machine does not run.
const DISK: &str = "/mnt";
const ROOT: &str = "/mnt/root";
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// What a container cannot do, or need not, and what would reach beyond it.
const MASKED: [&str; 26] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty.target",
    "modprobe@.service",
    "NetworkManager-wait-online.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-hwdb-update.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd-wait-online.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-udev-trigger.service",
];

/// udev is to know the links, and nothing else that it would find in sysfs.
const TRIGGER: &str = "[Unit]
DefaultDependencies=no
After=systemd-udevd.service
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=udevadm trigger --action=add --subsystem-match=net
";

/// `masquerade.datapath` of the machine's pods.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    Ebpf,
    Netfilter,
}

/// A machine that is off.
pub struct Machine<'a> {
    pub azure: &'a Azure,
    pub manager: &'static Manager,
    /// What masquerades its pods.
    tier: Tier,
    number: usize,
    disk: Namespace,
    cgroup: Cgroup,
}

/// A machine that runs until this is dropped, which is as when its power fails.
pub struct Booted<'a> {
    pub vm: Vm,
    pub dhcp: dhcp::Server,
    machine: &'a Machine<'a>,
    unshare: Option<Running>,
}

impl<'a> Machine<'a> {
    /// A machine with a new disk.
    pub fn new(
        azure: &'a Azure,
        number: usize,
        manager: &'static Manager,
        tier: Tier,
        former: Option<&Path>,
    ) -> Self {
        let root = manager.system.root();
        let plugins = bin_dir().unwrap();
        let former = former.map(|former| (FORMER_RELEASE, former));
        let releases = [Some((RELEASE, plugins.as_path())), former];
        let make = || make_disk(&root, releases.iter().flatten(), manager);
        let disk = Namespace::machine(make).unwrap();
        Self {
            azure,
            manager,
            tier,
            number,
            disk,
            cgroup: Cgroup::new(),
        }
    }

    /// What its pods are added with.
    pub fn list(&self) -> Conflist {
        let masquerade = json!({ "datapath": self.tier });
        Conflist::shipped().with_setting("azure-vnet", "masquerade", &masquerade)
    }

    /// Boots it, with DHCP that says something only if it `speaks`.
    pub fn boot(&'a self, seconds: u32, speaks: bool) -> Booted<'a> {
        let (azure, number) = (self.azure, self.number);
        let net = self.disk.sandbox(|_| Ok(())).unwrap();
        azure.connect(number, &net).unwrap();
        let dhcp = azure.serve_dhcp(number, seconds).unwrap();
        dhcp.be_silent(!speaks);
        let name = self.manager.name;
        let script = net.program("sh").unwrap().arg("/mnt/boot.sh");
        let cgroup = self.cgroup.path.as_os_str();
        let script = script.args([cgroup, ROOT.as_ref(), name.as_ref()]);
        let unshare = script.start().unwrap();
        let init = eventually("systemd is the machine's first process", || {
            systemd_below(unshare.id())
        });
        let namespace = Namespace::of_init(init).unwrap();
        let booted = Booted {
            vm: Vm::booted(name, azure.nic(number), namespace),
            dhcp,
            machine: self,
            unshare: Some(unshare),
        };
        eventually("the machine has booted", || {
            // With ifupdown all waits for the lease.
            let whole = if speaks {
                booted.output(&["systemctl", "is-system-running", "--wait"])
            } else {
                booted.output(&["systemctl", "is-active", "basic.target"])
            };
            matches!(whole.stdout.trim(), "running" | "degraded" | "active").then_some(())
        });
        // As a runtime does.
        booted.output(&["mkdir", "-p", NETNS_DIR]);
        booted
    }

    /// Its address now, as the platform knows it.
    pub fn primary(&self) -> std::net::Ipv4Addr {
        self.azure.nic(self.number).primary
    }

    /// What the fabric has refused so far.
    pub fn refused(&self) -> Verdicts {
        self.azure.fabric.verdicts(self.number).unwrap()
    }

    /// Gives it another primary address; the machine learns it when it asks for its lease.
    pub fn readdress(&self, booted: &Booted<'_>, primary: std::net::Ipv4Addr) {
        self.azure.readdress(self.number, primary).unwrap();
        booted.dhcp.give(primary);
    }
}

impl Booted<'_> {
    /// Installs a release, as whoever unpacked it does.
    pub fn install(&self, release: &str) {
        let installed = self.output(&[&format!("{release}/azure-vnet"), "install"]);
        assert!(installed.status.success(), "{installed:?}");
    }

    /// Runs a program on the machine, whatever its exit status.
    pub fn output(&self, line: &[&str]) -> Output {
        let program = self.vm.program(line[0]).unwrap();
        program.args(&line[1..]).output().unwrap()
    }
}

impl Booted<'_> {
    /// What the machine has to say for itself.
    pub fn account(&self) -> String {
        let commands: [&[&str]; 5] = [
            &["ip", "address"],
            &["ip", "route", "show", "table", "all"],
            &["cat", "/etc/resolv.conf"],
            &["systemctl", "--failed", "--no-legend"],
            &["journalctl", "--no-pager", "--quiet", "--lines=60"],
        ];
        let said = commands.map(|command| {
            let output = self.output(command);
            format!(
                "# {}\n{}{}",
                command.join(" "),
                output.stdout,
                output.stderr
            )
        });
        said.concat()
    }
}

impl Drop for Booted<'_> {
    fn drop(&mut self) {
        drop(self.unshare.take());
        self.machine.cgroup.wait_until_empty();
        // While a test panics there is another complaint already.
        let _ = self.machine.azure.disconnect(self.machine.number);
    }
}

/// The first process, once it is what it is to be.
fn systemd_below(unshare: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
    let child = children.trim();
    let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    let pid = Pid::from_raw(child.parse().ok()?)?;
    (name.trim() == "systemd").then_some(pid)
}

/// Fills the calling thread's new mount namespace: the system's files below what the machine writes, which is in memory.
fn make_disk<'r>(
    system: &Path,
    releases: impl Iterator<Item = &'r (&'static str, &'r Path)>,
    manager: &Manager,
) -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    // Opened before anything is mounted, since they may lie below it.
    let system = File::open(system)?;
    let programs = releases
        .map(|(place, plugins)| open_release(place, plugins))
        .collect::<io::Result<Vec<_>>>()?;
    let none = MountFlags::empty();
    mount("tmpfs", DISK, "tmpfs", none, c"mode=755")?;
    for folder in ["upper", "work", "root"] {
        fs::create_dir(Path::new(DISK).join(folder))?;
    }
    let layers = format!(
        "lowerdir=/proc/thread-self/fd/{},upperdir={DISK}/upper,workdir={DISK}/work",
        system.as_raw_fd()
    );
    let layers = CString::new(layers)?;
    mount("overlay", ROOT, "overlay", none, layers.as_c_str())?;
    fs::write("/mnt/boot.sh", include_str!("boot.sh"))?;
    for (path, program) in programs.iter().flatten() {
        let path = on_disk(path)?;
        File::create(&path)?;
        let program = format!("/proc/thread-self/fd/{}", program.as_raw_fd());
        mount_bind(program, &path)?;
        // It is the host's file, and nobody's here to write.
        let read_only = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&path, read_only, c"")?;
    }
    configure(manager)
}

/// Its programs, each with its place on the machine.
fn open_release(place: &str, own: &Path) -> io::Result<Vec<(String, File)>> {
    let reference = Path::new(REFERENCE_PLUGINS);
    [
        ("azure-vnet", own),
        ("azure-vnet-ipam", own),
        ("loopback", reference),
        ("portmap", reference),
    ]
    .into_iter()
    .map(|(name, folder)| Ok((format!("{place}/{name}"), File::open(folder.join(name))?)))
    .collect()
}

fn configure(manager: &Manager) -> io::Result<()> {
    fs::write(on_disk("/etc/machine-id")?, "")?;
    fs::write(on_disk("/etc/hostname")?, manager.name)?;
    for unit in MASKED.iter().chain(manager.masked) {
        mask(unit)?;
    }
    let units = "/etc/systemd/system";
    fs::write(on_disk(&format!("{units}/trigger.service"))?, TRIGGER)?;
    link(
        "../trigger.service",
        &format!("{units}/sysinit.target.wants/trigger.service"),
    )?;
    link(
        "/lib/systemd/system/multi-user.target",
        &format!("{units}/default.target"),
    )?;
    for unit in manager.enabled {
        let place = format!("{units}/multi-user.target.wants/{unit}");
        link(&format!("/lib/systemd/system/{unit}"), &place)?;
    }
    let journal = "/etc/systemd/journald.conf.d/volatile.conf";
    fs::write(on_disk(journal)?, "[Journal]\nStorage=volatile\n")?;
    for (path, text) in manager.files {
        let path = on_disk(path)?;
        fs::write(&path, text)?;
        // NetworkManager and netplan read nothing that others could read, and networkd is another.
        let mode = if path.extension().is_some_and(|it| it == "network") {
            0o644
        } else {
            0o600
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    if !manager.has_resolved() {
        // A file, and not the link to resolved's that tmpfiles would make again.
        let path = on_disk("/etc/resolv.conf")?;
        fs::remove_file(&path)?;
        fs::write(&path, "")?;
    }
    Ok(())
}

fn mask(unit: &str) -> io::Result<()> {
    link("/dev/null", &format!("/etc/systemd/system/{unit}"))
}

fn link(to: &str, path: &str) -> io::Result<()> {
    let path = on_disk(path)?;
    let _ = fs::remove_file(&path);
    symlink(to, path)
}

/// Where a file of the machine is, in a folder that exists.
fn on_disk(path: &str) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("{ROOT}{path}"));
    fs::create_dir_all(path.parent().unwrap_or(Path::new(ROOT)))?;
    Ok(path)
}
