//! A CNI plugin that does nothing but remember how it was called, and answers what a test wrote down.
//!
//! Everything is beside the path that it was called by (a symbolic link in a directory of the test's): `<COMMAND>.json` with the
//! answer `{"stdout", "stderr", "exit"}`, and `calls`, one JSON object per line for each call.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

fn main() -> ExitCode {
    match answer() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("fake-ipam: {error}");
            ExitCode::from(99)
        }
    }
}

fn answer() -> io::Result<u8> {
    let called_as = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let dir = called_as.parent().unwrap_or(Path::new(""));
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    remember(dir, &command)?;
    let answer = match fs::read(dir.join(format!("{command}.json"))) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(error),
    };
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    io::stderr().write_all(text("stderr").as_bytes())?;
    io::stdout().write_all(text("stdout").as_bytes())?;
    Ok(answer["exit"]
        .as_u64()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(0))
}

fn remember(dir: &Path, command: &str) -> io::Result<()> {
    let mut stdin = String::new();
    io::stdin().read_to_string(&mut stdin)?;
    let env: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into(),
                value.to_string_lossy().into(),
            )
        })
        .collect();
    let netns = fs::read_link("/proc/self/ns/net")?;
    let call = json!({ "command": command, "stdin": stdin, "env": env, "netns": netns });
    let mut calls = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("calls"))?;
    writeln!(calls, "{call}")
}
