//! One child process: bytes in, bytes out, a limit on everything.
//!
//! A single poll loop instead of threads, because the plugins enter namespaces per thread; and a pidfd
//! (kernel 5.3) instead of waiting for the pipes, because a daemon left behind by the child may hold those.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

/// More than any result; less than what would hurt the node.
pub(super) const MAX_STDOUT: usize = 16 << 20;

/// How much of standard error is kept for an error message.
const STDERR_TAIL: usize = 4 << 10;

/// "Text file busy" while an installer replaces the plugin passes within moments.
const BUSY_RETRIES: u32 = 25;
const BUSY_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Finished {
    pub(super) ended: Ended,
    pub(super) stdout: Vec<u8>,
    /// The last few KiB; all of it has been forwarded to our own standard error.
    pub(super) stderr_tail: Vec<u8>,
}

pub(super) enum Ended {
    Exited(ExitStatus),
    /// And was killed.
    TimedOut,
    /// It did not end in time either, and cannot be killed.
    GivenUp,
    TooMuchOutput,
}

/// Runs `program` with these environment variables beside our own, and `input` on standard input.
pub(super) fn run(
    program: &Path,
    variables: &[(&str, String)],
    input: &[u8],
    limit: Duration,
) -> io::Result<Finished> {
    let deadline = Instant::now() + limit;
    let mut child = spawn(program, variables)?;
    let conversation = Conversation::new(&mut child, input);
    let outcome = conversation.and_then(|conversation| conversation.hold(deadline));
    // Killed also after an error of our own: nothing of this call may outlive it.
    let (stop, stdout, stderr_tail) = match outcome {
        Ok(outcome) => outcome,
        Err(cause) => {
            kill(&mut child);
            return Err(cause);
        }
    };
    let ended = match stop {
        Stop::Exit => Ended::Exited(child.wait()?),
        Stop::Deadline => {
            kill(&mut child);
            Ended::TimedOut
        }
        Stop::Overflow => {
            kill(&mut child);
            Ended::TooMuchOutput
        }
    };
    Ok(Finished {
        ended,
        stdout,
        stderr_tail,
    })
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one place where a plugin may be started"
)]
fn spawn(program: &Path, variables: &[(&str, String)]) -> io::Result<Child> {
    let mut retries = 0;
    loop {
        let child = Command::new(program)
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own group, so that its children end with it.
            .process_group(0)
            .spawn();
        match child {
            Err(cause)
                if cause.kind() == ErrorKind::ExecutableFileBusy && retries < BUSY_RETRIES =>
            {
                retries += 1;
                thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

fn kill(child: &mut Child) {
    if let Some(group) = pid_of(child) {
        // ESRCH: it ended meanwhile, which is what is wanted.
        let _ = kill_process_group(group, Signal::KILL);
    }
    // Reaps it; SIGKILL makes this wait short.
    let _ = child.wait();
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Why the conversation is over.
enum Stop {
    Exit,
    Deadline,
    Overflow,
}

/// The pipes to a running child.
struct Conversation<'a> {
    exit: OwnedFd,
    stdin: Option<ChildStdin>,
    unsent: &'a [u8],
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Vec<u8>,
    stderr_tail: Vec<u8>,
}

impl<'a> Conversation<'a> {
    fn new(child: &mut Child, input: &'a [u8]) -> io::Result<Self> {
        let pid = pid_of(child).ok_or_else(|| io::Error::other("the child has no process id"))?;
        let conversation = Conversation {
            exit: pidfd_open(pid, PidfdFlags::empty())?,
            stdin: child.stdin.take(),
            unsent: input,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            output: Vec::new(),
            stderr_tail: Vec::new(),
        };
        if let Some(pipe) = &conversation.stdin {
            set_nonblocking(pipe)?;
        }
        if let Some(pipe) = &conversation.stdout {
            set_nonblocking(pipe)?;
        }
        if let Some(pipe) = &conversation.stderr {
            set_nonblocking(pipe)?;
        }
        Ok(conversation)
    }

    /// Feeds and drains the child until it has exited or `deadline` has come.
    fn hold(mut self, deadline: Instant) -> io::Result<(Stop, Vec<u8>, Vec<u8>)> {
        let stop = loop {
            let Some(exited) = self.wait(deadline)? else {
                break Stop::Deadline;
            };
            self.send();
            // After the exit whatever is in the pipes is there already: one more pass takes all of it.
            self.receive()?;
            if self.output.len() > MAX_STDOUT {
                break Stop::Overflow;
            }
            if exited {
                break Stop::Exit;
            }
        };
        Ok((stop, self.output, self.stderr_tail))
    }

    /// Waits until something can be done; `None` at the deadline, `Some(true)` once the child has exited.
    fn wait(&self, deadline: Instant) -> io::Result<Option<bool>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = vec![PollFd::new(&self.exit, PollFlags::IN)];
        fds.extend(
            self.stdin
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::OUT)),
        );
        fds.extend(
            self.stdout
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
        );
        fds.extend(
            self.stderr
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
        );
        match poll(&mut fds, Some(&left)) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(!fds[0].revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok(Some(false)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn send(&mut self) {
        let Some(pipe) = &mut self.stdin else { return };
        match pipe.write(self.unsent) {
            Ok(count) => self.unsent = &self.unsent[count..],
            Err(cause) if is_transient(&cause) => {}
            // A plugin need not read its input; what it says about that is in its exit status.
            Err(_) => self.unsent = &[],
        }
        if self.unsent.is_empty() {
            self.stdin = None;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        if let Some(pipe) = &mut self.stdout
            && drain(pipe, |bytes| self.output.extend_from_slice(bytes))?
        {
            self.stdout = None;
        }
        if let Some(pipe) = &mut self.stderr
            && drain(pipe, |bytes| keep_tail(&mut self.stderr_tail, bytes))?
        {
            self.stderr = None;
        }
        Ok(())
    }
}

/// Forwards what the delegate logs, and keeps the end of it.
fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    // Without a standard error of our own there is nobody to forward to.
    let _ = io::stderr().write_all(bytes);
    tail.extend_from_slice(bytes);
    tail.drain(..tail.len().saturating_sub(STDERR_TAIL));
}

/// Takes what is in the pipe, at most 1 MiB at a time so that the deadline is looked at; true at its end.
fn drain(pipe: &mut impl Read, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut chunk = [0; 16 << 10];
    for _ in 0..64 {
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(true),
            Ok(count) => take(&chunk[..count]),
            Err(cause) if is_transient(&cause) => return Ok(false),
            Err(cause) => return Err(cause),
        }
    }
    Ok(false)
}

fn is_transient(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn set_nonblocking(pipe: &impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(pipe)?;
    Ok(fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?)
}
