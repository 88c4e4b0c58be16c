//! Locks between the processes of one node, in the folder of the state.

use std::path::Path;
use std::time::Duration;

use azure_vnet_files::{LockError, Unsafe};

pub use azure_vnet_files::Lock;

use crate::state;

/// How long a call waits for another. The longest holder is the first ADD of a node, which takes
/// well under a second.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of the state is not ours alone.
    #[error(transparent)]
    Folder(#[from] Unsafe),
    /// Another process has it, or its file is none.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Waits for the exclusive lock on `path`, at most 30 s.
///
/// # Errors
/// Another process has it for that long, or there cannot be such a file.
pub fn acquire(path: &Path) -> Result<Lock, Error> {
    state::ensure_folder(path)?;
    Ok(Lock::acquire(path, LIMIT)?)
}
