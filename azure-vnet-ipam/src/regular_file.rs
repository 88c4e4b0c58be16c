//! Reading a file that may be anything: nothing here hangs on a FIFO or fills the memory.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::{fs::OFlags, io::Errno, process::geteuid};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    NotRegular,
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    #[error("a symbolic link")]
    Link,
    #[error("not ours: it belongs to user {0}")]
    Owner(u32),
    #[error("not ours alone: others may write it (mode {0:o})")]
    Mode(u32),
}

/// All of it, if it is a regular file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    read_all(open(path, OFlags::empty())?, limit)
}

/// The same for a file that nobody else can have written: no link, ours, not writable for others.
pub fn read_own(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
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

/// Without waiting for the writer of a FIFO.
fn open(path: &Path, flags: OFlags) -> Result<File, Error> {
    let flags = (flags | OFlags::NONBLOCK).bits().cast_signed();
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
