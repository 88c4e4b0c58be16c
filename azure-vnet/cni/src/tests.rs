#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Write};

use serde_json::json;

use super::*;

const CONF: &str = r#"{"cniVersion":"0.3.0","name":"n1"}"#;

/// One call with `stdin` in a pipe that is closed afterwards.
fn call(
    command: &str,
    stdin: &str,
    plugin: impl Fn(Request) -> Result<Outcome, CniError>,
) -> Reply {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(stdin.as_bytes()).unwrap();
    drop(writer);
    answer(environment(command), reader.as_fd(), &plugin).0
}

fn environment(command: &str) -> Result<Call, CniError> {
    let environment: Environment = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
    ]
    .into_iter()
    .collect();
    Call::from_environment(&environment).unwrap()
}

fn never(_: Request) -> Result<Outcome, CniError> {
    panic!("the plugin must not be reached")
}

#[test]
fn add_prints_the_result_in_the_callers_version() {
    let reply = call("ADD", CONF, |_| Ok(Outcome::Added(Success::default())));
    assert!(reply.success);
    assert_eq!(
        reply.document,
        Some(json!({"cniVersion": "0.3.0", "dns": {}}))
    );
}

#[test]
fn del_prints_nothing() {
    let reply = call("DEL", CONF, |_| Ok(Outcome::Done));
    assert_eq!(
        reply,
        Reply {
            document: None,
            success: true
        }
    );
}

#[test]
fn errors_are_printed_in_the_callers_version() {
    let reply = call("DEL", CONF, |_| Err(CniError::try_again("busy")));
    assert!(!reply.success);
    let expected = json!({"cniVersion": "0.3.0", "code": 11, "msg": "busy"});
    assert_eq!(reply.document, Some(expected));
}

/// See [`failed_del`]: go-cni would take this one for a success.
#[test]
fn a_failed_del_is_never_taken_for_a_success() {
    let fails = |_| Err(CniError::new(123, "route not found").with_details("not found"));
    let document = call("DEL", CONF, fails).document.unwrap();
    assert_eq!(document["msg"], "route missing");
    assert_eq!(document["details"], "missing");
    let rejected = call("DEL", r#"{"cniVersion":"not found","name":"n1"}"#, never);
    assert!(!rejected.document.unwrap().to_string().contains("not found"));
    let document = call("ADD", CONF, fails).document.unwrap();
    assert_eq!(document["msg"], "route not found", "other verbs may say it");
}

#[test]
fn a_panic_is_an_error_too() {
    let reply = call("ADD", CONF, |_| panic!("index out of range"));
    let document = reply.document.unwrap();
    assert!(!reply.success);
    assert_eq!(
        (&document["code"], &document["cniVersion"]),
        (&json!(100), &json!("0.3.0"))
    );
}

#[test]
fn version_answers_while_stdin_stays_open() {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(br#"{"cniVersion":"0.3.0"}"#).unwrap();
    let reply = answer(environment("VERSION"), reader.as_fd(), &never).0;
    assert!(reply.success);
    assert_eq!(reply.document.unwrap()["cniVersion"], "0.3.0");
    drop(writer);
}

#[test]
fn the_plugin_sees_only_valid_requests() {
    for (command, stdin, code) in [
        ("ADD", "", 6),
        ("ADD", "{}", 7),
        ("ADD", r#"{"cniVersion":"9.9.9","name":"n1"}"#, 1),
        ("DEL", r#"{"cniVersion":"0.3.0"}"#, 7),
        ("CHECK", CONF, 1),
        ("FOO", CONF, 4),
    ] {
        let document = call(command, stdin, never).document.unwrap();
        assert_eq!(document["code"], code, "{command} {stdin}");
        assert!(document["cniVersion"].is_string());
    }
}

/// The runtime may have gone: that is an exit code, never a panic.
#[test]
fn a_closed_stdout_is_an_error_exit() {
    let (reader, mut writer) = io::pipe().unwrap();
    drop(reader);
    let reply = Reply {
        document: Some(json!({})),
        success: true,
    };
    assert_eq!(finish(&reply, &mut writer), ExitCode::FAILURE);
    let mut one_document = Vec::new();
    assert_eq!(finish(&reply, &mut one_document), ExitCode::SUCCESS);
    assert_eq!(one_document, b"{}\n");
}

/// A runtime that does not get the result does not know that there is anything to undo.
#[test]
fn an_add_that_cannot_be_delivered_is_taken_back() {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(CONF.as_bytes()).unwrap();
    drop(writer);
    let calls = std::cell::RefCell::new(Vec::new());
    let plugin = |request: Request| match request {
        Request::Add(_) => {
            calls.borrow_mut().push("ADD");
            let address = "10.0.0.5/24".parse().unwrap();
            let ip = reply::Ip {
                address,
                gateway: None,
                interface: None,
            };
            Ok(Outcome::Added(Success {
                ips: vec![ip],
                ..Success::default()
            }))
        }
        Request::Del(del) => {
            calls.borrow_mut().push("DEL");
            assert_eq!(
                (del.container_id.as_str(), del.ifname.as_str()),
                ("c1", "eth0")
            );
            Ok(Outcome::Done)
        }
        other => panic!("{other:?}"),
    };
    let (reply, added) = answer(environment("ADD"), reader.as_fd(), &plugin);
    let (nobody, mut stdout) = io::pipe().unwrap();
    drop(nobody);
    assert_eq!(
        deliver(&reply, added, &mut stdout, &plugin),
        ExitCode::FAILURE
    );
    assert_eq!(calls.into_inner(), ["ADD", "DEL"]);
}
