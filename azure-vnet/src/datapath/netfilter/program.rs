//! The programs of netfilter: run to their end, without a shell, never for longer than a limit.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long one transaction may take. The kernel's part takes milliseconds; iptables may wait for another iptables.
const LIMIT: Duration = Duration::from_secs(20);

/// Why the netfilter tier cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    /// A name that the rules' syntax has no form for.
    #[error("interface name {0:?} cannot be written in a rule")]
    Name(String),
    /// None of the programs is there.
    #[error(
        "neither nft (package nftables) nor iptables-restore and iptables-save (package iptables) are there"
    )]
    NoProgram,
    /// The program could not be run, or what it said could not be read.
    #[error("cannot run {program}{}", package(program))]
    Run {
        /// Its name.
        program: String,
        /// What happened.
        source: io::Error,
    },
    /// The program did not end.
    #[error("{program} did not end within {} s", LIMIT.as_secs())]
    TimedOut {
        /// Its name.
        program: String,
    },
    /// The kernel did not take the rules.
    #[error("{program} ended with {status}: {stderr}")]
    Refused {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
}

impl NetfilterError {
    /// What befell `program`.
    pub fn of<E: Into<io::Error>>(program: &str) -> impl FnOnce(E) -> Self {
        let program = program.to_owned();
        move |source| Self::Run {
            program,
            source: source.into(),
        }
    }
}

fn package(program: &str) -> &'static str {
    match program {
        "nft" => " (package nftables)",
        _ if program.starts_with("ebtables") => " (package ebtables)",
        _ => " (package iptables)",
    }
}

/// Whether `program` would be found.
pub fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Runs a program that changes or lists rules, without a shell.
pub fn execute(
    program: &str,
    arguments: &[&str],
    script: &str,
    stdout: File,
) -> Result<(), NetfilterError> {
    run(program, arguments, Stdio::piped(), script, stdout)
}

/// What a program prints.
pub fn output(program: &str, arguments: &[&str], stdin: Stdio) -> Result<String, NetfilterError> {
    let failed = |error: io::Error| NetfilterError::of(program)(error);
    // A file in memory, unlike a pipe, never blocks the program until somebody reads.
    let output =
        memfd_create("rules", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let mut output = File::from(output);
    let stdout = output.try_clone().map_err(failed)?;
    run(program, arguments, stdin, "", stdout)?;
    let mut text = String::new();
    output
        .rewind()
        .and_then(|()| output.read_to_string(&mut text))
        .map_err(failed)?;
    Ok(text)
}

/// As [`execute`]; a script only where `stdin` is a pipe.
fn run(
    program: &str,
    arguments: &[&str],
    stdin: Stdio,
    script: &str,
    stdout: File,
) -> Result<(), NetfilterError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that runs programs of netfilter"
    )]
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NetfilterError::of(program))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends without reading says why on stderr.
        let _ = stdin.write_all(script.as_bytes());
    }
    let status = wait(program, &mut child)?;
    let mut stderr = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        let _ = pipe.read_to_string(&mut stderr);
    }
    if status.success() {
        return Ok(());
    }
    Err(NetfilterError::Refused {
        program: program.to_owned(),
        status,
        stderr: stderr.trim().to_owned(),
    })
}

fn wait(program: &str, child: &mut Child) -> Result<ExitStatus, NetfilterError> {
    let ended = Pid::from_raw(child.id().cast_signed())
        .map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .transpose()
        .and_then(|pidfd| {
            let limit = Timespec::try_from(LIMIT).ok();
            let mut fds = pidfd
                .iter()
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect::<Vec<_>>();
            poll(&mut fds, limit.as_ref())
        })
        .map_err(NetfilterError::of(program))?;
    if ended == 0 {
        let _ = child.kill();
        let _ = child.wait();
        return Err(NetfilterError::TimedOut {
            program: program.to_owned(),
        });
    }
    child.wait().map_err(NetfilterError::of(program))
}
