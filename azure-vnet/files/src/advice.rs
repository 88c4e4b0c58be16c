//! What to do about an error of the kernel's.

use std::io;

use rustix::io::Errno;

/// What to do, where the kernel's words do not say it; the rest of a sentence, or nothing.
pub fn advice(cause: &io::Error) -> &'static str {
    match Errno::from_io_error(cause) {
        Some(Errno::NOSPC | Errno::DQUOT) => "; make room there",
        Some(Errno::ROFS) => "; mount it writable",
        Some(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::LOOP | Errno::NXIO) => {
            "; remove what is in its place"
        }
        _ => "",
    }
}
