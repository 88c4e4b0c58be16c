//! A system call that waits, and the memory and descriptors of its caller.

use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// A system call that waits.
pub struct Waiting {
    /// The thread that made it.
    pub thread: i32,
    /// The process that was started first.
    pub main: Pid,
    /// Which system call.
    pub number: libc::c_long,
    /// Its arguments.
    pub arguments: [u64; 6],
    memory: Option<File>,
}

impl Waiting {
    pub fn new(main: Pid, notification: &libc::seccomp_notif) -> Self {
        let thread = i32::try_from(notification.pid).unwrap();
        Self {
            thread,
            main,
            number: notification.data.nr.into(),
            arguments: notification.data.args,
            memory: File::open(format!("/proc/{thread}/mem")).ok(),
        }
    }

    /// Bytes of the caller's memory; fewer where it ends.
    pub fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = self
            .memory
            .as_ref()
            .and_then(|memory| memory.read_at(&mut bytes, at).ok());
        bytes.truncate(read.unwrap_or_default());
        bytes
    }

    /// A text of the caller's memory.
    pub fn text(&self, at: u64) -> String {
        let bytes = self.bytes(at, 256);
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// A number of the caller's memory.
    pub fn word(&self, at: u64) -> u64 {
        let bytes = self.bytes(at, 8);
        bytes.try_into().map_or(0, u64::from_ne_bytes)
    }

    /// Where a descriptor of the caller leads.
    pub fn file(&self, descriptor: u64) -> String {
        let descriptor = descriptor & 0xffff_ffff;
        let link = std::fs::read_link(format!("/proc/{}/fd/{descriptor}", self.thread));
        link.map_or_else(|_| String::new(), |path| path.display().to_string())
    }

    /// A copy of a descriptor of the caller.
    pub fn descriptor(&self, descriptor: u64) -> Option<OwnedFd> {
        let process = pidfd_open(self.process()?, PidfdFlags::empty()).ok()?;
        let descriptor = RawFd::try_from(descriptor).ok()?;
        pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()).ok()
    }

    /// The name of the caller's program.
    pub fn program(&self) -> String {
        let process = self.process().map_or(self.thread, Pid::as_raw_pid);
        let name = std::fs::read_to_string(format!("/proc/{process}/comm"));
        name.unwrap_or_default().trim().to_owned()
    }

    /// Writes a type that no kernel knows into the header of the netlink message at `at`.
    pub fn spoil(&self, at: u64) {
        let path = format!("/proc/{}/mem", self.thread);
        let memory = File::options().write(true).open(path);
        // nlmsg_type is behind nlmsg_len; RTM_MAX is far below this.
        let spoilt = memory.and_then(|memory| memory.write_at(&0x0ff0_u16.to_ne_bytes(), at + 4));
        assert_eq!(spoilt.ok(), Some(2), "cannot spoil a message");
    }

    /// The process whose thread waits.
    pub fn process(&self) -> Option<Pid> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.thread)).ok()?;
        let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        Pid::from_raw(group.trim().parse().ok()?)
    }
}
