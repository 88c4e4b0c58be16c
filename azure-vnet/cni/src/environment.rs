//! The `CNI_*` variables: which command this is, and for which attachment.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
};

use crate::{args::Args, error::CniError};

/// The environment of a call, taken once so that a test can give its own.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        Environment(env::vars_os().collect())
    }

    /// A variable's value. Empty means missing: libcni always sets all six variables.
    fn get(&self, name: &str) -> Option<&OsString> {
        self.0
            .get(OsStr::new(name))
            .filter(|value| !value.is_empty())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        Environment(
            pairs
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

/// A command with the variables that belong to it, before any configuration is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Version,
    Add(AddVariables),
    Del(DelVariables),
    /// A command of a newer specification than the plugins speak: `CHECK`, `STATUS` or `GC`.
    Newer(NewerCommand),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AddVariables {
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: Args,
    pub(crate) path: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DelVariables {
    pub(crate) container_id: String,
    pub(crate) netns: Option<String>,
    pub(crate) ifname: String,
    pub(crate) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewerCommand {
    Check,
    Status,
    Gc,
}

impl Call {
    /// Which command the environment asks for; `None` without `CNI_COMMAND`, when a person is looking at the
    /// binary.
    ///
    /// # Errors
    /// Code 4; all missing and all invalid variables in one message.
    pub(crate) fn from_environment(environment: &Environment) -> Option<Result<Call, CniError>> {
        let command = environment.get("CNI_COMMAND")?;
        Some(Self::of_command(command, environment))
    }

    fn of_command(command: &OsStr, environment: &Environment) -> Result<Call, CniError> {
        let mut variables = Variables {
            environment,
            problems: Vec::new(),
        };
        // Case matters, as in libcni.
        let call = match command.to_str() {
            Some("VERSION") => Call::Version,
            Some("ADD") => Call::Add(AddVariables {
                container_id: variables.required("CNI_CONTAINERID", container_id_problem),
                netns: variables.required("CNI_NETNS", |_| None),
                ifname: variables.required("CNI_IFNAME", ifname_problem),
                args: variables.args(),
                path: variables.optional("CNI_PATH").unwrap_or_default(),
            }),
            Some("DEL") => Call::Del(DelVariables {
                container_id: variables.required("CNI_CONTAINERID", container_id_problem),
                // A namespace that cannot be named is one that is gone: no reason to fail.
                netns: environment
                    .get("CNI_NETNS")
                    .and_then(|netns| netns.to_str())
                    .map(ToOwned::to_owned),
                ifname: variables.required("CNI_IFNAME", ifname_problem),
                path: variables.optional("CNI_PATH").unwrap_or_default(),
            }),
            Some("CHECK") => {
                variables.required("CNI_CONTAINERID", container_id_problem);
                variables.required("CNI_NETNS", |_| None);
                variables.required("CNI_IFNAME", ifname_problem);
                Call::Newer(NewerCommand::Check)
            }
            Some("STATUS") => Call::Newer(NewerCommand::Status),
            Some("GC") => Call::Newer(NewerCommand::Gc),
            _ => return Err(unknown_command(&command.to_string_lossy())),
        };
        variables.verdict().map(|()| call)
    }
}

/// Code 4 for a `CNI_COMMAND` that the plugins do not have.
pub(crate) fn unknown_command(command: &str) -> CniError {
    CniError::invalid_environment(format!("unknown CNI_COMMAND: {command:?}"))
}

impl NewerCommand {
    pub(crate) fn name(self) -> &'static str {
        match self {
            NewerCommand::Check => "CHECK",
            NewerCommand::Status => "STATUS",
            NewerCommand::Gc => "GC",
        }
    }
}

/// Takes variables out of the environment and remembers everything that is wrong with them.
struct Variables<'a> {
    environment: &'a Environment,
    problems: Vec<String>,
}

impl Variables<'_> {
    /// The value; empty after a problem, which [`verdict`](Self::verdict) then reports.
    fn required(&mut self, name: &str, problem: fn(&str) -> Option<&'static str>) -> String {
        let Some(value) = self.optional(name) else {
            if self.environment.get(name).is_none() {
                self.problems.push(format!("{name} is missing"));
            }
            return String::new();
        };
        if let Some(problem) = problem(&value) {
            self.problems.push(format!("{name} {value:?} {problem}"));
        }
        value
    }

    fn optional(&mut self, name: &str) -> Option<String> {
        let value = self.environment.get(name)?;
        let text = value.to_str();
        if text.is_none() {
            let problem = format!("{name} {:?} is not UTF-8", value.to_string_lossy());
            self.problems.push(problem);
        }
        text.map(ToOwned::to_owned)
    }

    fn args(&mut self) -> Args {
        let text = self.optional("CNI_ARGS").unwrap_or_default();
        Args::parse(&text).unwrap_or_else(|problem| {
            self.problems.push(format!("CNI_ARGS {text:?} {problem}"));
            Args::default()
        })
    }

    fn verdict(self) -> Result<(), CniError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(CniError::invalid_environment(self.problems.join("; ")))
    }
}

fn container_id_problem(value: &str) -> Option<&'static str> {
    (!is_identifier(value)).then_some(
        "must begin with a letter or digit and go on with letters, digits, '_', '.', '-'",
    )
}

/// What the kernel (`dev_valid_name`) and libcni accept as an interface name.
fn ifname_problem(value: &str) -> Option<&'static str> {
    if value.len() > 15 {
        Some("is longer than 15 bytes")
    } else if value == "." || value == ".." {
        Some("is not an interface name")
    } else if value.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        Some("must not contain '/', ':' or white space")
    } else {
        None
    }
}

/// The specification's pattern for container IDs and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
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
        let about = |pairs: &[(&str, &str)]| {
            Call::from_environment(&pairs.iter().copied().collect()).is_none()
        };
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
    }

    #[test]
    fn del_needs_no_netns_and_ignores_args() {
        for changes in [[("CNI_NETNS", ""), ("CNI_ARGS", "A=B=C")]] {
            match with("DEL", &changes).unwrap() {
                Call::Del(variables) => assert_eq!(variables.netns, None),
                other => panic!("{other:?}"),
            }
        }
        let error = with("ADD", &[("CNI_ARGS", "A=B=C")]).unwrap_err();
        assert!(error.code == 4 && error.msg.contains("CNI_ARGS"));
    }

    #[test]
    fn container_ids() {
        let long = "a".repeat(300);
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
}
