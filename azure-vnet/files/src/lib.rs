//! Files of the node, for both plugins.
//!
//! What is read may be anything: a FIFO does not make a call wait, a device is not touched, and no file fills the memory.
//! What is written has the mode that is meant, under any umask and in a folder that somebody else has made.

mod advice;
mod folder;
mod lock;
mod read;
mod write;

pub use advice::advice;
pub use folder::{Unsafe, private_folder};
pub use lock::{Error as LockError, Lock};
pub use read::{Error as ReadError, read, read_end, read_own, read_text};
pub use write::{append, draft, replace};
