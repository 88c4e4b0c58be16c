//! A call of the plugin, traced or disturbed at one step.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use azure_vnet_testbed::PLUGIN_DIR;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::fixture::{Container, Node};
use crate::interceptor::{self, Command, Ended, Fate, Waiting};
use crate::step::{self, Seen, Step};

/// How long a DEL beside a program that outlived its call may go on before that program does: it may wait for a lock that the
/// program holds.
const HEAD_START: Duration = Duration::from_millis(300);

/// The command of an operator that takes the place of a verb.
pub const TEARDOWN: &str = "teardown";

/// What is done to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It is not carried out, and an error is returned.
    Fails,
    /// The kernel refuses the request.
    Refused,
    /// The process is killed instead.
    Killed,
    /// It is a step of a program that the plugin runs: the plugin is killed, and the program goes on when the runtime's DEL, or
    /// another teardown, is done.
    Orphaned,
}

/// A step as the traced call had it.
#[derive(Clone, Debug)]
pub struct Traced {
    pub step: Step,
    pub seen: Seen,
}

/// The steps of a call that nothing disturbs, which must succeed.
pub fn trace(container: &Container<'_>, verb: &str) -> Vec<Traced> {
    let steps = Mutex::new(Vec::new());
    let ended = run(container, verb, |_, traced| {
        steps.lock().unwrap().push(traced.clone());
        Fate::GoOn
    });
    assert!(ended.success, "a traced {verb}: {ended:?}");
    steps.into_inner().unwrap()
}

/// A call that is disturbed at `target`; none if it never came there.
pub fn disturb(container: &Container<'_>, verb: &str, target: &Traced, how: How) -> Option<Ended> {
    let mut reached = false;
    let ended = thread::scope(|scope| {
        run(container, verb, |waiting, traced| {
            if traced.step != target.step {
                return Fate::GoOn;
            }
            reached = true;
            match how {
                How::Fails => Fate::Fail(traced.seen.errno),
                How::Refused => {
                    waiting.spoil(traced.seen.message.expect("a netlink message"));
                    Fate::GoOn
                }
                How::Killed => Fate::Kill,
                How::Orphaned => {
                    kill_process(waiting.main, Signal::KILL).unwrap();
                    let (done, is_done) = channel();
                    let is_teardown = verb == TEARDOWN;
                    scope.spawn(move || {
                        if is_teardown {
                            let _ = container.node().teardown(&[]).output();
                        } else {
                            let _ = container.del();
                        }
                        let _ = done.send(());
                    });
                    let _ = is_done.recv_timeout(HEAD_START);
                    Fate::GoOn
                }
            }
        })
    });
    reached.then_some(ended)
}

fn run(
    container: &Container<'_>,
    verb: &str,
    mut decide: impl FnMut(&Waiting, &Traced) -> Fate + Send,
) -> Ended {
    let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut last = BTreeMap::new();
    interceptor::run(
        container.node().vm(),
        &command(container, verb),
        |waiting| {
            let call = (waiting.number, waiting.arguments);
            let again = last.insert(waiting.thread, call) == Some(call);
            let Some(mut seen) = step::of(waiting) else {
                return Fate::GoOn;
            };
            // The kernel starts the write of a sysctl anew for as long as somebody holds the rtnetlink lock: that is one step.
            if again && seen.what.starts_with(step::SYSCTL_WRITE) {
                return Fate::GoOn;
            }
            seen.what = seen
                .what
                .replace(&container.host_veth(), "(veth)")
                .replace(container.netns.trim_start_matches("/var"), "(netns)")
                .replace(&container.id, "(id)");
            let program = waiting.program();
            let time = times
                .entry((program.clone(), seen.what.clone()))
                .or_default();
            *time += 1;
            let step = Step {
                program,
                what: seen.what.clone(),
                time: *time,
            };
            decide(waiting, &Traced { step, seen })
        },
    )
}

fn command(container: &Container<'_>, verb: &str) -> Command {
    let node: &Node = container.node();
    let mut command = Command {
        program: format!("{PLUGIN_DIR}/azure-vnet"),
        arguments: Vec::new(),
        environment: container.environment(verb),
        stdin: node.stdin(&json!({})),
    };
    if verb == TEARDOWN {
        command.arguments = vec![verb.to_owned()];
        command
            .environment
            .retain(|(name, _)| !name.starts_with("CNI_"));
        command.stdin.clear();
    }
    command
}

/// The error object of a failed call. One that could not write its answer has none.
pub fn error_object(ended: &Ended, target: &Traced) -> Result<String, String> {
    if target.step.program == "azure-vnet" && target.step.what == step::ANSWER {
        return Ok("no answer".into());
    }
    let wrong = || format!("a failed call without a CNI error object: {ended:?}");
    let error: Value = serde_json::from_str(&ended.stdout).map_err(|_| wrong())?;
    let code = error["code"].as_u64().ok_or_else(wrong)?;
    let msg = error["msg"]
        .as_str()
        .filter(|msg| !msg.is_empty())
        .ok_or_else(wrong)?;
    error["cniVersion"].as_str().ok_or_else(wrong)?;
    if msg.contains("panic") {
        return Err(format!("a panic: {ended:?}"));
    }
    Ok(format!("error {code}"))
}

/// What a failed teardown says.
pub fn complaint(ended: &Ended) -> Result<(), String> {
    if ended.stderr.is_empty() || ended.stderr.contains("panicked") {
        return Err(format!("a failed teardown without a reason: {ended:?}"));
    }
    Ok(())
}
