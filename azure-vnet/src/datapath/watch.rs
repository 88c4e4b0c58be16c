//! Hearing what the programs tell: the `events` ring buffer, for as long as the `watch` map says that somebody does.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use aya::maps::{Array, MapData, RingBuf};
use azure_vnet_abi::{Event, maps};

use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::maps::open;
use super::view;

/// For how long the programs go on telling after the last [`Watch::renew`].
const SECONDS: u32 = 5;

/// The ring buffer of one bridge. What was told before it was opened is in it, too; two watchers share what comes.
pub struct Watch {
    events: RingBuf<MapData>,
    until: Array<MapData, u32>,
}

impl Watch {
    /// Opens it. The programs tell nothing yet.
    pub fn open(bridge: &str) -> Result<Self, EbpfError> {
        let pins = Pins::of(bridge);
        Ok(Self {
            events: open(&pins, maps::EVENTS)?,
            until: open(&pins, maps::WATCH)?,
        })
    }

    /// Has the programs tell for some seconds more.
    pub fn renew(&mut self) -> Result<(), EbpfError> {
        let until = view::jiffies().wrapping_add(SECONDS * view::hz());
        // 0 means that nobody watches.
        self.until
            .set(0, until.max(1), 0)
            .map_err(|source| EbpfError::map(maps::WATCH, source))
    }

    /// The next event that has come.
    pub fn take(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        let bytes: &[u8] = &item;
        if bytes.len() != size_of::<Event>() {
            return None;
        }
        // SAFETY: an `Event` is plain integers and bytes, every pattern of which is a value, and the slice is as long
        // as one; it need not be aligned.
        Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring buffer owns the descriptor, and is borrowed for as long as the result is.
        unsafe { BorrowedFd::borrow_raw(self.events.as_raw_fd()) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Another watcher says so again within a second.
        let _ = self.until.set(0, 0, 0);
    }
}
