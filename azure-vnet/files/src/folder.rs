//! A folder of ours: nobody else sees what is in it.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use crate::advice;

/// Whoever may look into a folder can open its locks, and so hold them (`flock` asks for no right to write).
const MODE: u32 = 0o700;

/// Why a folder is not ours alone.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its meaning")]
pub enum Unsafe {
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

/// Makes the folder, and those above it, if it is not there. One that others have made, such as a `DaemonSet`'s
/// `DirectoryOrCreate` with 0755, is closed for them, and the log says so.
///
/// # Errors
/// It cannot be made or closed, or is somebody else's.
pub fn private_folder(path: &Path) -> Result<(), Unsafe> {
    let failed = |action| {
        move |cause| Unsafe::Io {
            action,
            path: path.to_owned(),
            cause,
        }
    };
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(MODE).create(path);
            made.map_err(failed("create"))?;
            fs::metadata(path)
        }
        there => there,
    };
    let metadata = metadata.map_err(failed("look at"))?;
    if !metadata.is_dir() {
        return Err(failed("create")(io::ErrorKind::NotADirectory.into()));
    }
    let owner = metadata.uid();
    if owner != geteuid().as_raw() {
        let path = path.to_owned();
        return Err(Unsafe::Owner { path, owner });
    }
    let mode = metadata.mode() & 0o7777;
    if mode == MODE {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))
        .map_err(failed("change the mode of"))?;
    // A umask that takes from the owner is our own folder's, just made.
    if mode & !MODE != 0 {
        let path = path.display();
        tracing::warn!("{path} was open for others (mode {mode:o}), and is not any more");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_is_made_closed_and_one_that_is_open_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        private_folder(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
        for before in [0o755, 0o777, 0o1777, 0o500, 0o711] {
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            private_folder(&path).unwrap();
            assert_eq!(mode(&path), 0o700, "{before:o}");
        }
    }

    #[test]
    fn what_is_no_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        assert!(matches!(private_folder(&path), Err(Unsafe::Io { .. })));
        assert!(matches!(
            private_folder(&path.join("a")),
            Err(Unsafe::Io { .. })
        ));
    }
}
