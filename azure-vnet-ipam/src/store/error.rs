//! Why the record cannot be had, and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use azure_vnet_files::{LockError, Unsafe, advice};
use rustix::io::Errno;

/// Why the record cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nobody waits for this call any more")]
    GivenUp,
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Folder(#[from] Unsafe),
    #[error("cannot {action} {}{}", path.display(), advice(cause))]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
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
