//! One file of the record: JSON with a checksum, replaced as a whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{Error, State};

/// Of the form of the file; a plugin that finds another one must not guess.
const VERSION: u32 = 1;

/// The checksum is over the exact bytes of `state`.
#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    crc32: u32,
    state: Box<RawValue>,
}

/// Why a file is not a record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("missing")]
    Missing,
    #[error("not JSON: {0}")]
    Json(String),
    #[error("of version {0}, which this plugin does not know")]
    Version(u32),
    #[error("damaged: its checksum is wrong")]
    Checksum,
}

/// The state in `path`; `None` if the file is missing or empty.
pub(super) fn read(path: &Path) -> Result<Result<Option<State>, Damage>, Error> {
    match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Ok(Ok(None)),
        Ok(bytes) => Ok(decode(&bytes).map(Some)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Ok(None)),
        Err(cause) => Err(Error::io("read", path)(cause)),
    }
}

/// Replaces `path`: after a crash at any point it has the old bytes or the new ones.
pub(super) fn write(path: &Path, state: &State) -> Result<(), Error> {
    let bytes = encode(state).map_err(|cause| Error::io("encode", path)(cause.into()))?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(Error::io("create", &new))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", &new))?;
    fs::rename(&new, path).map_err(Error::io("replace", path))?;
    // The rename itself is in the directory.
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("sync", dir))
}

fn encode(state: &State) -> serde_json::Result<Vec<u8>> {
    let state = to_raw_value(state)?;
    let envelope = Envelope {
        version: VERSION,
        crc32: crc32fast::hash(state.get().as_bytes()),
        state,
    };
    let mut bytes = serde_json::to_vec(&envelope)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<State, Damage> {
    let json = |cause: serde_json::Error| Damage::Json(cause.to_string());
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(json)?;
    if envelope.version != VERSION {
        return Err(Damage::Version(envelope.version));
    }
    if crc32fast::hash(envelope.state.get().as_bytes()) != envelope.crc32 {
        return Err(Damage::Checksum);
    }
    serde_json::from_str(envelope.state.get()).map_err(json)
}
