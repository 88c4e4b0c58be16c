#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use std::os::unix::ffi::OsStringExt;

fn call(pairs: &[(&str, &str)]) -> Result<Call, CniError> {
    Call::from_environment(&pairs.iter().copied().collect()).unwrap()
}

/// A good environment for `command` with some variables replaced.
fn with(command: &str, changes: &[(&str, &str)]) -> Result<Call, CniError> {
    let mut pairs = vec![
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", ""),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    pairs.extend_from_slice(changes);
    call(&pairs)
}

#[test]
fn no_command_is_no_call_and_version_needs_nothing() {
    let about =
        |pairs: &[(&str, &str)]| Call::from_environment(&pairs.iter().copied().collect()).is_none();
    assert!(about(&[]) && about(&[("CNI_COMMAND", ""), ("CNI_PATH", "/opt/cni/bin")]));
    assert_eq!(call(&[("CNI_COMMAND", "VERSION")]), Ok(Call::Version));
    let probe = [("CNI_CONTAINERID", ""), ("CNI_IFNAME", "not/a/name")];
    assert_eq!(with("VERSION", &probe), Ok(Call::Version));
}

#[test]
fn unknown_commands_are_named() {
    for command in ["FOO", "add", " ADD"] {
        let error = with(command, &[]).unwrap_err();
        assert_eq!(error.code, 4);
        assert!(error.msg.contains("CNI_COMMAND") && error.msg.contains(command));
    }
}

#[test]
fn everything_missing_is_reported_at_once() {
    let error = call(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "")]).unwrap_err();
    assert_eq!(error.code, 4);
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(error.msg.contains(name), "{}", error.msg);
    }
    let error = call(&[("CNI_COMMAND", "DEL")]).unwrap_err();
    assert!(error.msg.contains("CNI_CONTAINERID") && error.msg.contains("CNI_IFNAME"));
    assert!(!error.msg.contains("CNI_NETNS"));
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let error = with("CHECK", &[(name, "")]).unwrap_err();
        assert!(error.code == 4 && error.msg.contains(name), "{}", error.msg);
    }
}

/// libcni sets all six variables, those of an attachment to nothing.
#[test]
fn commands_about_no_attachment_need_no_variable() {
    for path in ["", "/opt/cni/bin"] {
        let of = |command| call(&[("CNI_COMMAND", command), ("CNI_PATH", path)]);
        let common = CommonVariables { path: path.into() };
        assert_eq!(of("STATUS"), Ok(Call::Status(common)));
        let common = CommonVariables { path: path.into() };
        assert_eq!(of("GC"), Ok(Call::Gc(common)));
    }
    let odd = [
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_IFNAME", ".."),
        ("CNI_ARGS", "A"),
    ];
    assert!(with("GC", &odd).is_ok() && with("STATUS", &odd).is_ok());
}

#[test]
fn only_add_looks_at_args() {
    match with("DEL", &[("CNI_NETNS", ""), ("CNI_ARGS", "A=B=C")]).unwrap() {
        Call::Del(variables) => assert_eq!(variables.netns, None),
        other => panic!("{other:?}"),
    }
    assert!(with("CHECK", &[("CNI_ARGS", "A=B=C")]).is_ok());
    let error = with("ADD", &[("CNI_ARGS", "A=B=C")]).unwrap_err();
    assert!(error.code == 4 && error.msg.contains("CNI_ARGS"));
}

#[test]
fn container_ids() {
    let long = "a".repeat(1024);
    for good in ["A.b_c-9", "0", &"0af3".repeat(16), &long] {
        assert!(with("ADD", &[("CNI_CONTAINERID", good)]).is_ok(), "{good}");
    }
    for bad in ["-abc", "_a", ".a", "a/b", "a b", "../x", "é", "a\n"] {
        for command in ["ADD", "DEL", "CHECK"] {
            let error = with(command, &[("CNI_CONTAINERID", bad)]).unwrap_err();
            assert_eq!(error.code, 4);
            assert!(error.msg.contains("CNI_CONTAINERID"), "{}", error.msg);
            assert!(error.msg.contains(&format!("{bad:?}")), "{}", error.msg);
        }
    }
}

#[test]
fn interface_names() {
    for good in ["eth0", "fifteen-bytes-x", "é", "..."] {
        assert!(with("ADD", &[("CNI_IFNAME", good)]).is_ok(), "{good}");
    }
    for bad in [
        "sixteen-bytes-xy",
        ".",
        "..",
        "a/b",
        "a:b",
        "a b",
        "a\u{a0}b",
        "ééééééé12",
    ] {
        let error = with("ADD", &[("CNI_IFNAME", bad)]).unwrap_err();
        assert!(error.code == 4 && error.msg.contains("CNI_IFNAME"), "{bad}");
    }
}

#[test]
fn bytes_that_are_no_text_are_reported_not_lost() {
    let mut environment: Environment = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
    ]
    .into_iter()
    .collect();
    let bytes = OsString::from_vec(b"/run/\xff".to_vec());
    environment.0.insert("CNI_NETNS".into(), bytes);
    let error = Call::from_environment(&environment).unwrap().unwrap_err();
    assert!(error.msg.contains("CNI_NETNS") && error.msg.contains("UTF-8"));
    assert!(!error.msg.contains("missing"));
}
