//! Real programs: shell scripts in a directory of the test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::Permissions;
use std::thread;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

const CONF: &str = r#"{"cniVersion":"0.3.1", "name":"n1","ipam":{"type":"fake","x":1},"args":{}}"#;

struct Plugins(TempDir);

impl Plugins {
    /// A directory with one plugin, `fake`.
    fn with(script: &str) -> Self {
        let plugins = Plugins(TempDir::new().unwrap());
        plugins.install("fake", script, 0o755);
        plugins
    }

    fn install(&self, name: &str, script: &str, mode: u32) {
        let file = self.0.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }
}

fn conf() -> NetConf {
    NetConf::from_bytes(CONF.into()).unwrap()
}

fn add(plugins: &Plugins, limit: Duration) -> Result<Success, CniError> {
    Delegate::find("fake", plugins.path(), &conf(), limit)?.add()
}

#[test]
fn the_delegate_gets_the_same_bytes_and_its_command() {
    let plugins = Plugins::with(
        r#"cat > "$0.stdin"; echo "$CNI_COMMAND" > "$0.command"; readlink /proc/self/ns/net > "$0.netns"
           [ "$CNI_COMMAND" != ADD ] || echo '{"ips":[{"version":"4","address":"10.0.0.5/24"}]}'"#,
    );
    let result = add(&plugins, DEFAULT_LIMIT).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.0.0.5/24");
    assert_eq!(plugins.read("fake.stdin"), CONF);
    assert_eq!(plugins.read("fake.command"), "ADD\n");
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(plugins.read("fake.netns").trim(), own.to_str().unwrap());

    let conf = conf();
    let delegate = Delegate::find("fake", plugins.path(), &conf, DEFAULT_LIMIT).unwrap();
    for (verb, command) in [
        (Delegate::del as fn(&_) -> _, "DEL\n"),
        (Delegate::check, "CHECK\n"),
        (Delegate::gc, "GC\n"),
        (Delegate::status, "STATUS\n"),
    ] {
        verb(&delegate).unwrap();
        assert_eq!(plugins.read("fake.command"), command);
        assert_eq!(plugins.read("fake.stdin"), CONF);
    }
}

#[test]
fn an_error_object_passes_unchanged() {
    let plugins = Plugins::with(
        r#"echo '{"cniVersion":"0.3.1","code":11,"msg":"m","details":"d"}'; echo log >&2; exit 7"#,
    );
    assert_eq!(
        add(&plugins, DEFAULT_LIMIT),
        Err(CniError::new(11, "m").with_details("d"))
    );
}

#[test]
fn a_failure_without_an_object_is_wrapped_with_its_text() {
    for (script, text) in [
        ("echo plain text; exit 1", "plain text"),
        ("echo only stderr >&2; exit 1", "only stderr"),
        ("exit 3", "3"),
        ("kill -9 $$", "9"),
    ] {
        let error = add(&Plugins::with(script), DEFAULT_LIMIT).unwrap_err();
        assert_eq!(error.code, code::DELEGATE, "{script}");
        assert!(error.to_string().contains(text), "{script}: {error}");
    }
}

#[test]
fn nonsense_with_exit_0_is_an_error() {
    for script in [
        ":",
        "echo garbage",
        "echo '{\"cniVersion\":\"9.0.0\"}'",
        "echo '{\"ips\":[{\"address\":\"x\"}]}'",
    ] {
        let error = add(&Plugins::with(script), DEFAULT_LIMIT).unwrap_err();
        assert_eq!(error.code, code::DELEGATE, "{script}");
    }
}

/// Its child too: `sleep` would hold the pipes for a minute.
#[test]
fn a_delegate_that_hangs_is_killed() {
    let plugins = Plugins::with("sleep 60 & echo $! > \"$0.child\"; echo waiting >&2; wait");
    let error = add(&plugins, Duration::from_secs(1)).unwrap_err();
    assert!(error.msg.contains("within 1 s"), "{error}");
    assert!(error.details.contains("waiting"), "{error}");
    let child = plugins.read("fake.child");
    // Killed within the limit, long before its minute is over; it may still wait for init to reap it.
    let status = format!("/proc/{}/stat", child.trim());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let state = fs::read_to_string(&status).unwrap_or_default();
        if state.is_empty() || state.contains(" Z ") {
            break;
        }
        assert!(Instant::now() < deadline, "{state}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_daemon_left_behind_does_not_hold_the_call() {
    let plugins = Plugins::with(
        r#"sleep 30 & echo $! > "$0.child"; echo '{"ips":[{"address":"10.0.0.5/24"}]}'"#,
    );
    assert!(add(&plugins, Duration::from_secs(20)).is_ok());
    let child: i32 = plugins.read("fake.child").trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(child).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn large_input_and_output_do_not_block_each_other() {
    let plugins = Plugins::with(
        r"head -c 300000 /dev/zero | tr '\0' ' '; head -c 100000 /dev/zero | tr '\0' ' ' >&2; cat >/dev/null; echo '{}'",
    );
    let padding = " ".repeat(3 << 20);
    let conf = NetConf::from_bytes(format!("{CONF}{padding}").into()).unwrap();
    let delegate = Delegate::find("fake", plugins.path(), &conf, DEFAULT_LIMIT).unwrap();
    assert_eq!(delegate.add(), Ok(Success::default()));
}

#[test]
fn endless_output_is_stopped() {
    let error = add(&Plugins::with("exec cat /dev/zero"), DEFAULT_LIMIT).unwrap_err();
    assert!(error.msg.contains("16 MiB"), "{error}");
}

#[test]
fn the_first_executable_file_of_the_path_wins() {
    let (first, second) = (Plugins::with("exit 1"), Plugins::with("exit 0"));
    first.install("plain", "", 0o644);
    second.install("plain", "", 0o755);
    fs::create_dir(first.0.path().join("directory")).unwrap();
    let path = format!("/nonexistent::{}:{}", first.path(), second.path());
    let found = |name| find(name, &path).map(|file| file.parent().unwrap().to_path_buf());
    assert_eq!(found("fake"), Ok(first.0.path().to_path_buf()));
    assert_eq!(found("plain"), Ok(second.0.path().to_path_buf()));
    for (name, code) in [("directory", 101), ("absent", 101), ("", 7), ("../fake", 7)] {
        let error = found(name).unwrap_err();
        assert_eq!(error.code, code, "{name}");
        assert!(!error.to_string().contains("not found"), "{error}");
    }
    let error = find("fake", "").unwrap_err();
    assert!(error.code == 4 && error.msg.contains("CNI_PATH"));
}
