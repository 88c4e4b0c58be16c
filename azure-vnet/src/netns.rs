//! Network namespaces by path. This module holds the only `setns` of the plugin: a namespace is
//! entered on a thread of its own, which ends there, so no caller can forget to come back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

use crate::netlink::NetlinkError;

/// `statfs` type of the filesystem that namespace files live on (`linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// An open network namespace that is not the plugin's own.
#[derive(Debug)]
pub struct NetNs {
    path: PathBuf,
    fd: OwnedFd,
}

/// A path that cannot be used as a pod's network namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetNsError {
    /// Nothing is there (any more). DEL takes this for success.
    #[error("no network namespace at {}", path.display())]
    Missing {
        /// The path as given in `CNI_NETNS`.
        path: PathBuf,
    },
    /// A plain file, a directory, or a namespace of another kind: what is left when a bind mount
    /// of a namespace was undone. DEL takes this for success.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The path as given in `CNI_NETNS`.
        path: PathBuf,
    },
    /// The namespace the plugin itself runs in: configuring it would change the node.
    #[error("{} is the network namespace of the plugin itself, not of a container", path.display())]
    Own {
        /// The path as given in `CNI_NETNS`.
        path: PathBuf,
    },
    /// The namespace is there but cannot be opened or entered.
    #[error("cannot {operation} the network namespace {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The path as given in `CNI_NETNS`.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// No netlink socket inside the namespace.
    #[error("cannot configure the network namespace {}", path.display())]
    Netlink {
        /// The path as given in `CNI_NETNS`.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: NetlinkError,
    },
}

impl NetNsError {
    /// True when there is no namespace (any more): nothing to clean up inside it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NotANamespace { .. })
    }
}

impl NetNs {
    /// Opens the namespace at `path` and refuses whatever is not a namespace of a container.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NetNsError> {
        let path = path.into();
        let netns = Self::open_any(path.clone())?;
        if netns.is_own()? {
            return Err(NetNsError::Own { path });
        }
        Ok(netns)
    }

    /// Opens the namespace that a runtime names. The plugin's own is refused unless
    /// `CNI_NETNS_OVERRIDE` is `1` or `true`, as plugins on the CNI project's library have it.
    pub fn of_container(path: &str) -> Result<Self, NetNsError> {
        let allowed = std::env::var("CNI_NETNS_OVERRIDE")
            .is_ok_and(|value| value == "1" || value.eq_ignore_ascii_case("true"));
        if allowed {
            Self::open_any(path)
        } else {
            Self::open(path)
        }
    }

    /// Opens the namespace at `path`, also when it is the plugin's own (`CNI_NETNS_OVERRIDE=1`).
    pub fn open_any(path: impl Into<PathBuf>) -> Result<Self, NetNsError> {
        let path = path.into();
        // Before it is opened: a FIFO would make the call wait, and a device may do something.
        let filesystem =
            rustix::fs::statfs(&path).map_err(|errno| unopened(&path, errno.into()))?;
        if !is_nsfs(&filesystem) {
            return Err(NetNsError::NotANamespace { path });
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| unopened(&path, errno.into()))?;
        let filesystem =
            rustix::fs::fstatfs(&fd).map_err(|errno| failed("examine", &path, errno.into()))?;
        if !is_nsfs(&filesystem) {
            return Err(NetNsError::NotANamespace { path });
        }
        Ok(Self { path, fd })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside the namespace, on a thread that exists for this only, and waits for it.
    /// `/proc/sys/net` shows the namespace of the thread that opens it.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        let done = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || {
                    enter(self.fd.as_fd())?;
                    Ok(work())
                })
                .map(std::thread::ScopedJoinHandle::join)
        });
        match done {
            Ok(Ok(Ok(value))) => Ok(value),
            // The descriptor names a namespace of another kind (mount, pid, ...).
            Ok(Ok(Err(rustix::io::Errno::INVAL))) => Err(NetNsError::NotANamespace {
                path: self.path.clone(),
            }),
            Ok(Ok(Err(errno))) => Err(failed("enter", &self.path, errno.into())),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(failed("start a thread for", &self.path, error)),
        }
    }

    fn is_own(&self) -> Result<bool, NetNsError> {
        let own = std::fs::metadata("/proc/thread-self/ns/net").map_err(|error| {
            failed("compare the plugin's own namespace with", &self.path, error)
        })?;
        let stat = rustix::fs::fstat(&self.fd)
            .map_err(|errno| failed("examine", &self.path, errno.into()))?;
        Ok((own.dev(), own.ino()) == (stat.st_dev, stat.st_ino))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that enters a namespace, on a thread that ends there"
)]
fn enter(netns: BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
}

fn is_nsfs(filesystem: &rustix::fs::StatFs) -> bool {
    u64::try_from(filesystem.f_type).ok() == Some(NSFS_MAGIC)
}

fn unopened(path: &Path, source: io::Error) -> NetNsError {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => NetNsError::Missing {
            path: path.to_owned(),
        },
        _ => failed("open", path, source),
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> NetNsError {
    NetNsError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
