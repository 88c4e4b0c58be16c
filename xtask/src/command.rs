//! The one place where xtask starts other programs: never through a shell, never without a limit,
//! and an error that names the command.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::workspace;

/// A program to be run from the root of the workspace, with no standard input.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where xtask starts programs"
)]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root()).stdin(Stdio::null());
    command
}

/// The cargo that runs us, so that one toolchain does everything.
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Like [`command`], with the rights of root: as it is for root, else through `sudo`.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return command(program);
    }
    let mut sudo = command("sudo");
    sudo.arg("--preserve-env")
        .arg(program)
        .stdin(Stdio::inherit());
    sudo
}

/// Whether we are root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs it with our own output; anything but success within `limit` is an error.
pub fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command.spawn().with_context(|| cannot_start(command))?;
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            return check(command, status);
        }
        if Instant::now() >= deadline {
            end(&mut child);
            bail!(
                "`{}` did not end within {} s",
                line(command),
                limit.as_secs()
            );
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Runs it and gives each line of its standard output to `each`, as it comes.
pub fn run_lines(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> Result<ExitStatus> {
    command.stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| cannot_start(command))?;
    let lines = read_lines(&mut child);
    let mut deadline = Instant::now() + limit;
    let mut status = None;
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => each(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if status.is_some() => {}
            // A program that left a child behind keeps the pipe open: its last words get a second.
            Err(RecvTimeoutError::Timeout) => {
                status = child.try_wait()?;
                if status.is_some() {
                    deadline = deadline.min(Instant::now() + Duration::from_secs(1));
                }
            }
        }
        if Instant::now() >= deadline {
            if status.is_some() {
                break;
            }
            end(&mut child);
            bail!(
                "`{}` did not end within {} s",
                line(command),
                limit.as_secs()
            );
        }
    }
    Ok(child.wait()?)
}

/// Runs it and returns its standard output; anything but success within `limit` is an error.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let mut text = String::new();
    let status = run_lines(command, limit, |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    check(command, status)?;
    Ok(text)
}

/// Its standard output if it starts, succeeds and ends within ten seconds; nothing is shown.
pub fn probe(command: &mut Command) -> Option<String> {
    output(command.stderr(Stdio::null()), Duration::from_secs(10)).ok()
}

/// The command as one would type it, for messages.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", line(command))
}

fn read_lines(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|length| length > 0)
            {
                let text = String::from_utf8_lossy(&line);
                if sender.send(text.trim_end_matches('\n').to_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    lines
}

/// Ends a child and all its descendants. They share our process group, so that Ctrl-C reaches them;
/// that is why the group cannot be used to end them.
fn end(child: &mut Child) {
    for pid in stopped_family(child.id().cast_signed()) {
        let _ = kill_process(pid, Signal::KILL); // gone already is as good
    }
    let _ = child.wait(); // reaped; how it ended is no news
}

/// A process and all that come from it, by the parent links in /proc, stopped: one that still ran could fork while it is looked at,
/// and what it left behind has no parent to be found by.
fn stopped_family(ancestor: i32) -> Vec<Pid> {
    let mut family = Vec::new();
    loop {
        let mut grew = false;
        for pid in descendants(ancestor).into_iter().filter_map(Pid::from_raw) {
            if !family.contains(&pid) {
                let _ = kill_process(pid, Signal::STOP); // gone already is as good
                family.push(pid);
                grew = true;
            }
        }
        if !grew {
            return family;
        }
    }
}

/// The ancestor first, then those whose parents are known before them.
fn descendants(ancestor: i32) -> Vec<i32> {
    let links: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        let children = links.iter().filter(|(_, parent)| *parent == member);
        family.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses itself: go from the last one.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, Signal, kill_process};

    use super::{command, output, run};

    const PLENTY: Duration = Duration::from_mins(1);

    #[test]
    fn the_limit_ends_the_whole_family() {
        let mut family = command("timeout");
        family.args(["100", "sleep", "100.125"]);
        let error = run(&mut family, Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        // A killed process is seen until it runs for the last time.
        let limit = Instant::now() + PLENTY;
        while !running("100.125").is_empty() {
            assert!(Instant::now() < limit, "it outlived its family");
            sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn output_ends_with_the_program_and_not_with_what_it_left_behind() {
        let mut leaves_a_child = command("setsid");
        leaves_a_child.args(["--fork", "sleep", "30.0625"]);
        assert_eq!(output(&mut leaves_a_child, PLENTY).unwrap(), "");
        let left = running("30.0625");
        assert_eq!(left.len(), 1, "it was waited for");
        kill_process(left[0], Signal::KILL).unwrap();
    }

    #[test]
    fn failure_names_the_command() {
        let error = output(&mut command("false"), PLENTY).unwrap_err();
        assert!(error.to_string().starts_with("`false` failed"), "{error}");
        let error = output(&mut command("no-such-program"), PLENTY).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `no-such-program`");
    }

    /// The processes with this last argument.
    fn running(argument: &str) -> Vec<Pid> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter(|entry| {
                let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                line.trim_end_matches('\0').ends_with(argument)
            })
            .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }
}
