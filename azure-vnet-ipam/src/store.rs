//! The record of the addresses in use, shared by every call on this node.
//!
//! `ipam.lock` is locked (flock) while the record is read and written, and never across network I/O. The
//! record is kept twice, `ipam.json` and `ipam.json.backup`, each replaced by rename, the backup first. So
//! the backup is never older than the record, and falling back to it cannot forget an address that is in use,
//! as falling back to a previous generation would. Without either, the record is made again from what the node
//! shows ([`heal`]); files that could not be read are kept under `….damaged`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use azure_vnet_cni::delegate::is_given_up;
use azure_vnet_files::{Lock, LockError};
use rustix::{
    fs::{Access, access},
    io::Errno,
};

use crate::{
    pool::{Key, Lease, Pool},
    warn,
};

mod attachments;
mod document;
mod error;
mod heal;
mod original;
mod state;

pub use error::Error;
pub use state::{State, now};

use document::Damage;

/// A critical section takes about a millisecond; this is thousands of pods at once, or a stopped process.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// A new one at every boot, random (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The directory that holds the record.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// The record while nobody else can have it.
#[derive(Debug)]
pub struct Locked {
    pub state: State,
    dir: PathBuf,
    healing: Healing,
    /// Unlocked when dropped, by the kernel if we die.
    _lock: Lock,
}

/// What was wrong with the files.
#[derive(Debug, Default)]
struct Healing {
    /// Those that are in the way and are not a record.
    damaged: Vec<PathBuf>,
    /// What to say of it.
    notice: Option<String>,
}

impl Store {
    pub fn new(dir: &Path) -> Self {
        Store { dir: dir.into() }
    }

    /// Whether any call, of this plugin or the original one, has ever recorded something here.
    pub fn exists(&self) -> bool {
        self.dir.exists() || original::exists(&self.dir)
    }

    /// Whether there is a record.
    pub fn is_begun(&self) -> bool {
        record_path(&self.dir).exists() || backup_path(&self.dir).exists()
    }

    /// Reads the record without the lock. As it is replaced as a whole, it is what was true a moment ago.
    pub fn read(&self) -> Result<State, Error> {
        let (state, healing) = read(&self.dir)?;
        healing.notice.iter().for_each(warn);
        Ok(state)
    }

    /// Whether an ADD could record anything.
    pub fn is_writable(&self) -> Result<(), Error> {
        match access(&self.dir, Access::WRITE_OK) {
            // The ADD makes it.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io("write to", &self.dir)(errno.into())),
        }
    }

    /// What the original plugin has given to pods that live.
    pub fn of_original(&self) -> Vec<Lease> {
        original::leases(&self.dir)
    }

    /// The attachments of the network plugin whose pods are gone, without a DEL.
    pub fn gone(&self) -> BTreeSet<Key> {
        let gone = attachments::all(&self.dir).filter(attachments::Attachment::is_gone);
        gone.map(|attachment| attachment.key()).collect()
    }

    /// Locks and reads the record, which is empty at first and after a boot.
    pub fn lock(&self) -> Result<Locked, Error> {
        self.lock_within(LOCK_LIMIT)
    }

    /// Waits until no other call asks the source, for at most `limit`: then two ask, which does no harm.
    pub fn turn(&self, limit: Duration) -> Result<Option<Lock>, Error> {
        self.create()?;
        match Lock::acquire(&self.dir.join("ipam.ask.lock"), limit) {
            Ok(turn) => Ok(Some(turn)),
            Err(LockError::Busy { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn lock_within(&self, limit: Duration) -> Result<Locked, Error> {
        self.create()?;
        let lock = Lock::acquire(&self.dir.join("ipam.lock"), limit)?;
        // Whoever called may have taken everything back by now.
        if is_given_up() {
            return Err(Error::GivenUp);
        }
        for path in [record_path(&self.dir), backup_path(&self.dir)] {
            document::discard_draft(&path);
        }
        let (state, healing) = read(&self.dir)?;
        Ok(Locked {
            state,
            dir: self.dir.clone(),
            healing,
            _lock: lock,
        })
    }

    /// Makes sure that only root can look and write here: whoever can write gives a pod another pod's address, and whoever can
    /// look can hold the lock.
    fn create(&self) -> Result<(), Error> {
        Ok(azure_vnet_files::private_folder(&self.dir)?)
    }
}

impl Locked {
    /// Whether the record is better than what is on disk.
    pub fn is_healed(&self) -> bool {
        self.healing.notice.is_some()
    }

    /// Makes the state the record, on disk when this returns.
    pub fn commit(&mut self) -> Result<(), Error> {
        let (record, backup) = (record_path(&self.dir), backup_path(&self.dir));
        self.state.generation += 1;
        let bytes = document::encode(&self.state)
            .map_err(|cause| Error::io("encode", &record)(cause.into()))?;
        for path in &self.healing.damaged {
            keep_aside(path)?;
        }
        // It is not looked at as long as the record is good.
        if backup.is_dir() {
            keep_aside(&backup)?;
        }
        let written =
            document::write(&backup, &bytes).and_then(|()| document::write(&record, &bytes));
        match written {
            Err(error) if error.is_full() => {
                warn(format_args!(
                    "{error}; going on with one copy of the record"
                ));
                // It would not be as new as the record from now on; and the record may fit into its room.
                let _ = fs::remove_file(&backup);
                document::write(&record, &bytes)
            }
            written => written,
        }?;
        std::mem::take(&mut self.healing)
            .notice
            .iter()
            .for_each(warn);
        Ok(())
    }
}

fn record_path(dir: &Path) -> PathBuf {
    dir.join("ipam.json")
}

fn backup_path(dir: &Path) -> PathBuf {
    dir.join("ipam.json.backup")
}

/// The state, and how it had to be had.
fn read(dir: &Path) -> Result<(State, Healing), Error> {
    let boot_id = boot_id()?;
    let (mut damaged, mut problems) = (Vec::new(), Vec::new());
    for path in [record_path(dir), backup_path(dir)] {
        match document::read(&path)? {
            Ok(state) => {
                let notice = problems.pop();
                let notice = notice.map(|problem: String| problem + "; going on with its backup");
                return Ok((state.in_boot(boot_id), Healing { damaged, notice }));
            }
            Err(damage) => {
                problems.push(format!("{} is {damage}", path.display()));
                if !matches!(damage, Damage::Missing) {
                    damaged.push(path);
                }
            }
        }
    }
    let leases = heal::leases(dir, &damaged, &boot_id);
    // Both are missing before the first ADD.
    let notice = (!damaged.is_empty() || !leases.is_empty()).then(|| {
        let (problems, count) = (problems.join(" and "), leases.len());
        format!("{problems}; made the record of pod addresses again: {count} in use")
    });
    let state = State {
        boot_id,
        pool: Pool::of_leases(leases),
        ..State::default()
    };
    Ok((state, Healing { damaged, notice }))
}

/// Keeps what a file holds for whoever wants to know what happened. The file itself stays until it is replaced.
fn keep_aside(path: &Path) -> Result<(), Error> {
    let aside = path.with_added_extension("damaged");
    let _ = fs::remove_file(&aside);
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        // No rename of a file replaces a directory.
        return fs::rename(path, &aside).map_err(Error::io("move away", path));
    }
    // Not all file systems have links, and not having the copy is no reason to refuse a pod.
    let _ = fs::hard_link(path, &aside);
    Ok(())
}

fn boot_id() -> Result<String, Error> {
    let path = Path::new(BOOT_ID);
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
