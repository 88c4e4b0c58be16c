#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::version::SUPPORTED;
use std::{io, time::Duration};

const CONF: &str = r#"{"cniVersion":"0.3.0","name":"n1"}"#;

fn invoke(command: &str, bytes: &[u8], end: End) -> Result<Invocation, Rejected> {
    let environment: Environment = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/../netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
    .into_iter()
    .collect();
    let input = Input {
        bytes: bytes.to_vec(),
        end,
    };
    Invocation::new(Call::from_environment(&environment).unwrap(), input)
}

#[test]
fn add_has_everything_verbatim() {
    let Ok(Invocation::Plugin(Request::Add(add))) = invoke("ADD", CONF.as_bytes(), End::Closed)
    else {
        panic!("not an ADD");
    };
    assert_eq!(add.netns, "/run/netns/../netns/c1");
    assert_eq!(
        (add.container_id.as_str(), add.ifname.as_str()),
        ("c1", "eth0")
    );
    assert_eq!(add.conf.raw(), CONF.as_bytes());
}

#[test]
fn version_echoes_what_we_speak() {
    for (stdin, expected) in [
        (r#"{"cniVersion":"0.3.0"}"#, Some(Version::V0_3_0)),
        (r#"{"cniVersion":"9.9.9"}"#, None),
        ("garbage", None),
        ("", None),
    ] {
        let end = End::TimedOut(Duration::ZERO);
        match invoke("VERSION", stdin.as_bytes(), end) {
            Ok(Invocation::Version(version)) => assert_eq!(version, expected, "{stdin}"),
            other => panic!("{stdin}: {other:?}"),
        }
    }
}

#[test]
fn each_command_needs_its_version() {
    let reached = |command, version: Version| {
        let conf = format!(
            r#"{{"cniVersion":"{version}","name":"n1","prevResult":{{}},"cni.dev/attachments":[]}}"#
        );
        match invoke(command, conf.as_bytes(), End::Closed) {
            Ok(Invocation::Plugin(_)) => true,
            Ok(other) => panic!("{other:?}"),
            Err(rejected) => {
                assert_eq!((rejected.error.code, rejected.version), (1, version));
                let expected = format!("config version does not allow {command}");
                assert_eq!(rejected.error.msg, expected);
                false
            }
        }
    };
    for version in SUPPORTED {
        assert!(reached("ADD", version) && reached("DEL", version));
        assert_eq!(reached("CHECK", version), version >= Version::V0_4_0);
        assert_eq!(reached("GC", version), version >= Version::V1_1_0);
        assert_eq!(reached("STATUS", version), version >= Version::V1_1_0);
    }
}

#[test]
fn check_has_the_result_of_add() {
    let check = |members: &str| {
        let conf = format!(r#"{{"cniVersion":"0.4.0","name":"n1"{members}}}"#);
        match invoke("CHECK", conf.as_bytes(), End::Closed)? {
            Invocation::Plugin(Request::Check(check)) => Ok(check),
            other => panic!("{other:?}"),
        }
    };
    let given = check(r#","prevResult":{"ips":[{"address":"10.0.0.5/24"}]}"#).unwrap();
    assert_eq!(given.prev.ips[0].address.to_string(), "10.0.0.5/24");
    assert_eq!(given.netns, "/run/netns/../netns/c1");
    for missing in ["", r#","prevResult":null"#, r#","prevResult":[]"#] {
        let rejected: Rejected = check(missing).unwrap_err();
        assert_eq!(
            (rejected.error.code, rejected.version),
            (7, Version::V0_4_0)
        );
        assert!(rejected.error.msg.contains("prevResult"));
    }
}

#[test]
fn gc_has_the_attachments_to_spare() {
    let conf = r#"{"cniVersion":"1.1.0","name":"n1",
        "cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]}"#;
    match invoke("GC", conf.as_bytes(), End::Closed) {
        Ok(Invocation::Plugin(Request::Gc(gc))) => assert_eq!(gc.valid[0].container_id, "c1"),
        other => panic!("{other:?}"),
    }
    let conf = r#"{"cniVersion":"1.1.0","name":"n1"}"#;
    let rejected = invoke("GC", conf.as_bytes(), End::Closed).unwrap_err();
    assert_eq!(rejected.error.code, 7);
}

#[test]
fn environment_errors_carry_the_version_of_stdin() {
    let rejected = invoke("FOO", CONF.as_bytes(), End::Closed).unwrap_err();
    assert_eq!(
        (rejected.error.code, rejected.version),
        (4, Version::V0_3_0)
    );
    let rejected = invoke("FOO", b"{", End::Closed).unwrap_err();
    assert_eq!(rejected.version, Version::NEWEST);
}

#[test]
fn broken_input_is_code_5() {
    for end in [
        End::TimedOut(Duration::from_secs(10)),
        End::TooLarge,
        End::Failed(io::Error::other("torn cable")),
    ] {
        let rejected = invoke("DEL", CONF.as_bytes(), end).unwrap_err();
        assert_eq!(
            (rejected.error.code, rejected.version),
            (5, Version::V0_3_0)
        );
    }
}

/// Arbitrary bytes give an error or a request, never a panic.
#[test]
fn damaged_configurations_never_panic() {
    let seed = br#"{"cniVersion":"0.3.1","name":"n1","ipam":{"type":"x"},"prevResult":{"ips":[{"address":"10.0.0.2/24","interface":0}],"dns":null}}"#;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        let mut bytes = seed.to_vec();
        for _ in 0..=random % 3 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let [position, value, action, ..] = random.to_le_bytes();
            let position = usize::from(position) % bytes.len();
            match action % 3 {
                0 => bytes[position] = value,
                1 => bytes.insert(position, b"{}[]\":,0"[usize::from(value) % 8]),
                _ => drop(bytes.remove(position)),
            }
        }
        match invoke("ADD", &bytes, End::Closed) {
            Ok(Invocation::Plugin(Request::Add(add))) => {
                let _ = add.conf.prev_result();
            }
            Ok(other) => panic!("{other:?}"),
            Err(rejected) => assert!([1, 6, 7].contains(&rejected.error.code)),
        }
    }
}
