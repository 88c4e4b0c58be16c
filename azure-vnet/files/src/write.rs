//! Writing a file whole, with the mode that is meant.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// Where [`replace`] writes first. A killed call leaves it, and the next one writes over it. It is hidden, so that no runtime
/// takes it for a plugin, a configuration or a record.
pub fn draft(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    path.with_file_name(format!(".{}.new", name.display()))
}

/// Replaces a file whole: whoever reads it, and whenever the machine stops, it is the old one or the new one. Only one caller at a
/// time may write a path. Whatever stands at `path` but a folder is replaced, and not opened.
///
/// # Errors
/// It cannot be written; then the old one is there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = draft(path);
    // What a call left that was killed here, and whatever else it may be: it is not opened.
    match fs::remove_file(&new) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let replaced = write_new(&new, bytes, mode).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // It would keep the room that the next attempt needs.
        let _ = fs::remove_file(&new);
    }
    replaced?;
    // The rename itself is in the folder.
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn write_new(new: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode & 0o600)
        .open(new)?;
    file.write_all(bytes)?;
    // Not before it is whole, and in spite of the process's umask.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Opens a file to append to. If there is none it is made, with `mode`; one that is there keeps its own.
///
/// # Errors
/// It cannot be opened, or is no regular file: nothing is written into a FIFO or a device.
pub fn append(path: &Path, mode: u32) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(flags).mode(mode & 0o600);
    let new = options.clone().create_new(true).open(path);
    let file = match new {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(mode))?;
            file
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::metadata(path)?.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            options.open(path)?
        }
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_whatever_is_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        fs::write(&other, "other").unwrap();
        for before in ["none", "file", "link", "fifo"] {
            for at in [path.clone(), draft(&path)] {
                let _ = fs::remove_file(&at);
                match before {
                    "file" => fs::write(&at, "old").unwrap(),
                    "link" => symlink(&other, &at).unwrap(),
                    "fifo" => mknodat(CWD, &at, FileType::Fifo, Mode::RUSR, 0).unwrap(),
                    _ => {}
                }
            }
            for wanted in [0o600, 0o644, 0o755] {
                replace(&path, b"new", wanted).unwrap();
                assert_eq!(fs::read(&path).unwrap(), b"new", "{before}");
                assert_eq!(mode(&path), wanted, "{before}");
            }
            assert!(!draft(&path).exists());
        }
        assert_eq!(fs::read(&other).unwrap(), b"other");
    }

    #[test]
    fn appending_makes_a_file_and_nothing_else_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for text in ["a", "b"] {
            append(&at("log"), 0o640)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }
        assert_eq!(fs::read(at("log")).unwrap(), b"ab");
        assert_eq!(mode(&at("log")), 0o640);
        fs::set_permissions(at("log"), Permissions::from_mode(0o600)).unwrap();
        append(&at("log"), 0o640).unwrap();
        assert_eq!(mode(&at("log")), 0o600);
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [at("fifo"), "/dev/null".into(), folder.path().into()] {
            assert!(append(&path, 0o640).is_err(), "{}", path.display());
        }
    }
}
