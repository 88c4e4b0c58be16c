//! Programs as the testbed runs them: in a namespace, with a time limit, and never outliving the thread that waits for them.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

/// How long a program may take unless it was given another limit.
const LIMIT: Duration = Duration::from_mins(1);

/// What went wrong with a program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started or watched.
    #[error("cannot run `{program}`: is it installed?")]
    Start {
        /// The command line.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ran for longer than it may, and was killed.
    #[error("`{program}` did not end within {limit:?} and was killed")]
    TimeLimit {
        /// The command line.
        program: String,
        /// The limit that was exceeded.
        limit: Duration,
    },
    /// It ended with another status than 0.
    #[error("`{program}` failed ({status}): {stderr}")]
    Status {
        /// The command line.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote on standard error, or on standard output when that was empty.
        stderr: String,
    },
}

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A program that has not been started yet.
#[derive(Debug)]
pub struct Program {
    command: Command,
    line: String,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Program {
    /// A program that inherits the whole environment. It is killed when the thread that started it ends.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the testbed that runs programs"
    )]
    pub fn new(name: &str) -> Self {
        let command = Command::new(name);
        Self {
            command,
            line: name.to_owned(),
            stdin: Vec::new(),
            limit: LIMIT,
        }
        .before_exec(|| {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        })
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.line = format!("{} {}", self.line, arg.as_ref().display());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable beside the inherited ones.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// What the program reads on standard input; nothing unless this is called.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long the program may take, 60 s unless this is called.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Adds a step between fork and exec. It may make system calls and nothing else: no allocation, no lock.
    pub(crate) fn before_exec(
        mut self,
        step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        // SAFETY: every step given in this crate consists of prctl and setns calls on descriptors it owns, and these are
        // async-signal-safe.
        unsafe { self.command.pre_exec(step) };
        self
    }

    /// Runs the program to its end, whatever its exit status.
    pub fn output(self) -> Result<Output, Error> {
        let (line, limit, stdin) = (self.line.clone(), self.limit, self.stdin.clone());
        let failed = |source| Error::Start {
            program: line.clone(),
            source,
        };

        let mut running = self.start_piped()?;
        let (Some(mut input), Some(stdout), Some(stderr)) = (
            running.child.stdin.take(),
            running.child.stdout.take(),
            running.child.stderr.take(),
        ) else {
            return Err(failed(io::Error::other("a pipe is missing")));
        };
        let (stdout, stderr) = (read_aside(stdout), read_aside(stderr));
        // A program that does not read its input, or ends early, is not an error here.
        let _ = input.write_all(&stdin);
        drop(input);

        let Some(status) = running.wait(limit).map_err(failed)? else {
            return Err(Error::TimeLimit {
                program: line,
                limit,
            });
        };
        Ok(Output {
            status,
            stdout: collected(&stdout),
            stderr: collected(&stderr),
        })
    }

    /// Runs the program to its end and returns its standard output; any exit status but 0 is an error.
    pub fn checked(self) -> Result<String, Error> {
        let program = self.line.clone();
        let Output {
            status,
            stdout,
            stderr,
        } = self.output()?;
        if status.success() {
            return Ok(stdout);
        }
        let stderr = if stderr.trim().is_empty() {
            stdout
        } else {
            stderr
        }
        .trim()
        .to_owned();
        Err(Error::Status {
            program,
            status,
            stderr,
        })
    }

    /// Starts the program with its input and output discarded, and lets it run until the value is dropped.
    pub fn start(mut self) -> Result<Running, Error> {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.spawn()
    }

    fn start_piped(mut self) -> Result<Running, Error> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.spawn()
    }

    fn spawn(mut self) -> Result<Running, Error> {
        let child = self.command.spawn().map_err(|source| Error::Start {
            program: self.line,
            source,
        })?;
        Ok(Running { child })
    }
}

/// A program that runs, and is killed and waited for when this value is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// The process id, in the pid namespace of the caller.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end, at most for `limit`; `None` when the program still runs then.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let pid = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        let ended = poll(
            &mut [PollFd::new(&pid, PollFlags::IN)],
            Timespec::try_from(limit).ok().as_ref(),
        )? > 0;
        if ended {
            self.child.wait().map(Some)
        } else {
            Ok(None)
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end on a thread of its own, so that a full pipe never blocks the program.
fn read_aside(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// What was read. A grandchild that keeps the pipe open must not keep the testbed waiting, hence the limit.
fn collected(pipe: &Receiver<Vec<u8>>) -> String {
    let bytes = pipe
        .recv_timeout(Duration::from_secs(2))
        .unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
