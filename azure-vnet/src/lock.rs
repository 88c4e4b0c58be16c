//! Locks between the processes of one node: `flock` on a file that stays, so that the kernel lets
//! go of them whatever happens to the holder.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long a call waits for another. The longest holder is the first ADD of a node, which takes
/// well under a second.
const LIMIT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or locked.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else held it all the time.
    #[error("{} was locked by another process for {} s", path.display(), LIMIT.as_secs())]
    TimedOut {
        /// The lock file.
        path: PathBuf,
    },
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// A handle for a child process: the lock is held until this is dropped and the child has
    /// ended. Without it, a child that outlives a killed call would work unlocked.
    pub fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Waits for the exclusive lock on `path`, at most 30 s.
    pub fn acquire(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed)?;
        let end = Instant::now() + LIMIT;
        let mut pause = FIRST_PAUSE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::TimedOut {
                        path: path.to_owned(),
                    });
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}
