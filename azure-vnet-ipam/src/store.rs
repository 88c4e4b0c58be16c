//! The record of the addresses in use, shared by every call on this node.
//!
//! `ipam.lock` is locked (flock) while the record is read and written, and never across network I/O. The
//! record is kept twice, `ipam.json` and `ipam.json.backup`, each replaced by rename, the backup first. So
//! the backup is never older than the record, and falling back to it cannot forget an address that is in use,
//! as falling back to a previous generation would.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    pool::{Pool, Subnet},
    warn,
};

mod document;
mod lock;

/// A critical section takes about a millisecond; this is hundreds of pods at once, or a stopped process.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// A new one at every boot, random (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The directory that holds the record.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

/// What is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    boot_id: String,
    /// Counts the writes.
    generation: u64,
    /// When the source was last asked, with or without success; seconds since 1970.
    pub asked_at: u64,
    /// When it last answered; 0 if it never has.
    pub fetched_at: u64,
    pub pool: Pool,
}

/// The record while nobody else can have it.
#[derive(Debug)]
pub struct Locked {
    pub state: State,
    dir: PathBuf,
    /// Unlocked when closed, by the kernel if we die.
    _lock: File,
}

/// Why the record cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} is locked by another process for more than {limit:?}; try again", path.display())]
    Busy { path: PathBuf, limit: Duration },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "the record of pod addresses, {}, and its backup are both damaged ({record}; {backup}), so nobody \
         knows which addresses are in use; drain this node, remove both files, and let the pods come back",
        path.display()
    )]
    Unreadable {
        path: PathBuf,
        record: document::Damage,
        backup: document::Damage,
    },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |cause| Error::Io {
            action,
            path,
            cause,
        }
    }
}

impl Store {
    pub fn new(dir: &Path) -> Self {
        Store { dir: dir.into() }
    }

    /// Whether any call has ever recorded something here.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Whether there is a record.
    pub fn is_begun(&self) -> bool {
        record_path(&self.dir).exists() || backup_path(&self.dir).exists()
    }

    /// Reads the record without the lock. As it is replaced as a whole, it is what was true a moment ago.
    pub fn read(&self) -> Result<State, Error> {
        Ok(read(&self.dir)?.in_boot(boot_id()?))
    }

    /// Locks and reads the record, which is empty at first and after a boot.
    pub fn lock(&self) -> Result<Locked, Error> {
        self.lock_within(LOCK_LIMIT)
    }

    fn lock_within(&self, limit: Duration) -> Result<Locked, Error> {
        // Root's alone: whoever can write here can give a pod another pod's address.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(Error::io("create", &self.dir))?;
        let lock = lock::acquire(&self.dir.join("ipam.lock"), limit)?;
        Ok(Locked {
            state: self.read()?,
            dir: self.dir.clone(),
            _lock: lock,
        })
    }
}

impl Locked {
    /// Makes the state the record, on disk when this returns.
    pub fn commit(&mut self) -> Result<(), Error> {
        self.state.generation += 1;
        document::write(&backup_path(&self.dir), &self.state)?;
        document::write(&record_path(&self.dir), &self.state)
    }
}

impl State {
    /// Whether the source should be asked again: never asked, longer ago than `interval`, or the clock jumped.
    pub fn is_due(&self, now: u64, interval: Duration) -> bool {
        !self.has_snapshot() || now < self.asked_at || now - self.asked_at >= interval.as_secs()
    }

    /// Whether the source has ever answered.
    pub fn has_snapshot(&self) -> bool {
        self.fetched_at != 0
    }

    /// Takes over an answer to a question of `asked_at`, unless another call has had a later one.
    pub fn learn(&mut self, subnets: Vec<Subnet>, asked_at: u64) {
        if asked_at >= self.fetched_at {
            self.pool.refresh(subnets);
            self.asked_at = asked_at;
            self.fetched_at = asked_at;
        }
    }

    /// The state as it is in this boot: pods do not survive one.
    fn in_boot(mut self, boot_id: String) -> State {
        if self.boot_id != boot_id {
            self.pool.release_all();
            self.boot_id = boot_id;
        }
        self
    }
}

/// Seconds of the wall clock since 1970; it outlives the process, and a jump of it costs one question.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn record_path(dir: &Path) -> PathBuf {
    dir.join("ipam.json")
}

fn backup_path(dir: &Path) -> PathBuf {
    dir.join("ipam.json.backup")
}

fn read(dir: &Path) -> Result<State, Error> {
    let path = record_path(dir);
    let record = match document::read(&path)? {
        Ok(Some(state)) => return Ok(state),
        Ok(None) => None,
        Err(damage) => Some(damage),
    };
    match (record, document::read(&backup_path(dir))?) {
        (None, Ok(None)) => Ok(State::default()),
        (record, Ok(Some(state))) => {
            let why = record.map_or("missing".to_owned(), |damage| damage.to_string());
            warn(format_args!(
                "{} is {why}; going on with its backup",
                path.display()
            ));
            Ok(state)
        }
        (record, Err(backup)) => Err(Error::Unreadable {
            path,
            record: record.unwrap_or(document::Damage::Missing),
            backup,
        }),
        (Some(record), Ok(None)) => Err(Error::Unreadable {
            path,
            record,
            backup: document::Damage::Missing,
        }),
    }
}

fn boot_id() -> Result<String, Error> {
    let path = Path::new(BOOT_ID);
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
