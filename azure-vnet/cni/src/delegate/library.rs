//! A plugin that this program has in itself, called as a program would be: with the same input and environment, its answer in the same
//! form, its log in its own file, and a limit on its time.

use std::cell::RefCell;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::process::{Ended, Finished};
use crate::environment::{Call, Environment};
use crate::error::CniError;
use crate::input::{End, Input};
use crate::request::Request;
use crate::{Outcome, answer_to, log};

/// A plugin that this program has in itself.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    /// What it is called as a program.
    pub name: &'static str,
    /// Name of its log.
    pub log: &'static str,
    /// One call.
    pub serve: fn(Request) -> Result<Outcome, CniError>,
    /// What is left to be done when a call is over, by a thread that has no other beside it.
    pub afterwards: fn(),
}

thread_local! {
    /// Set where this thread serves a call that somebody waits for, true when nobody does any more.
    static GIVEN_UP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Whether nobody waits for the call that this thread serves any more. A process would have been killed; whoever is about to
/// change something that outlives the call asks, under the lock that guards it.
pub fn is_given_up() -> bool {
    GIVEN_UP.with_borrow(|it| it.as_ref().is_some_and(|it| it.load(Ordering::SeqCst)))
}

/// Calls the library with these variables beside our own, and `input` as standard input.
///
/// A thread serves the call. One that does not answer in time is left to itself, and ends with this process.
pub(super) fn call(
    library: &Library,
    variables: &[(&str, String)],
    input: &[u8],
    limit: Duration,
) -> io::Result<Finished> {
    let environment = Environment::of_process().with(variables);
    let input = Input {
        bytes: input.to_vec(),
        end: End::Closed,
    };
    let (Library { log, serve, .. }, given_up) = (*library, Arc::new(AtomicBool::new(false)));
    let (sender, receiver) = mpsc::channel();
    let is_given_up = Arc::clone(&given_up);
    let thread = thread::Builder::new().spawn(move || {
        GIVEN_UP.set(Some(is_given_up));
        let _log = log::of_thread(log);
        let served = |request| log::served(request, serve);
        let answer =
            Call::from_environment(&environment).map(|call| answer_to(call, input, &served).0);
        let _ = sender.send(answer);
    })?;
    let ended = match receiver.recv_timeout(limit) {
        Ok(answer) => {
            let _ = thread.join();
            (library.afterwards)();
            answer.map(|reply| {
                let stdout = reply.document.map(|it| it.to_string().into_bytes());
                // As `wait` has it: the exit code is the second byte.
                let status = ExitStatus::from_raw(i32::from(!reply.success) << 8);
                (Ended::Exited(status), stdout.unwrap_or_default())
            })
        }
        Err(RecvTimeoutError::Timeout) => {
            given_up.store(true, Ordering::SeqCst);
            Some((Ended::GivenUp, Vec::new()))
        }
        Err(RecvTimeoutError::Disconnected) => None,
    };
    let (ended, stdout) = ended.ok_or_else(|| io::Error::other("it ended without an answer"))?;
    Ok(Finished {
        ended,
        stdout,
        stderr_tail: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::reply::{Ip, Success};

    const CONF: &[u8] = br#"{"cniVersion":"0.3.1","name":"n1","type":"t","ipam":{"type":"fake"}}"#;
    static LATER: AtomicUsize = AtomicUsize::new(0);

    fn library(serve: fn(Request) -> Result<Outcome, CniError>) -> Library {
        Library {
            name: "fake",
            log: "",
            serve,
            afterwards: || {
                LATER.fetch_add(1, Ordering::SeqCst);
            },
        }
    }

    fn variables(command: &str) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_CONTAINERID", "c1".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_NETNS", "/run/netns/one".to_owned()),
            ("CNI_COMMAND", command.to_owned()),
        ]
    }

    fn called(serve: fn(Request) -> Result<Outcome, CniError>, limit: Duration) -> (Ended, String) {
        let finished = call(&library(serve), &variables("ADD"), CONF, limit).unwrap();
        (finished.ended, String::from_utf8(finished.stdout).unwrap())
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn it_answers_as_a_program_does() {
        let add = |request| match request {
            Request::Add(add) if add.ifname == "eth0" && add.conf.raw() == CONF => {
                Ok(Outcome::Added(Success {
                    ips: vec![Ip {
                        address: "10.0.0.5/24".parse().unwrap(),
                        gateway: None,
                        interface: None,
                    }],
                    ..Success::default()
                }))
            }
            _ => Err(CniError::new(100, "another request")),
        };
        let before = LATER.load(Ordering::SeqCst);
        let (ended, stdout) = called(add, LONG);
        assert!(matches!(ended, Ended::Exited(status) if status.success()));
        assert!(stdout.contains(r#""cniVersion":"0.3.1""#), "{stdout}");
        assert!(stdout.contains(r#""address":"10.0.0.5/24""#), "{stdout}");
        assert!(LATER.load(Ordering::SeqCst) > before);
    }

    #[test]
    fn an_error_and_a_panic_are_error_objects() {
        let (ended, stdout) = called(|_| Err(CniError::new(117, "no address")), LONG);
        assert!(matches!(ended, Ended::Exited(status) if !status.success()));
        let error: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(
            (&error["code"], &error["msg"]),
            (&117.into(), &"no address".into())
        );

        let (ended, stdout) = called(|_| panic!("a defect"), LONG);
        assert!(matches!(ended, Ended::Exited(status) if !status.success()));
        assert!(stdout.contains("the plugin panicked"), "{stdout}");
    }

    /// The channel by which the test below lets the call go on, and hears of it.
    type Gate = Mutex<Option<(mpsc::Receiver<()>, mpsc::Sender<bool>)>>;
    static GATE: Gate = Mutex::new(None);

    #[test]
    fn one_that_hangs_is_given_up_and_knows() {
        let (open, is_open) = mpsc::channel();
        let (sender, outcome) = mpsc::channel();
        *GATE.lock().unwrap() = Some((is_open, sender));
        let hang = |_| {
            let (is_open, sender) = GATE.lock().unwrap().take().unwrap();
            assert!(!is_given_up());
            is_open.recv().unwrap();
            sender.send(is_given_up()).unwrap();
            Ok(Outcome::Done)
        };
        let (ended, stdout) = called(hang, Duration::from_millis(50));
        assert!(matches!(ended, Ended::GivenUp));
        assert_eq!(stdout, "");
        open.send(()).unwrap();
        assert!(outcome.recv_timeout(LONG).unwrap());
        assert!(!is_given_up(), "this thread serves nothing");
    }
}
