//! The `CNI_*` variables: which command this is, and for which attachment.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
};

use crate::{args::Args, error::CniError, foreign};

/// The environment of a call, taken once so that a test can give its own.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        Environment(env::vars_os().collect())
    }

    /// The same with these in the place of its own.
    pub(crate) fn with(mut self, variables: &[(&str, String)]) -> Self {
        let pairs = variables.iter();
        self.0
            .extend(pairs.map(|(name, value)| (name.into(), value.into())));
        self
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
    Check(CheckVariables),
    Gc(CommonVariables),
    Status(CommonVariables),
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

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CheckVariables {
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) path: String,
}

/// Of a command that is about no attachment. libcni sets the other variables all the same, to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommonVariables {
    /// Nobody but a plugin that delegates needs it, so its absence is that plugin's error.
    pub(crate) path: String,
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
                path: variables.path(),
            }),
            Some("DEL") => Call::Del(DelVariables {
                container_id: variables.required("CNI_CONTAINERID", container_id_problem),
                // A namespace that cannot be named is one that is gone: no reason to fail.
                netns: environment
                    .get("CNI_NETNS")
                    .and_then(|netns| netns.to_str())
                    .map(ToOwned::to_owned),
                ifname: variables.required("CNI_IFNAME", ifname_problem),
                path: variables.path(),
            }),
            Some("CHECK") => Call::Check(CheckVariables {
                container_id: variables.required("CNI_CONTAINERID", container_id_problem),
                netns: variables.required("CNI_NETNS", |_| None),
                ifname: variables.required("CNI_IFNAME", ifname_problem),
                path: variables.path(),
            }),
            Some("GC") => Call::Gc(CommonVariables {
                path: variables.path(),
            }),
            Some("STATUS") => Call::Status(CommonVariables {
                path: variables.path(),
            }),
            _ => return Err(unknown_command(&command.to_string_lossy())),
        };
        variables.verdict().map(|()| call)
    }
}

/// Code 4 for a `CNI_COMMAND` that the specification does not have.
fn unknown_command(command: &str) -> CniError {
    CniError::invalid_environment(format!("unknown CNI_COMMAND: {command:?}"))
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
            let shown = foreign::excerpt(&value);
            self.problems.push(format!("{name} \"{shown}\" {problem}"));
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

    fn path(&mut self) -> String {
        self.optional("CNI_PATH").unwrap_or_default()
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
    (!is_identifier(value)).then_some(IDENTIFIER)
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

/// Bytes of an identifier. The specification has no limit, and runtimes write 64 digits, or a name.
const LONGEST_IDENTIFIER: usize = 1024;

/// What [`is_identifier`] asks for, as the rest of a sentence.
pub(crate) const IDENTIFIER: &str = "must begin with a letter or digit, go on with letters, digits, '_', '.', '-', and \
                                     have at most 1024 bytes";

/// The specification's pattern for container IDs and network names, and a limit.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= LONGEST_IDENTIFIER
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests;
