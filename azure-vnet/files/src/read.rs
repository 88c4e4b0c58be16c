//! Reading a file that may be anything.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::{fs::OFlags, io::Errno, process::geteuid};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its meaning")]
pub enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    NotRegular,
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    #[error("not text in UTF-8")]
    NotText,
    #[error("a symbolic link")]
    Link,
    #[error("not ours: it belongs to user {0}")]
    Owner(u32),
    #[error("not ours alone: others may write it (mode {0:o})")]
    Mode(u32),
}

impl Error {
    /// Whether there is nothing at the path.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Io(cause) if cause.kind() == io::ErrorKind::NotFound)
    }
}

/// All of it, if it is a regular file of at most `limit` bytes, or a link to one.
///
/// # Errors
/// It is something else, larger, or cannot be read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    // A device is not even opened: that alone makes some of them do something.
    if !fs::metadata(path)?.is_file() {
        return Err(Error::NotRegular);
    }
    read_all(open(path, OFlags::empty())?, limit)
}

/// The same as text.
///
/// # Errors
/// As for [`read`], and it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String, Error> {
    String::from_utf8(read(path, limit)?).map_err(|_| Error::NotText)
}

/// As [`read`], but of a larger file its last `limit` bytes, such as of a log.
///
/// # Errors
/// It is something else, or cannot be read.
pub fn read_end(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    if !fs::metadata(path)?.is_file() {
        return Err(Error::NotRegular);
    }
    let mut file = open(path, OFlags::empty())?;
    let length = file.metadata()?.len();
    if length > limit {
        file.seek(SeekFrom::Start(length - limit))?;
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same for a file that nobody else can have written: no link, ours, not writable for others.
///
/// # Errors
/// As for [`read`], and others can have written it.
pub fn read_own(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Err(Error::Link);
    }
    if !kind.is_file() {
        return Err(Error::NotRegular);
    }
    let file = open(path, OFlags::NOFOLLOW).map_err(|error| match error {
        Error::Io(cause) if Errno::from_io_error(&cause) == Some(Errno::LOOP) => Error::Link,
        other => other,
    })?;
    let metadata = file.metadata()?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(Error::Owner(metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(Error::Mode(metadata.mode() & 0o7777));
    }
    read_all(file, limit)
}

/// Without waiting for the writer of a FIFO that has come since.
fn open(path: &Path, flags: OFlags) -> Result<File, Error> {
    let flags = (flags | OFlags::NONBLOCK | OFlags::NOCTTY)
        .bits()
        .cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(Error::NotRegular)
    }
}

fn read_all(file: File, limit: u64) -> Result<Vec<u8>, Error> {
    // Room for all of it and for the end, so that it comes in one read; `limit` says how much may come.
    let size = file.metadata()?.len().min(limit) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    let mut file = file.take(limit + 1);
    file.read_to_end(&mut bytes)?;
    match file.limit() {
        0 => Err(Error::TooLarge(limit)),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    };

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink(at("fifo"), at("link")).unwrap();
        for path in [
            at("fifo"),
            at("socket"),
            at("folder"),
            "/dev/zero".into(),
            at("link"),
        ] {
            let error = read(&path, 10).unwrap_err();
            assert!(
                matches!(error, Error::NotRegular),
                "{}: {error}",
                path.display()
            );
        }
        for path in [at("fifo"), at("socket"), at("folder"), "/dev/zero".into()] {
            for error in [read_own(&path, 10), read_end(&path, 10)].map(Result::unwrap_err) {
                assert!(
                    matches!(error, Error::NotRegular),
                    "{}: {error}",
                    path.display()
                );
            }
        }
        assert!(read(&at("none"), 10).unwrap_err().is_missing());
        assert!(read_own(&at("none"), 10).unwrap_err().is_missing());
    }

    #[test]
    fn a_file_has_a_limit_and_an_owner() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&path, "0123456789").unwrap();
        symlink(&path, &link).unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read_text(&link, 10).unwrap(), "0123456789");
        assert!(matches!(read(&path, 9), Err(Error::TooLarge(9))));
        assert_eq!(read_end(&path, 4).unwrap(), b"6789");
        assert_eq!(read_end(&link, 11).unwrap(), b"0123456789");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read_own(&path, 10).unwrap(), b"0123456789");
        assert!(matches!(read_own(&link, 10), Err(Error::Link)));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(read_own(&path, 10), Err(Error::Mode(0o666))));
        fs::write(&path, b"\xff").unwrap();
        assert!(matches!(read_text(&path, 10), Err(Error::NotText)));
    }
}
