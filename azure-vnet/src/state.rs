//! What the network plugin remembers: one file for each attachment, in `/run`, which a reboot
//! empties together with the network it describes.
//!
//! A file is written before the first change to the kernel and removed after the last, so whatever
//! a killed call left can be found. Nobody rewrites what another call wrote: there is no lock.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use azure_vnet_cni::json;
use azure_vnet_files::{ReadError, Unsafe, draft};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::netlink::MacAddress;

/// Where everything is kept.
pub const DIRECTORY: &str = "/run/azure-vnet";

/// The extensions of a file that is being written, here and by v0.1.0.
const DRAFTS: [&str; 2] = ["new", "tmp"];

/// Bytes of a file; one attachment takes some hundred, or 10,000 with the longest names.
pub const LARGEST: u64 = 1 << 20;

/// How old a draft is that nobody is writing.
const ABANDONED: Duration = Duration::from_mins(1);

/// How long an ADD may be under way after it wrote its attachment down, even on a busy machine.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface's name in the container.
    pub ifname: String,
    /// `CNI_NETNS` of the ADD.
    pub netns: String,
    /// The other end of its veth, on the node.
    pub host_veth: String,
    /// The bridge that is a port of.
    pub bridge: String,
    /// The address it was given.
    pub address: Ipv4Addr,
    /// The MAC it was given.
    pub mac: MacAddress,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<u16>,
    /// `namespace/name` of the pod, where the runtime has said it.
    #[serde(default)]
    pub pod: Option<String>,
}

/// Every file of the node.
#[derive(Debug, Default)]
pub struct Records {
    /// What can be understood.
    pub whole: Vec<Attachment>,
    /// The host veths of the others.
    pub damaged: Vec<String>,
}

/// A file could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// An attachment that is written down; dropping it forgets it again.
#[must_use = "dropping it forgets the attachment"]
#[derive(Debug)]
pub struct Remembered {
    host_veth: String,
    kept: bool,
}

impl Remembered {
    /// The attachment stands.
    pub fn commit(mut self) {
        self.kept = true;
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = forget(&self.host_veth)
        {
            tracing::warn!("{error}");
        }
    }
}

/// Writes an attachment down. A failure forgets it as well: the file may be there and its directory
/// not be synced.
pub fn remember(attachment: Attachment) -> Result<Remembered, Error> {
    let path = path(&attachment.host_veth);
    let written = write_json(&path, &attachment).map_err(failed("write", path));
    let remembered = Remembered {
        host_veth: attachment.host_veth,
        kept: false,
    };
    written.map(|()| remembered)
}

/// The attachment behind a host veth. A file that cannot be understood, or read, counts as none:
/// what DEL does without it is nearly as much.
pub fn find(host_veth: &str) -> Option<Attachment> {
    read_json(&path(host_veth))
}

/// Whether there is a file for the attachment behind a host veth, readable or not.
pub fn is_known(host_veth: &str) -> bool {
    path(host_veth).exists()
}

/// Whether an attachment was written down so lately that its ADD may be under way.
pub fn is_recent(host_veth: &str) -> bool {
    let written = path(host_veth).metadata().and_then(|it| it.modified());
    let age = written.ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age < UNDER_WAY)
}

/// Forgets an attachment; one that is not known is as good. Takes along what a call that was killed
/// in the middle of [`remember`] left.
pub fn forget(host_veth: &str) -> Result<(), Error> {
    let path = path(host_veth);
    for path in [draft(&path), path] {
        remove_file(&path).map_err(failed("remove", path))?;
    }
    Ok(())
}

/// Removes what calls left that were killed in the middle of [`remember`] and that no DEL followed. A
/// writer is done within milliseconds; a file that is older than [`ABANDONED`] has none any more.
pub fn sweep() {
    let files = files().unwrap_or_default().into_iter();
    let is_draft = |path: &PathBuf| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        kind.is_some_and(|kind| DRAFTS.contains(&kind))
    };
    for path in files.filter(is_draft) {
        let age = path.metadata().and_then(|meta| meta.modified());
        let age = age.ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > ABANDONED) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// All attachments of the node, by address; those that can be read.
pub fn everything() -> Vec<Attachment> {
    let mut attachments = records().unwrap_or_default().whole;
    attachments.sort_by(|a, b| (a.address, &a.host_veth).cmp(&(b.address, &b.host_veth)));
    attachments
}

/// All attachments on `bridge`. A file that is damaged is none; one that cannot be read is an error,
/// as it may be of a pod that lives.
pub fn attachments(bridge: &str) -> Result<Vec<Attachment>, Error> {
    let mut all = records()?.whole;
    all.retain(|attachment| attachment.bridge == bridge);
    Ok(all)
}

/// All attachments of the network called `network`, likewise.
pub fn of_network(network: &str) -> Result<Vec<Attachment>, Error> {
    let mut all = records()?.whole;
    all.retain(|attachment| attachment.network == network);
    Ok(all)
}

/// Removes a file; one that is not there is as good.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the state's folder, and closes it for others, where `path` is in it.
pub fn ensure_folder(path: &Path) -> Result<(), Unsafe> {
    let ours = Path::new(DIRECTORY);
    if !path.starts_with(ours) {
        return Ok(());
    }
    azure_vnet_files::private_folder(ours)?;
    match path.parent() {
        Some(folder) if folder != ours => azure_vnet_files::private_folder(folder),
        _ => Ok(()),
    }
}

/// Replaces a file whole: whoever reads it, and whenever the machine stops, it is the old one or
/// the new one. Each has one writer at a time.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    ensure_folder(path).map_err(io::Error::other)?;
    azure_vnet_files::replace(path, &serde_json::to_vec(value)?, 0o600)
}

/// What [`write_json`] wrote; `None` where there is nothing that root alone can have written, or something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    json::from_slice(&azure_vnet_files::read_own(path, LARGEST).ok()?).ok()
}

/// All files. One that cannot be read is an error, as it may be of a pod that lives; what is no file of ours is a damaged one.
pub fn records() -> Result<Records, Error> {
    let mut records = Records::default();
    let files = files()?.into_iter();
    for path in files.filter(|path| path.extension().is_some_and(|kind| kind == "json")) {
        let attachment = match azure_vnet_files::read_own(&path, LARGEST) {
            Ok(bytes) => json::from_slice(&bytes).ok(),
            Err(error) if error.is_missing() => continue,
            Err(ReadError::Io(error)) => return Err(failed("read", path)(error)),
            // A FIFO, a link, somebody else's.
            Err(_) => None,
        };
        match (attachment, path.file_stem()) {
            (Some(attachment), _) => records.whole.push(attachment),
            (None, Some(name)) => records.damaged.push(name.to_string_lossy().into_owned()),
            (None, None) => {}
        }
    }
    Ok(records)
}

fn files() -> Result<Vec<PathBuf>, Error> {
    let directory = attachments_directory();
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| {
            let paths = entries.map(|entry| Ok(entry?.path()));
            paths.collect::<io::Result<Vec<PathBuf>>>()
        }),
    };
    entries.map_err(failed("read", directory))
}

fn attachments_directory() -> PathBuf {
    Path::new(DIRECTORY).join("attachments")
}

fn path(host_veth: &str) -> PathBuf {
    attachments_directory().join(format!("{host_veth}.json"))
}

fn failed(what: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error { what, path, source }
}
