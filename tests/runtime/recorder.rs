//! What the runtime asked of each plugin, and what it was told: `recorder.sh` in every plugin's place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use azure_vnet_testbed::{PLUGIN_DIR, Vm};
use serde_json::Value;

use crate::node::Node;

/// Where runtimes are told to look for plugins.
pub const RECORDED_PLUGINS: &str = "/run/recorder/bin";
const CALLS: &str = "/run/recorder/calls";
const REFUSALS: &str = "/run/recorder/refuse";
const ORIGINALS: &str = "/run/recorder/plugins";
/// Where the distribution has its plugins; the VM offers some of them already.
const DISTRIBUTION_PLUGINS: &str = "/usr/lib/cni";
/// Called by `azure-vnet`, not by the runtime.
const IPAM: &str = "azure-vnet-ipam";

/// One call of one plugin.
#[derive(Debug)]
pub struct Call {
    /// The plugin's type.
    pub plugin: String,
    /// All of its environment.
    pub environment: BTreeMap<String, String>,
    /// What it read.
    pub stdin: String,
    /// Its exit status.
    pub status: i32,
}

/// Puts the recorder in the place of every plugin of the node.
pub fn install(node: &Node<'_>) {
    for folder in [RECORDED_PLUGINS, CALLS, REFUSALS, ORIGINALS] {
        node.run("mkdir", &["-p", folder]);
    }
    let recorder = format!("{ORIGINALS}/recorder.sh");
    node.vm
        .write_file(&recorder, include_str!("recorder.sh"))
        .unwrap();
    node.run("chmod", &["755", &recorder]);
    // The VM's own plugins come last and replace those of the same name.
    for folder in [DISTRIBUTION_PLUGINS, PLUGIN_DIR] {
        for plugin in node.run("ls", &[folder]).lines() {
            let original = format!("{folder}/{plugin}");
            let shown = if plugin == IPAM { &original } else { &recorder };
            node.run("ln", &["-sf", &original, ORIGINALS]);
            node.run(
                "ln",
                &["-sf", shown, &format!("{RECORDED_PLUGINS}/{plugin}")],
            );
        }
    }
}

/// Gives a plugin a second name, under which it is recorded and may be refused on its own.
pub fn alias(node: &Node<'_>, name: &str, plugin: &str) {
    let original = format!("{ORIGINALS}/{plugin}");
    let recorder = format!("{ORIGINALS}/recorder.sh");
    node.run("ln", &["-s", &original, &format!("{ORIGINALS}/{name}")]);
    node.run(
        "ln",
        &["-s", &recorder, &format!("{RECORDED_PLUGINS}/{name}")],
    );
}

/// Has a plugin refuse a verb from now on, without being run.
pub fn refuse(vm: &Vm, plugin: &str, verb: &str, error: &Value) {
    vm.write_file(&format!("{REFUSALS}/{plugin}-{verb}"), &error.to_string())
        .unwrap();
}

/// Ends what `refuse` began.
pub fn relent(vm: &Vm, plugin: &str, verb: &str) {
    let refusal = format!("{REFUSALS}/{plugin}-{verb}");
    let removed = vm.namespace().run(|| fs::remove_file(refusal));
    removed.unwrap().unwrap();
}

/// All calls of all plugins so far, in the order in which they ended.
pub fn calls(vm: &Vm) -> Vec<Call> {
    let whole = |path: &PathBuf| {
        !path
            .file_name()
            .unwrap()
            .as_encoded_bytes()
            .starts_with(b".")
    };
    let read = || {
        let entries = fs::read_dir(CALLS).unwrap();
        let mut folders: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(whole)
            .collect();
        folders.sort();
        folders.iter().map(|folder| Call::read(folder)).collect()
    };
    vm.namespace().run(read).unwrap()
}

impl fmt::Display for Call {
    /// Verb and plugin.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb(), self.plugin)
    }
}

impl Call {
    /// An environment variable; empty when it is not set, as most runtimes make no difference.
    pub fn env(&self, name: &str) -> &str {
        self.environment.get(name).map_or("", String::as_str)
    }

    /// The verb.
    pub fn verb(&self) -> &str {
        self.env("CNI_COMMAND")
    }

    /// The configuration, as sent.
    pub fn config(&self) -> Value {
        serde_json::from_str(&self.stdin).unwrap()
    }

    /// The namespace's path, whether there was a `prevResult`, and the exit status: what distinguishes one DEL from another.
    pub fn circumstances(&self) -> (&str, bool, i32) {
        (
            self.env("CNI_NETNS"),
            self.config().get("prevResult").is_some(),
            self.status,
        )
    }

    fn read(folder: &Path) -> Self {
        let file = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let environment = file("environment");
        let variables = environment
            .split('\0')
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            plugin: file("plugin").trim().to_owned(),
            environment: variables.collect(),
            stdin: file("stdin"),
            status: file("status").trim().parse().unwrap(),
        }
    }
}
