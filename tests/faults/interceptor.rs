//! Runs a program so that each of its system calls that matters, and those of every program it starts, waits for our decision:
//! let it go on, make it fail, or kill the process right there (seccomp's user notification, Linux 5.5).
//!
//! A kill before each call in turn covers every moment: between two such calls nothing changes that outlives the process.

mod filter;
mod waiting;

use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use azure_vnet_testbed::Vm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open,
};

pub use waiting::Waiting;

use filter::{filter, listen};

/// No call of a plugin may take longer, held up by us as it is.
const LIMIT: Duration = Duration::from_secs(90);

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel carries it out.
    GoOn,
    /// It is not carried out and returns this.
    Fail(Errno),
    /// It is not carried out: its process is killed with SIGKILL.
    Kill,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status 0.
    pub success: bool,
    /// SIGKILL.
    pub killed: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A program, and all that it is given.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its path.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, beside the search path.
    pub environment: Vec<(&'static str, String)>,
    /// What it reads.
    pub stdin: String,
}

/// Runs a program on `vm` to its end, and to that of everything it started. `decide` is asked about each system call.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of this stage where a plugin is started"
)]
pub fn run(vm: &Vm, what: &Command, decide: impl FnMut(&Waiting) -> Fate + Send) -> Ended {
    let (reader, writer) = pipe().unwrap();
    let filter = filter();
    let mut command = std::process::Command::new(&what.program);
    let variables = what.environment.iter();
    command
        .args(&what.arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .envs(variables.map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: `listen` makes system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(move || listen(writer.as_raw_fd(), &filter)) };
    thread::scope(|scope| {
        let watching = scope.spawn(|| watch(reader, decide));
        // The child's execve waits for a decision already, so this returns only once the watcher is at work.
        let mut child = vm.namespace().run(|| command.spawn()).unwrap().unwrap();
        drop(command);
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        // A plugin that is killed does not read its input.
        let _ = child.stdin.take().unwrap().write_all(what.stdin.as_bytes());
        let err = scope.spawn(move || {
            let mut text = String::new();
            let _ = err.read_to_string(&mut text);
            text
        });
        let mut stdout = String::new();
        let _ = out.read_to_string(&mut stdout);
        let status = child.wait().unwrap();
        watching
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ended {
            success: status.success(),
            killed: status.signal() == Some(libc::SIGKILL),
            stdout,
            stderr: err.join().unwrap(),
        }
    })
}

/// Decides until the last process with the filter is gone.
fn watch(mut reader: PipeReader, mut decide: impl FnMut(&Waiting) -> Fate) {
    let Some((main, listener)) = take_listener(&mut reader) else {
        return; // It never started, which `spawn` says.
    };
    let end = Instant::now() + LIMIT;
    let mut executed = false;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        let mut fds = [PollFd::new(&listener, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => panic!("a plugin that did not end within {LIMIT:?}"),
            Err(Errno::INTR) => continue,
            other => other.unwrap(),
        };
        let ready = fds[0].revents();
        if !ready.contains(PollFlags::IN) {
            return; // Hung up: nobody has the filter any more.
        }
        let Some(notification) = receive(&listener) else {
            continue;
        };
        let waiting = Waiting::new(main, &notification);
        // The program itself has to be started before it can be disturbed.
        let fate = if executed {
            decide(&waiting)
        } else {
            Fate::GoOn
        };
        executed |= waiting.number == libc::SYS_execve;
        answer(&listener, notification.id, &waiting, fate);
    }
}

fn take_listener(reader: &mut PipeReader) -> Option<(Pid, OwnedFd)> {
    let mut words = [0; 8];
    reader.read_exact(&mut words).ok()?;
    let word = |at: usize| i32::from_ne_bytes(words[at..at + 4].try_into().unwrap());
    let main = Pid::from_raw(word(0))?;
    let process = pidfd_open(main, PidfdFlags::empty()).unwrap();
    Some((
        main,
        pidfd_getfd(process, word(4), PidfdGetfdFlags::empty()).unwrap(),
    ))
}

/// The next call; none if its process was killed meanwhile.
fn receive(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    // SAFETY: all-zero is a value of this plain structure, and what the kernel asks for.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one `seccomp_notif`, which lives here.
    let received = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut notification,
        )
    };
    (received == 0).then_some(notification)
}

fn answer(listener: &OwnedFd, id: u64, waiting: &Waiting, fate: Fate) {
    // SAFETY: all-zero is a value of this plain structure.
    let mut response: libc::seccomp_notif_resp = unsafe { std::mem::zeroed() };
    response.id = id;
    match fate {
        Fate::GoOn => {
            response.flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap();
        }
        Fate::Fail(errno) => response.error = -errno.raw_os_error(),
        Fate::Kill => {
            let process = waiting.process().expect("the process that waits");
            kill_process(process, Signal::KILL).unwrap();
            return;
        }
    }
    // SAFETY: the request reads one `seccomp_notif_resp`. It fails where the process was killed meanwhile, which is fine.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const response,
        )
    };
}
