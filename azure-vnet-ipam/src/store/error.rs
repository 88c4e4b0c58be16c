//! Why the record cannot be had, and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;

/// Why the record cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} is locked by another process for more than {limit:?}; try again", path.display())]
    Busy { path: PathBuf, limit: Duration },
    #[error("nobody waits for this call any more")]
    GivenUp,
    #[error("cannot {action} {}{}", path.display(), advice(cause))]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "{} belongs to user {owner}, who could give a pod another pod's address; make it root's (chown root), or \
         remove it",
        path.display()
    )]
    Owner { path: PathBuf, owner: u32 },
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |cause| Error::Io {
            action,
            path,
            cause,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self, Error::Io { cause, .. }
            if matches!(Errno::from_io_error(cause), Some(Errno::NOSPC | Errno::DQUOT)))
    }
}

/// What to do, where the kernel's words do not say it.
fn advice(cause: &io::Error) -> &'static str {
    match Errno::from_io_error(cause) {
        Some(Errno::NOSPC | Errno::DQUOT) => "; make room there",
        Some(Errno::ROFS) => "; mount it writable, or choose another ipam.stateDir",
        Some(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::LOOP | Errno::NXIO) => {
            "; remove what is in its place"
        }
        _ => "",
    }
}
