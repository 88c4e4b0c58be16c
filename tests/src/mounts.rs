//! The files of a simulated VM: the host's, with everything private that a CNI plugin or a runtime writes.
//!
//! All of it lives in the VM's mount namespace and goes with it. Nothing is created on the host: where a mount point is missing,
//! an overlay whose upper layer is in memory takes it.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, unmount,
};

use crate::address_plan::WIRESERVER;

/// Where runtimes look for plugins.
pub const PLUGIN_DIR: &str = "/opt/cni/bin";
/// Where runtimes look for network configurations.
pub const CONFIG_DIR: &str = "/etc/cni/net.d";
/// Where runtimes publish the network namespaces of pods.
pub const NETNS_DIR: &str = "/var/run/netns";

/// The project's own programs, taken from the directory under test.
const OWN_PROGRAMS: [&str; 2] = ["azure-vnet", "azure-vnet-ipam"];
/// Plugins of containernetworking/plugins, as Debian installs them.
const REFERENCE_DIR: &str = "/usr/lib/cni";
const REFERENCE_PLUGINS: [&str; 7] = [
    "bandwidth",
    "bridge",
    "host-local",
    "loopback",
    "portmap",
    "ptp",
    "tuning",
];

/// Fills the calling thread's new mount namespace; plugins under test come from `bin_dir`.
pub fn prepare(bin_dir: &Path) -> io::Result<()> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(about("make / private"))?;
    let plugins = open_plugins(bin_dir)?;
    private_run()?;
    for dir in ["/etc", "/opt", "/var/lib"] {
        writable_copy(dir)?;
    }
    for dir in [CONFIG_DIR, "/var/lib/cni", "/var/log"] {
        empty(dir)?;
    }
    own_sysfs()?;
    fs::create_dir_all(NETNS_DIR).map_err(about(NETNS_DIR))?;
    install(&plugins)
}

/// The resolver that Azure's DHCP names. On the host the file may be a link into `/run`.
pub fn write_resolver() -> io::Result<()> {
    const PATH: &str = "/etc/resolv.conf";
    if let Err(error) = fs::remove_file(PATH)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(about(PATH)(error));
    }
    let text = format!("nameserver {WIRESERVER}\noptions timeout:2 attempts:2\n");
    fs::write(PATH, text).map_err(about(PATH))
}

/// A directory of links to the programs of `path`, the first of each name; those of `changes` are left out, or lead to another program.
pub fn link_programs(
    directory: &str,
    path: &OsStr,
    changes: &[(&str, Option<&str>)],
) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for folder in std::env::split_paths(path) {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let change = changes.iter().find(|(changed, _)| name == *changed);
            let target = match change {
                None => entry.path(),
                Some((_, Some(other))) => folder.join(other),
                Some((_, None)) => continue,
            };
            match symlink(target, Path::new(directory).join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// An empty `/run`. `/var/run` is a symbolic link to it on every current distribution, and is made to agree where it is not.
fn private_run() -> io::Result<()> {
    empty("/run")?;
    if fs::canonicalize("/var/run").is_ok_and(|path| path != Path::new("/run")) {
        mount_bind("/run", "/var/run").map_err(about("bind /run to /var/run"))?;
    }
    Ok(())
}

/// Lets the VM write below `dir` without the host seeing it.
fn writable_copy(dir: &str) -> io::Result<()> {
    let layers = format!("/run/testbed{dir}");
    let (upper, work) = (format!("{layers}/upper"), format!("{layers}/work"));
    fs::create_dir_all(&upper).map_err(about(&upper))?;
    fs::create_dir_all(&work).map_err(about(&work))?;
    let options = CString::new(format!("lowerdir={dir},upperdir={upper},workdir={work}"))?;
    mount(
        "overlay",
        dir,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(about(&format!("overlay on {dir}")))
}

fn empty(dir: &str) -> io::Result<()> {
    fs::create_dir_all(dir).map_err(about(dir))?;
    let options = CString::new("mode=755")?;
    mount(
        "tmpfs",
        dir,
        "tmpfs",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(about(&format!("tmpfs on {dir}")))
}

/// A sysfs that shows the links of the VM (sysfs shows those of the namespace that mounted it), with the host's cgroups bound back
/// in, since container runtimes need them, and a bpffs of its own, so that pins go with the VM.
fn own_sysfs() -> io::Result<()> {
    let (cgroups, kept) = (Path::new("/sys/fs/cgroup"), "/run/testbed/cgroup");
    let has_cgroups = cgroups.exists();
    if has_cgroups {
        fs::create_dir_all(kept).map_err(about(kept))?;
        mount_bind_recursive(cgroups, kept).map_err(about("keep /sys/fs/cgroup"))?;
    }
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).map_err(about("sysfs on /sys"))?;
    if has_cgroups {
        mount_bind_recursive(kept, cgroups).map_err(about("bind /sys/fs/cgroup"))?;
        unmount(kept, UnmountFlags::DETACH).map_err(about(kept))?;
    }
    mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), None)
        .map_err(about("bpffs on /sys/fs/bpf"))
}

/// The plugins that are there; a runtime that misses one says so by its name. They are opened before anything is mounted, since they
/// may lie where the VM has directories of its own.
fn open_plugins(bin_dir: &Path) -> io::Result<Vec<(&'static str, File)>> {
    let own = OWN_PROGRAMS.iter().map(|name| (*name, bin_dir.join(name)));
    let reference = REFERENCE_PLUGINS
        .iter()
        .map(|name| (*name, Path::new(REFERENCE_DIR).join(name)));
    let found = own.chain(reference).filter(|(_, path)| path.exists());
    found
        .map(|(name, path)| {
            Ok((
                name,
                File::open(&path).map_err(about(&path.display().to_string()))?,
            ))
        })
        .collect()
}

/// Shows the project's programs of another directory in the place of those of [`prepare`].
pub fn replace(bin_dir: &Path) -> io::Result<()> {
    show(&open_plugins(bin_dir)?)
}

/// Shows the plugins under their names, each as a file of its own.
fn install(plugins: &[(&str, File)]) -> io::Result<()> {
    empty(PLUGIN_DIR)?;
    show(plugins)
}

fn show(plugins: &[(&str, File)]) -> io::Result<()> {
    for (name, program) in plugins {
        let target = Path::new(PLUGIN_DIR).join(name);
        // What is there already is somebody's program: it is covered, not emptied.
        if !target.exists() {
            File::create(&target).map_err(about(&target.display().to_string()))?;
        }
        let source = format!("/proc/thread-self/fd/{}", program.as_raw_fd());
        mount_bind(source, &target).map_err(about(&format!("bind {}", target.display())))?;
    }
    Ok(())
}

/// Says what an error is about, which the kernel's errno never does.
fn about<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> io::Error {
    let what = what.to_owned();
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{what}: {error}"))
    }
}
