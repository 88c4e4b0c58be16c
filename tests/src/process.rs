//! Programs as the testbed runs them: in a namespace, with a time limit, and never outliving the thread that waits for them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
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
        let (program, limit, stdin) = (self.line.clone(), self.limit, self.stdin.clone());
        let mut running = self.start_piped()?;
        match running.converse(&stdin, limit) {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(Error::TimeLimit { program, limit }),
            Err(source) => Err(Error::Start { program, source }),
        }
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

impl Running {
    /// Writes its input and reads what it says until it ends; `None` when it still runs at the limit. What it wrote is in the
    /// pipes by then, and no end of file is waited for: a grandchild may keep them open.
    fn converse(&mut self, input: &[u8], limit: Duration) -> io::Result<Option<Output>> {
        let child = &mut self.child;
        let missing = || io::Error::other("a pipe is missing");
        let mut stdin = Some(child.stdin.take().ok_or_else(missing)?);
        let mut stdout = Pipe::of(child.stdout.take().ok_or_else(missing)?)?;
        let mut stderr = Pipe::of(child.stderr.take().ok_or_else(missing)?)?;
        let mut unwritten = input;
        if let Some(pipe) = &stdin {
            ioctl_fionbio(pipe, true)?;
        }
        let pid = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        let deadline = Instant::now() + limit;
        loop {
            // A program that does not read its input, or ends early, is not an error here.
            stdin = stdin.filter(|pipe| write_some(pipe, &mut unwritten));
            let has_ended = {
                let mut awaited = vec![PollFd::new(&pid, PollFlags::IN)];
                awaited.extend(stdin.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
                awaited.extend([&stdout, &stderr].into_iter().filter_map(Pipe::awaited));
                let left = deadline.saturating_duration_since(Instant::now());
                if poll(&mut awaited, Timespec::try_from(left).ok().as_ref())? == 0 {
                    return Ok(None);
                }
                !awaited[0].revents().is_empty()
            };
            stdout.read_what_is_there()?;
            stderr.read_what_is_there()?;
            if has_ended {
                return Ok(Some(Output {
                    status: child.wait()?,
                    stdout: stdout.text(),
                    stderr: stderr.text(),
                }));
            }
        }
    }
}

/// Writes what the pipe takes; whether there is more to write.
fn write_some(mut pipe: &ChildStdin, bytes: &mut &[u8]) -> bool {
    match pipe.write(bytes) {
        Ok(written) => *bytes = &bytes[written..],
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) => return false,
    }
    !bytes.is_empty()
}

/// What a program writes, as far as it was read.
struct Pipe {
    /// None after the end of file.
    end: Option<File>,
    bytes: Vec<u8>,
}

impl Pipe {
    fn of(end: impl Into<OwnedFd>) -> io::Result<Self> {
        let end = end.into();
        ioctl_fionbio(&end, true)?;
        Ok(Self {
            end: Some(end.into()),
            bytes: Vec::new(),
        })
    }

    fn awaited(&self) -> Option<PollFd<'_>> {
        let end = self.end.as_ref()?;
        Some(PollFd::new(end, PollFlags::IN))
    }

    fn read_what_is_there(&mut self) -> io::Result<()> {
        let Some(end) = &mut self.end else {
            return Ok(());
        };
        match end.read_to_end(&mut self.bytes) {
            Ok(_) => self.end = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn more_than_a_pipe_holds_goes_in_and_comes_out() {
        let much = "0123456789abcdef".repeat(1 << 16);
        let output = Program::new("cat").stdin(much.as_str()).output().unwrap();
        assert!(output.stdout == much, "{} bytes", output.stdout.len());
    }

    #[test]
    fn a_program_may_leave_its_input_unread() {
        let much = vec![b'x'; 1 << 20];
        let output = Program::new("true").stdin(much).output().unwrap();
        assert!(output.status.success());
    }

    #[test]
    fn what_a_program_leaves_behind_is_not_waited_for() {
        let output = Program::new("setsid")
            .args(["--fork", "sleep", "20.0625"])
            .limit(Duration::from_secs(10))
            .output();
        assert_eq!(output.unwrap().stdout, "");
    }

    #[test]
    fn the_limit_holds() {
        let sleep = Program::new("sleep").arg("100");
        let error = sleep.limit(Duration::from_millis(50)).output().unwrap_err();
        assert!(matches!(error, Error::TimeLimit { .. }), "{error}");
    }
}
