//! Calls a list of plugins the way libcni does: ADD in order and stop at the first failure, DEL backwards, results remembered, all
//! six variables set even when empty, and the whole environment passed on.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitStatus;
use std::sync::{MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::PLUGIN_DIR;
use crate::conflist::{self, Conflist};
use crate::process::{self, Output};
use crate::vm::Vm;

/// One interface of one container: what a runtime calls the plugins for.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; empty once the namespace is gone.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`, in this order.
    pub args: Vec<(String, String)>,
    /// What the runtime has for each capability; a plugin gets what it declares.
    pub capability_args: Map<String, Value>,
}

/// What a runtime asks of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Connect the container.
    Add,
    /// Undo it.
    Del,
    /// Say whether it still is as it was made; from 0.4.0 on.
    Check,
}

/// Why a list could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list cannot be used.
    #[error(transparent)]
    Conflist(#[from] conflist::Invalid),
    /// The last plugin's result lacks what a runtime needs of it.
    #[error("unusable result: {0}")]
    Result(String),
    /// A plugin could not be started, or did not end in time.
    #[error("plugin {plugin} ({verb})")]
    Run {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// Why.
        source: Box<crate::Error>,
    },
    /// A plugin said no.
    #[error("plugin {plugin} failed ({verb}): {msg} {details} [code {code}]")]
    Refused {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// The error code of the CNI specification.
        code: u64,
        /// The message.
        msg: String,
        /// The details, often empty.
        details: String,
    },
    /// A plugin failed without an error object, or succeeded without a result.
    #[error(
        "plugin {plugin} ({verb}) does not speak CNI: exit {status}, stdout {stdout:?}, stderr {stderr:?}"
    )]
    Garbled {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        stdout: String,
        /// What it complained about.
        stderr: String,
    },
    /// After a failed ADD the DEL of the whole list failed as well.
    #[error("ADD failed, and so did the clean-up after it ({del})")]
    CleanUp {
        /// Why the ADD failed.
        #[source]
        add: Box<Error>,
        /// Why the DEL failed.
        del: Box<Error>,
    },
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
        })
    }
}

/// ADD of the whole list, in order; stops at the first failure. The last plugin's result is remembered.
pub fn add(vm: &Vm, list: &Conflist, attachment: &Attachment) -> Result<Value, Error> {
    let mut result = None;
    for plugin in list.plugins() {
        result = Some(call(
            vm,
            Verb::Add,
            plugin,
            &list.stdin(plugin, attachment, result.as_ref()),
            attachment,
        )?);
    }
    let result = result.unwrap_or_default();
    results(vm).insert(key(list, attachment), result.clone());
    Ok(result)
}

/// DEL of the whole list, backwards; stops at the first failure. What was remembered is forgotten only when all succeeded.
pub fn del(vm: &Vm, list: &Conflist, attachment: &Attachment) -> Result<(), Error> {
    let remembered = results(vm)
        .get(&key(list, attachment))
        .cloned()
        .filter(|_| list.since_0_4_0());
    for plugin in list.plugins().iter().rev() {
        call(
            vm,
            Verb::Del,
            plugin,
            &list.stdin(plugin, attachment, remembered.as_ref()),
            attachment,
        )?;
    }
    results(vm).remove(&key(list, attachment));
    Ok(())
}

/// CHECK of the whole list, in order.
pub fn check(vm: &Vm, list: &Conflist, attachment: &Attachment) -> Result<(), Error> {
    if !list.since_0_4_0() {
        return Err(
            conflist::Invalid(format!("CHECK is not known at {}", list.cni_version)).into(),
        );
    }
    let remembered = results(vm).get(&key(list, attachment)).cloned();
    list.plugins().iter().try_for_each(|plugin| {
        call(
            vm,
            Verb::Check,
            plugin,
            &list.stdin(plugin, attachment, remembered.as_ref()),
            attachment,
        )
        .map(drop)
    })
}

fn key(list: &Conflist, attachment: &Attachment) -> (String, String, String) {
    (
        list.name.clone(),
        attachment.container_id.clone(),
        attachment.ifname.clone(),
    )
}

fn results(vm: &Vm) -> MutexGuard<'_, BTreeMap<(String, String, String), Value>> {
    vm.results.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one plugin. The answer is its result for ADD, and null for the others, which print nothing.
fn call(
    vm: &Vm,
    verb: Verb,
    plugin: &Map<String, Value>,
    stdin: &str,
    attachment: &Attachment,
) -> Result<Value, Error> {
    let plugin = plugin["type"].as_str().unwrap_or_default().to_owned();
    let failed = |source| Error::Run {
        plugin: plugin.clone(),
        verb,
        source: Box::new(source),
    };
    let args: Vec<_> = attachment
        .args
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let program = vm
        .program(&format!("{PLUGIN_DIR}/{plugin}"))
        .map_err(failed)?;
    let program = program
        .env("CNI_COMMAND", verb.to_string())
        .env("CNI_CONTAINERID", &attachment.container_id)
        .env("CNI_NETNS", &attachment.netns)
        .env("CNI_IFNAME", &attachment.ifname)
        .env("CNI_ARGS", args.join(";"))
        .env("CNI_PATH", PLUGIN_DIR)
        .stdin(stdin);
    let output = program
        .output()
        .map_err(|error: process::Error| failed(error.into()))?;
    answer(plugin, verb, output)
}

fn answer(plugin: String, verb: Verb, output: Output) -> Result<Value, Error> {
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let printed: Option<Value> = serde_json::from_str(&stdout).ok().filter(Value::is_object);
    match printed {
        Some(error) if !status.success() && error["code"].is_u64() => {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            Err(Error::Refused {
                plugin,
                verb,
                code: error["code"].as_u64().unwrap_or_default(),
                msg: text("msg"),
                details: text("details"),
            })
        }
        Some(result) if status.success() && verb == Verb::Add => Ok(result),
        _ if status.success() && verb != Verb::Add => Ok(Value::Null),
        _ => Err(Error::Garbled {
            plugin,
            verb,
            status,
            stdout,
            stderr,
        }),
    }
}
