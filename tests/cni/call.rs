//! One call of a plugin with exactly the environment, the input and the output that a check asks for, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{PipeWriter, Read, Write as _, pipe};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use azure_vnet_testbed::PLUGIN_DIR;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Deserializer, Value};

use crate::fixture::Node;
use crate::journal::Observed;
use crate::row::{Verdict, expect, failed, note_missing_version};

/// No call may hang; the list allows an ADD that waits for a lock a minute.
const LIMIT: Duration = Duration::from_secs(70);

/// A plugin that has not been started yet.
#[derive(Clone)]
pub struct Call<'a> {
    node: &'a Node,
    program: String,
    env: BTreeMap<String, String>,
    stdin: Vec<u8>,
    stdin_held: bool,
    stdout_closed: bool,
    recorded: bool,
}

impl<'a> Call<'a> {
    /// A call with no variable but `PATH`, and nothing on standard input.
    pub fn new(node: &'a Node, program: &str) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        Self {
            node,
            program: program.to_owned(),
            env: BTreeMap::from([("PATH".to_owned(), path)]),
            stdin: Vec::new(),
            stdin_held: false,
            stdout_closed: false,
            recorded: true,
        }
    }

    /// The same call of another plugin.
    pub fn of(mut self, plugin: &str) -> Self {
        self.program = format!("{PLUGIN_DIR}/{plugin}");
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Takes a variable away.
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// The configuration, in the form in which libcni sends it: compact, keys sorted.
    pub fn conf(self, conf: &Value) -> Self {
        let mut sorted = conf.clone();
        sorted.sort_all_objects();
        self.stdin(sorted.to_string())
    }

    /// These bytes on standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Standard input stays open behind the bytes for as long as the plugin runs.
    pub fn stdin_held_open(mut self) -> Self {
        self.stdin_held = true;
        self
    }

    /// Standard output is a pipe that nobody reads any more.
    pub fn stdout_closed(mut self) -> Self {
        self.stdout_closed = true;
        self.unrecorded()
    }

    /// Leaves the call out of the journal: it is a tool of the check and not its object.
    pub fn unrecorded(mut self) -> Self {
        self.recorded = false;
        self
    }

    /// Runs the plugin to its end.
    pub fn run(self) -> Reply {
        let start = Instant::now();
        let mut child = self.spawn();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let mut input = child.stdin.take();
        let status = thread::scope(|scope| {
            for (pipe, bytes) in [
                (
                    out.map(Box::new).map(|p| p as Box<dyn Read + Send>),
                    &mut stdout,
                ),
                (
                    err.map(Box::new).map(|p| p as Box<dyn Read + Send>),
                    &mut stderr,
                ),
            ] {
                scope.spawn(move || pipe.map(|mut pipe| pipe.read_to_end(bytes)));
            }
            if let Some(input) = &mut input {
                // A plugin that answers without reading breaks the pipe, which is its right.
                let _ = input.write_all(&self.stdin);
            }
            if !self.stdin_held {
                drop(input.take());
            }
            wait(&mut child, LIMIT)
        });
        let reply = Reply {
            command: self.env.get("CNI_COMMAND").cloned().unwrap_or_default(),
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took: start.elapsed(),
        };
        if self.recorded {
            let netns = self.env.get("CNI_NETNS").cloned().unwrap_or_default();
            self.node
                .journal
                .record(Observed::new(&reply, &self.stdin, netns.is_empty()));
        }
        reply
    }

    /// Runs the plugin and kills it after `delay`; whether it was still running then.
    pub fn run_and_kill(self, delay: Duration) -> bool {
        let mut child = self.spawn();
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(&self.stdin);
        }
        thread::sleep(delay);
        let running = child.try_wait().expect("the plugin is our child").is_none();
        child.kill().expect("the plugin is our child");
        child.wait().expect("the plugin is our child");
        running
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of these tests where a plugin is started"
    )]
    fn spawn(&self) -> Child {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        if self.stdout_closed {
            command.stdout(broken_pipe());
        } else {
            command.stdout(Stdio::piped());
        }
        let spawned = self.node.vm().namespace().run(|| command.spawn());
        spawned
            .and_then(|child| child)
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program))
    }
}

fn broken_pipe() -> PipeWriter {
    let (_, writer) = pipe().expect("a pipe");
    writer
}

/// Waits for the end; a plugin that exceeds the limit is killed, which shows as its status.
fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let pid = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("our child");
    let limit = Timespec::try_from(limit).expect("a short time");
    let ended = poll(&mut [PollFd::new(&pid, PollFlags::IN)], Some(&limit)).expect("poll");
    if ended == 0 {
        child.kill().expect("our child");
    }
    child.wait().expect("our child")
}

/// What a plugin left behind.
#[derive(Debug, Clone)]
pub struct Reply {
    /// `CNI_COMMAND`, empty if there was none.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// An error object, as the specification has it.
#[derive(Debug, Clone)]
pub struct ErrorObject {
    /// The code.
    pub code: u64,
    /// The message.
    pub msg: String,
    /// The details, empty when there are none.
    pub details: String,
}

impl ErrorObject {
    /// Message and details.
    pub fn text(&self) -> String {
        format!("{} {}", self.msg, self.details)
    }

    /// Fails unless the message contains each of these words.
    pub fn names(&self, words: &[&str]) -> Verdict {
        for word in words {
            let named = self.msg.contains(word);
            expect(named, format!("a msg that contains {word:?}"), &self.msg)?;
        }
        Ok(())
    }
}

impl Reply {
    /// Exit status 0 and exactly one JSON object.
    pub fn result(&self) -> Verdict<Value> {
        let documents = self.documents();
        match documents.as_deref() {
            Some([one]) if self.status.success() && one.is_object() => Ok(one.clone()),
            _ => Err(failed(
                format!("{} succeeds with a result", self.command),
                self,
            )),
        }
    }

    /// Exit status 0 and nothing on standard output.
    pub fn silent(&self) -> Verdict {
        expect(
            self.status.success() && self.stdout.is_empty(),
            format!("{} succeeds and prints nothing", self.command),
            self,
        )
    }

    /// The list's E: exit status not 0, and exactly one JSON object with `code`, a `msg` and `cniVersion`.
    pub fn failed(&self) -> Verdict<ErrorObject> {
        self.error_object("an error object with code, msg and cniVersion")
    }

    /// The list's E(code).
    pub fn error(&self, code: u64) -> Verdict<ErrorObject> {
        self.error_among(&[code])
    }

    /// E with one of these codes.
    pub fn error_among(&self, codes: &[u64]) -> Verdict<ErrorObject> {
        let expected = format!("an error object with code {codes:?}, msg and cniVersion");
        let error = self.error_object(&expected)?;
        expect(codes.contains(&error.code), expected, self)?;
        Ok(error)
    }

    /// The list's E(≥100): an error of the plugin's own.
    pub fn own_error(&self) -> Verdict<ErrorObject> {
        let expected = "an error object with a code ≥100, msg and cniVersion";
        let error = self.error_object(expected)?;
        expect(error.code >= 100, expected, self)?;
        Ok(error)
    }

    /// The code of whatever error object there is.
    pub fn code(&self) -> Option<u64> {
        self.document()?["code"]
            .as_u64()
            .filter(|_| !self.status.success())
    }

    /// The JSON documents on standard output; none if it is not JSON throughout.
    pub fn documents(&self) -> Option<Vec<Value>> {
        let values = Deserializer::from_str(&self.stdout).into_iter::<Value>();
        values.collect::<Result<_, _>>().ok()
    }

    /// The only document.
    pub fn document(&self) -> Option<Value> {
        self.documents().filter(|all| all.len() == 1)?.pop()
    }

    fn error_object(&self, expected: &str) -> Verdict<ErrorObject> {
        let wrong = || failed(expected, self);
        let object = self.document().ok_or_else(wrong)?;
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let code = object["code"].as_u64().ok_or_else(wrong)?;
        let shaped = !self.status.success() && !text("msg").is_empty();
        if !shaped {
            return Err(wrong());
        }
        if !object["cniVersion"].is_string() {
            note_missing_version();
        }
        Ok(ErrorObject {
            code,
            msg: text("msg"),
            details: text("details"),
        })
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text: &str| {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            text.chars().take(300).collect::<String>()
        };
        write!(f, "{} ended with {}", self.command, self.status)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, ", {name}: {}", short(text))?;
            }
        }
        Ok(())
    }
}
