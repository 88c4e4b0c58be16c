//! Standard input, with a limit on time and on size: no runtime can make a plugin hang or fill the memory.

use std::{
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read},
};

/// The largest configuration that is read. Runtimes put labels and annotations in it; 3 MB has been seen.
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// What was read from standard input, and why reading stopped.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: End,
}

#[derive(Debug)]
pub(crate) enum End {
    /// The writer closed its end: the configuration is whole.
    Closed,
    /// The writer was still holding it open after the limit.
    TimedOut(Duration),
    /// More than [`MAX_BYTES`].
    TooLarge,
    Failed(io::Error),
}

impl Input {
    /// Reads until the writer closes, `limit` has passed or the input is too large.
    pub(crate) fn read(fd: BorrowedFd<'_>, limit: Duration) -> Input {
        let deadline = Instant::now() + limit;
        let mut bytes = Vec::new();
        let end = loop {
            if bytes.len() > MAX_BYTES {
                break End::TooLarge;
            }
            match read_some(fd, &mut bytes, deadline) {
                Ok(Some(0)) => break End::Closed,
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break End::TimedOut(limit),
                Err(errno) => break End::Failed(errno.into()),
            }
        };
        Input { bytes, end }
    }
}

/// Waits for one read; `None` when the deadline came first.
fn read_some(
    fd: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    deadline: Instant,
) -> Result<Option<usize>, Errno> {
    let mut chunk = [0; 16 << 10];
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
    if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left))? == 0 {
        return Ok(None);
    }
    let count = read(fd, &mut chunk)?;
    bytes.extend_from_slice(&chunk[..count]);
    Ok(Some(count))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::{
        io::{Seek, Write},
        os::fd::AsFd,
    };

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn a_closed_pipe_gives_everything() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"{}").unwrap();
        drop(writer);
        let input = Input::read(reader.as_fd(), Duration::from_secs(5));
        assert_eq!(input.bytes, b"{}");
        assert!(matches!(input.end, End::Closed));
    }

    #[test]
    fn an_open_pipe_gives_what_is_there() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"{\"a\"").unwrap();
        let input = Input::read(reader.as_fd(), SHORT);
        assert_eq!(input.bytes, b"{\"a\"");
        assert!(matches!(input.end, End::TimedOut(_)));
    }

    #[test]
    fn endless_input_is_cut_off() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(MAX_BYTES as u64 * 2).unwrap();
        file.rewind().unwrap();
        let input = Input::read(file.as_fd(), Duration::from_mins(1));
        assert!(matches!(input.end, End::TooLarge));
        assert!(input.bytes.len() < MAX_BYTES + (1 << 20));
    }

    #[test]
    fn a_directory_is_an_error() {
        let directory = std::fs::File::open("/").unwrap();
        let input = Input::read(directory.as_fd(), SHORT);
        assert!(matches!(input.end, End::Failed(_)));
    }
}
