//! Installing the plugins on a node, and taking them off again.
//!
//! kubelet and the runtimes run whatever is in the plugins' folder at that moment, so a file is never half there: it is written
//! under another name and renamed. The configuration comes last and goes first, because with it a node says that it can run pods.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use azure_vnet_files::ReadError;
use serde::Serialize;

mod managers;

/// The shipped configuration, which works as it is.
const CONFLIST: &str = include_str!("../../conf/10-azure.conflist");
const CONFLIST_NAME: &str = "10-azure.conflist";
/// The configuration of this version, beside one that was edited. Nobody reads a name that ends like this.
const NEW_CONFLIST_NAME: &str = "10-azure.conflist.dist";
/// The plugin, one file with two names. The second is that of the IPAM plugin, which the first calls or executes.
const PLUGIN: &str = "azure-vnet";
const IPAM: &str = "azure-vnet-ipam";
/// Plugins of the reference set that the configuration chains, and that containerd runs for every pod.
const REFERENCE: [&str; 2] = ["portmap", "loopback"];

/// The folder of the state, below the root.
const STATE: &str = "run/azure-vnet";

/// Bytes of a file; a plugin has some 10 MB, and twenty without `strip`.
const LARGEST: u64 = 256 << 20;

/// Where things go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The node's file system.
    pub root: PathBuf,
    /// The plugins' folder, usually `/opt/cni/bin`.
    pub plugins: PathBuf,
    /// The network configurations' folder, usually `/etc/cni/net.d`.
    pub configuration: PathBuf,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which file.
    pub path: PathBuf,
    /// What became of it.
    pub change: Change,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is there now, and was not before.
    Installed,
    /// Another version was there.
    Replaced,
    /// It was there already.
    Unchanged,
    /// It was edited, or belongs to others, and stays.
    Kept,
    /// It is gone.
    Removed,
    /// It is not there, and was not brought along.
    Missing,
}

/// Why nothing, or not everything, was done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Error {
    fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { what, path, source }
    }
}

/// Puts the plugins of the folder `from` in their place, what the node's network managers have to know, and the configuration if there is
/// none. Doing it again changes nothing; doing it with another version is the upgrade.
pub fn install(target: &Target, from: &Path) -> Result<Vec<Step>, Error> {
    for folder in [&target.plugins, &target.configuration] {
        fs::create_dir_all(folder).map_err(Error::at("create", folder))?;
    }
    // Before kubelet makes it for a mount, with 0755; an empty root has no /run.
    if target.root.join("run").is_dir() {
        let folder = target.root.join(STATE);
        azure_vnet_files::private_folder(&folder)
            .map_err(|error| Error::at("close", &folder)(io::Error::other(error)))?;
    }
    let mut steps = Vec::new();
    let source = from.join(PLUGIN);
    let program = read(&source).map_err(Error::at("read", &source))?;
    let plugin = target.plugins.join(PLUGIN);
    steps.push(put(&plugin, &program, 0o755)?);
    steps.push(put_second_name(
        &target.plugins.join(IPAM),
        &plugin,
        &program,
    )?);
    for name in REFERENCE {
        steps.push(put_if_missing(
            &target.plugins.join(name),
            &from.join(name),
        )?);
    }
    steps.extend(managers::place(&target.root)?);
    steps.push(put_configuration(&target.configuration)?);
    Ok(steps)
}

/// Takes away what [`install`] brought. The reference plugins stay, for others use them; so does a configuration that was edited.
pub fn uninstall(target: &Target) -> Result<Vec<Step>, Error> {
    let conflist = target.configuration.join(CONFLIST_NAME);
    let edited = read(&conflist).is_ok_and(|text| text != CONFLIST.as_bytes());
    let mut steps = Vec::new();
    if edited {
        // Under this name no runtime reads it any more, but nothing that was written into it is lost.
        let saved = target.configuration.join("10-azure.conflist.saved");
        fs::rename(&conflist, &saved).map_err(Error::at("rename", &conflist))?;
        steps.push(Step {
            path: saved,
            change: Change::Kept,
        });
    } else {
        steps.extend(remove(conflist)?);
    }
    steps.extend(remove(target.configuration.join(NEW_CONFLIST_NAME))?);
    for name in [PLUGIN, IPAM] {
        steps.extend(remove(target.plugins.join(name))?);
    }
    steps.extend(managers::take_away(&target.root)?);
    Ok(steps)
}

/// Gives a file that is in its place a second name, in one step. Between that and the step before, one version executes the other,
/// which both bear. On a file system without hard links there are two files, for good.
fn put_second_name(path: &Path, file: &Path, content: &[u8]) -> Result<Step, Error> {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let before = identity(path).ok();
    let change = match before {
        Some(before) if identity(file).ok() == Some(before) => Change::Unchanged,
        Some(_) => Change::Replaced,
        None => Change::Installed,
    };
    if change == Change::Unchanged {
        return Ok(Step {
            path: path.to_owned(),
            change,
        });
    }
    match link(path, file) {
        Ok(()) => Ok(Step {
            path: path.to_owned(),
            change,
        }),
        Err(_) => put(path, content, 0o755),
    }
}

fn link(path: &Path, file: &Path) -> io::Result<()> {
    // One that a killed call left is gone.
    let new = azure_vnet_files::draft(path);
    let _ = fs::remove_file(&new);
    fs::hard_link(file, &new)?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn put_if_missing(path: &Path, source: &Path) -> Result<Step, Error> {
    let change = match read(source) {
        _ if path.exists() => Change::Kept,
        Ok(program) => return put(path, &program, 0o755),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Change::Missing,
        Err(error) => return Err(Error::at("read", source)(error)),
    };
    Ok(Step {
        path: path.to_owned(),
        change,
    })
}

fn put_configuration(folder: &Path) -> Result<Step, Error> {
    let path = folder.join(CONFLIST_NAME);
    let edited = match read(&path) {
        Ok(text) => text != CONFLIST.as_bytes(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::at("read", &path)(error)),
    };
    if edited {
        put(&folder.join(NEW_CONFLIST_NAME), CONFLIST.as_bytes(), 0o644)?;
        return Ok(Step {
            path,
            change: Change::Kept,
        });
    }
    put(&path, CONFLIST.as_bytes(), 0o644)
}

/// A FIFO or a device is none of a release, nor of what it replaces.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    azure_vnet_files::read(path, LARGEST).map_err(|error| match error {
        ReadError::Io(error) => error,
        other => io::Error::other(other),
    })
}

/// Puts a file in its place in one step.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<Step, Error> {
    let before = read(path).ok();
    let is_same = before.as_deref() == Some(content);
    let has_mode = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o777 == mode);
    let change = match before {
        Some(_) if is_same && has_mode => Change::Unchanged,
        Some(_) => Change::Replaced,
        None => Change::Installed,
    };
    if change != Change::Unchanged {
        azure_vnet_files::replace(path, content, mode).map_err(Error::at("write", path))?;
    }
    Ok(Step {
        path: path.to_owned(),
        change,
    })
}

fn remove(path: PathBuf) -> Result<Option<Step>, Error> {
    match fs::remove_file(&path) {
        Ok(()) => Ok(Some(Step {
            path,
            change: Change::Removed,
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::at("remove", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tempfile::TempDir;

    use super::*;

    struct Node {
        root: TempDir,
        target: Target,
    }

    impl Node {
        fn new() -> Self {
            let root = TempDir::new().unwrap();
            let target = Target {
                root: root.path().to_owned(),
                plugins: root.path().join("opt/cni/bin"),
                configuration: root.path().join("etc/cni/net.d"),
            };
            Self { root, target }
        }

        /// A release with programs that say which they are.
        fn release(&self, version: &str, names: &[&str]) -> PathBuf {
            let folder = self.root.path().join(version);
            fs::create_dir_all(&folder).unwrap();
            for name in names {
                fs::write(folder.join(name), format!("{name} {version}")).unwrap();
            }
            folder
        }

        fn files(&self) -> Vec<String> {
            let mut files: Vec<String> = [&self.target.plugins, &self.target.configuration]
                .into_iter()
                .flat_map(|folder| fs::read_dir(folder).unwrap())
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            files
        }
    }

    const ALL: [&str; 3] = ["azure-vnet", "portmap", "loopback"];

    fn changes(steps: &[Step]) -> Vec<(String, Change)> {
        let name = |step: &Step| step.path.file_name().unwrap().display().to_string();
        steps.iter().map(|step| (name(step), step.change)).collect()
    }

    #[test]
    fn installs_once_and_upgrades_in_place() {
        let node = Node::new();
        let first = install(&node.target, &node.release("v1", &ALL)).unwrap();
        assert!(
            first.iter().all(|step| step.change == Change::Installed),
            "{first:?}"
        );
        assert_eq!(
            first.last().unwrap().path,
            node.target.configuration.join("10-azure.conflist")
        );
        let mode = fs::metadata(node.target.plugins.join("azure-vnet"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);

        let again = install(&node.target, &node.release("v1", &ALL)).unwrap();
        assert!(
            again
                .iter()
                .all(|step| matches!(step.change, Change::Unchanged | Change::Kept)),
            "{again:?}"
        );
        let upgrade = install(&node.target, &node.release("v2", &ALL)).unwrap();
        assert_eq!(
            changes(&upgrade),
            [
                ("azure-vnet".into(), Change::Replaced),
                ("azure-vnet-ipam".into(), Change::Replaced),
                ("portmap".into(), Change::Kept),
                ("loopback".into(), Change::Kept),
                ("10-azure.conflist".into(), Change::Unchanged),
            ]
        );
        let plugins = ["azure-vnet", "azure-vnet-ipam"].map(|name| node.target.plugins.join(name));
        for plugin in &plugins {
            assert_eq!(fs::read_to_string(plugin).unwrap(), "azure-vnet v2");
        }
        let [plugin, ipam] = plugins.map(|path| fs::metadata(path).unwrap().ino());
        assert_eq!(plugin, ipam);
        assert_eq!(
            node.files(),
            [
                "10-azure.conflist",
                "azure-vnet",
                "azure-vnet-ipam",
                "loopback",
                "portmap"
            ]
        );
    }

    #[test]
    fn the_managers_that_are_there_are_told() {
        let node = Node::new();
        let release = node.release("v1", &ALL);
        let placed = |node: &Node| {
            let all = managers::paths(node.root.path());
            all.map(|path| path.exists()).collect::<Vec<_>>()
        };
        install(&node.target, &release).unwrap();
        assert_eq!(placed(&node), [false; 5]);

        for folder in ["etc/systemd/network", "etc/cloud/cloud.cfg.d"] {
            fs::create_dir_all(node.root.path().join(folder)).unwrap();
        }
        let steps = changes(&install(&node.target, &release).unwrap());
        assert_eq!(placed(&node), [true, true, false, true, false]);
        assert_eq!(
            steps[4],
            ("05-azure-vnet.network".into(), Change::Installed)
        );
        assert_eq!(steps.last().unwrap().0, "10-azure.conflist");
        let again = changes(&install(&node.target, &release).unwrap());
        assert_eq!(
            again[4],
            ("05-azure-vnet.network".into(), Change::Unchanged)
        );

        uninstall(&node.target).unwrap();
        assert_eq!(placed(&node), [false; 5]);
    }

    #[test]
    fn an_edited_configuration_is_kept() {
        let node = Node::new();
        let release = node.release("v1", &ALL);
        install(&node.target, &release).unwrap();
        let conflist = node.target.configuration.join("10-azure.conflist");
        fs::write(&conflist, "edited").unwrap();
        let steps = install(&node.target, &release).unwrap();
        assert_eq!(steps.last().unwrap().change, Change::Kept);
        assert_eq!(fs::read_to_string(&conflist).unwrap(), "edited");
        let beside =
            fs::read_to_string(node.target.configuration.join("10-azure.conflist.dist")).unwrap();
        assert_eq!(beside, CONFLIST);

        uninstall(&node.target).unwrap();
        assert_eq!(
            node.files(),
            ["10-azure.conflist.saved", "loopback", "portmap"]
        );
    }

    #[test]
    fn what_a_killed_call_left_is_no_hindrance() {
        let node = Node::new();
        fs::create_dir_all(&node.target.plugins).unwrap();
        fs::write(node.target.plugins.join(".azure-vnet.new"), "half").unwrap();
        install(&node.target, &node.release("v1", &ALL)).unwrap();
        let plugin = fs::read_to_string(node.target.plugins.join("azure-vnet")).unwrap();
        assert_eq!(plugin, "azure-vnet v1");
        assert!(
            !node.files().iter().any(|name| name.starts_with('.')),
            "{:?}",
            node.files()
        );
    }

    #[test]
    fn without_the_plugin_the_node_is_left_without_configuration() {
        let node = Node::new();
        let error = install(&node.target, &node.release("v1", &["portmap"])).unwrap_err();
        assert!(error.to_string().ends_with("/v1/azure-vnet"), "{error}");
        assert!(node.files().is_empty(), "{:?}", node.files());
    }

    #[test]
    fn uninstalling_twice_is_fine() {
        let node = Node::new();
        install(&node.target, &node.release("v1", &[PLUGIN])).unwrap();
        let steps = uninstall(&node.target).unwrap();
        assert_eq!(
            changes(&steps)[0],
            ("10-azure.conflist".into(), Change::Removed)
        );
        assert_eq!(uninstall(&node.target).unwrap(), []);
        assert!(node.files().is_empty(), "{:?}", node.files());
    }
}
