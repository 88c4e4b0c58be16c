//! A log file that many short processes append to, and of which there is never more than twice the limit.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Bytes after which the file is set aside; the one set aside before goes.
const LIMIT: u64 = 5 << 20;

/// Others that rotate at the same moment have done it when this has been tried so often.
const TRIES: usize = 3;

/// Opens the file to append to, after setting it aside if it is too long.
pub fn open(path: &Path) -> io::Result<File> {
    open_within(path, LIMIT)
}

fn open_within(path: &Path, limit: u64) -> io::Result<File> {
    for _ in 0..TRIES {
        let file = append(path)?;
        if file.metadata()?.len() < limit || !set_aside(path, &file)? {
            return Ok(file);
        }
    }
    append(path)
}

/// Not for everybody: container IDs and addresses are in it.
fn append(path: &Path) -> io::Result<File> {
    azure_vnet_files::append(path, 0o640)
}

/// Renames `file`, unless somebody is at it: then writing on into the long one does no harm. Says whether `path` is
/// to be opened again.
///
/// The lock is on the file itself, and under it `path` is looked at again: of two processes that found the same long
/// file, the second must not set the new, short one aside, and so lose the long one.
fn set_aside(path: &Path, file: &File) -> io::Result<bool> {
    if flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    let at_path = match path.metadata() {
        Ok(at_path) => at_path,
        // Set aside by another, who has not opened a new one yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mine = file.metadata()?;
    if (mine.dev(), mine.ino()) == (at_path.dev(), at_path.ino()) {
        std::fs::rename(path, aside(path))?;
    }
    Ok(true)
}

fn aside(path: &Path) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::io::Write as _;

    const LINE: &str = "0123456789abcdef\n";

    #[test]
    fn a_long_file_is_set_aside_and_the_one_before_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for line in 0..10 {
            let mut file = open_within(&path, 40).unwrap();
            writeln!(file, "{line:016}").unwrap();
        }
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&path), "0000000000000009\n");
        assert_eq!(
            read(&aside(&path)),
            "0000000000000006\n0000000000000007\n0000000000000008\n"
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn one_that_another_has_just_set_aside_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = append(&path).unwrap();
        std::fs::rename(&path, aside(&path)).unwrap();
        assert!(set_aside(&path, &file).unwrap());
        assert!(aside(&path).exists());
    }

    /// With a limit that is reached once, many writers at a time lose no line and tear none.
    #[test]
    fn many_at_once_lose_nothing() {
        const WRITERS: usize = 8;
        const LINES: usize = 200;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let limit = u64::try_from(WRITERS * LINES * LINE.len() * 2 / 3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    for _ in 0..LINES {
                        // Opened for each, as by a process of its own.
                        open_within(&path, limit)
                            .unwrap()
                            .write_all(LINE.as_bytes())
                            .unwrap();
                    }
                });
            }
        });
        let texts = [&path, &aside(&path)].map(|path| std::fs::read_to_string(path).unwrap());
        let lines = texts.iter().flat_map(|text| text.split_inclusive('\n'));
        assert_eq!(
            lines.inspect(|line| assert_eq!(*line, LINE)).count(),
            WRITERS * LINES
        );
    }
}
