//! One file of the record: JSON with a checksum, replaced as a whole.

use std::{fs, path::Path};

use azure_vnet_files::ReadError;
use crc::{CRC_32_ISO_HDLC, Crc, Table};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{Error, State};

/// Of the form of the file; a plugin that finds another one must not guess.
const VERSION: u32 = 1;

/// 250 pods and their pool take some 60 KiB.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// The CRC-32 of zlib and Ethernet. Sixteen bytes at a time: a record of 250 pods takes 30 µs.
static CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

/// The checksum is over the exact bytes of `state`.
#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    crc32: u32,
    state: Box<RawValue>,
}

/// Why a file is not a record.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("missing")]
    Missing,
    #[error("empty")]
    Empty,
    #[error("not JSON: {0}")]
    Json(String),
    #[error("of version {0}, which this plugin does not know")]
    Version(u32),
    #[error("damaged: its checksum is wrong")]
    Checksum,
    #[error(transparent)]
    Unfit(ReadError),
}

/// The state in `path`.
pub(super) fn read(path: &Path) -> Result<Result<State, Damage>, Error> {
    match azure_vnet_files::read_own(path, MAX_BYTES) {
        Ok(bytes) if bytes.is_empty() => Ok(Err(Damage::Empty)),
        Ok(bytes) => Ok(decode(&bytes)),
        Err(error) if error.is_missing() => Ok(Err(Damage::Missing)),
        Err(ReadError::Io(cause)) => Err(Error::io("read", path)(cause)),
        Err(unfit) => Ok(Err(Damage::Unfit(unfit))),
    }
}

/// Replaces `path`: after a crash at any point it has the old bytes or the new ones.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    azure_vnet_files::replace(path, bytes, 0o600).map_err(Error::io("write", path))
}

/// Removes what a writer of `path` left that was killed. Only for who has the lock; what cannot be removed is in the way
/// of the next writer, who says so.
pub(super) fn discard_draft(path: &Path) {
    let _ = fs::remove_file(azure_vnet_files::draft(path));
}

/// The bytes of a file with this state.
pub(super) fn encode(state: &State) -> serde_json::Result<Vec<u8>> {
    let state = to_raw_value(state)?;
    let envelope = Envelope {
        version: VERSION,
        crc32: CRC32.checksum(state.get().as_bytes()),
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
    if CRC32.checksum(envelope.state.get().as_bytes()) != envelope.crc32 {
        return Err(Damage::Checksum);
    }
    serde_json::from_str(envelope.state.get()).map_err(json)
}
