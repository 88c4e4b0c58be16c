//! Locks between the processes of one node: `flock` on a file that stays, so that the kernel lets go of them whatever happens to
//! the holder.
//!
//! Who can open a file can lock it, and needs no right to write for that. So a lock's file is root's alone (0600), and one that
//! was not, of v0.1.0 or made by others, is replaced: who has it open keeps a lock on a file that nobody looks at any more.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
    process::geteuid,
};

use crate::{advice, draft};

const MODE: u32 = 0o600;

/// How long the holder of a file that others can open is believed to be one of ours: a holder of ours is done within milliseconds,
/// and with the first ADD of a node well within a second.
const BELIEVED: Duration = Duration::from_secs(5);

/// Pauses between attempts: short first, as a holder is done within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or locked.
    #[error("cannot {action} {}{}", path.display(), advice(cause))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Somebody else held it all the time.
    #[error("{} was locked by another process for {} s; try again", path.display(), limit.as_secs_f32())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long that was.
        limit: Duration,
    },
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Waits for the exclusive lock on `path`, in a folder that is there, at most `limit`.
    ///
    /// # Errors
    /// Another process has it for that long, or what is at `path` is no file of ours.
    pub fn acquire(path: &Path, limit: Duration) -> Result<Self, Error> {
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let file = open(path)?;
            let is_open_to_others = mode(&file, path)? & 0o077 != 0;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_open_to_others => {
                    replace(path, &file)?;
                    continue;
                }
                // The file at the path is another one by now: replaced by who had it before.
                Ok(()) if !is_at(path, &file)? => continue,
                Ok(()) => return Ok(Self { file }),
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK)
                    if is_open_to_others && begin.elapsed() >= BELIEVED.min(limit) =>
                {
                    replace(path, &file)?;
                    continue;
                }
                Err(Errno::WOULDBLOCK) if begin.elapsed() < limit => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Busy {
                        path: path.to_owned(),
                        limit,
                    });
                }
                Err(errno) => return Err(failed("lock", path)(errno.into())),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A handle for a child process: the lock is held until this is dropped and the child has
    /// ended. Without it, a child that outlives a killed call would work unlocked.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Nothing but a file of ours: not what a link leads to, and no waiting for the reader of a FIFO.
fn open(path: &Path) -> Result<File, Error> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY)
        .bits()
        .cast_signed();
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(flags).mode(MODE);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            options.create(true).truncate(false).open(path)
        }
        opened => opened,
    };
    let file = file.map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("look at", path))?;
    if !metadata.is_file() {
        return Err(failed("open", path)(io::Error::other(
            "not a regular file; remove it",
        )));
    }
    if metadata.uid() != geteuid().as_raw() {
        let owner = metadata.uid();
        let cause = io::Error::other(format!("it belongs to user {owner}; remove it"));
        return Err(failed("open", path)(cause));
    }
    Ok(file)
}

/// The umask takes from the mode of a file that was just made, and never adds to it.
fn mode(file: &File, path: &Path) -> Result<u32, Error> {
    let mode = file.metadata().map_err(failed("look at", path))?.mode() & 0o777;
    let is_ours_alone = mode & !0o700 == 0;
    if is_ours_alone && mode != MODE {
        let permissions = Permissions::from_mode(MODE);
        file.set_permissions(permissions)
            .map_err(failed("change the mode of", path))?;
        return Ok(MODE);
    }
    Ok(mode)
}

/// Puts a file of our own in the place of `old`, if that is still there. Of several processes one does it at a time: the draft
/// cannot be made twice.
fn replace(path: &Path, old: &File) -> Result<(), Error> {
    let new = draft(path);
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&new);
    let made = match made {
        Ok(made) => made,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // A call that was killed left it; one that is at work is done at once.
            let written = fs::symlink_metadata(&new).and_then(|it| it.modified()).ok();
            let age = written.and_then(|written| written.elapsed().ok());
            if age.is_some_and(|age| age > BELIEVED) {
                let _ = fs::remove_file(&new);
            }
            thread::sleep(FIRST_PAUSE);
            return Ok(());
        }
        Err(error) => return Err(failed("create", &new)(error)),
    };
    let replaced = made
        .set_permissions(Permissions::from_mode(MODE))
        .and_then(|()| match is_at(path, old) {
            Ok(true) => {
                fs::rename(&new, path)?;
                Ok(true)
            }
            _ => Ok(false),
        });
    match replaced {
        Ok(true) => {
            let path = path.display();
            tracing::warn!("{path} could be locked by anybody, and cannot any more");
            Ok(())
        }
        Ok(false) => {
            let _ = fs::remove_file(&new);
            Ok(())
        }
        Err(error) => {
            let _ = fs::remove_file(&new);
            Err(failed("replace", path)(error))
        }
    }
}

/// Whether the file is still the one at the path.
fn is_at(path: &Path, file: &File) -> Result<bool, Error> {
    let mine = file.metadata().map_err(failed("look at", path))?;
    match fs::symlink_metadata(path) {
        Ok(at) => Ok((at.dev(), at.ino()) == (mine.dev(), mine.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io {
        action,
        path,
        cause,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_mins(1);

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn one_has_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::acquire(&path, LONG).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert!(matches!(
            Lock::acquire(&path, SHORT),
            Err(Error::Busy { .. })
        ));
        let shared = lock.share().unwrap();
        drop(lock);
        assert!(matches!(
            Lock::acquire(&path, SHORT),
            Err(Error::Busy { .. })
        ));
        drop(shared);
        Lock::acquire(&path, LONG).unwrap();
    }

    /// As a user of the node could before the folder was closed.
    #[test]
    fn who_holds_a_file_that_was_open_for_others_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let foreign = File::open(&path).unwrap();
        flock(&foreign, FlockOperation::LockExclusive).unwrap();
        let lock = Lock::acquire(&path, SHORT).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert!(matches!(
            Lock::acquire(&path, SHORT),
            Err(Error::Busy { .. })
        ));
        drop(lock);
        Lock::acquire(&path, SHORT).unwrap();
    }

    /// Many find the open file at once, and replace it at once: still one has it at a time.
    #[test]
    fn replacing_lets_in_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (path, counter) = (folder.path().join("lock"), folder.path().join("counter"));
        fs::write(&counter, "0").unwrap();
        let count = || -> u32 { fs::read_to_string(&counter).unwrap().parse().unwrap() };
        for _ in 0..20 {
            let _ = fs::remove_file(&path);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let _lock = Lock::acquire(&path, LONG).unwrap();
                        let before = count();
                        thread::yield_now();
                        fs::write(&counter, (before + 1).to_string()).unwrap();
                    });
                }
            });
        }
        assert_eq!(count(), 160);
        assert!(!draft(&path).exists());
    }

    #[test]
    fn what_is_no_file_is_refused_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        symlink(at("elsewhere"), at("link")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        for path in [at("fifo"), at("link"), at("folder"), "/dev/null".into()] {
            assert!(
                matches!(Lock::acquire(&path, LONG), Err(Error::Io { .. })),
                "{}",
                path.display()
            );
        }
        assert!(!at("elsewhere").exists());
    }
}
