//! A VM on which nothing is installed yet, and the script.

use std::path::PathBuf;

use azure_vnet_testbed::process::Output;
use azure_vnet_testbed::{CONFIG_DIR, PLUGIN_DIR, Vm};

/// Names the folder with the archives.
const DIST: &str = "AZURE_VNET_DIST";
pub const OLD: &str = "v1.0.0";
pub const NEW: &str = "v1.0.1";

/// The folder with the archives.
pub fn dist() -> PathBuf {
    let folder = std::env::var_os(DIST);
    folder
        .unwrap_or_else(|| {
            panic!("{DIST} is not set: run this stage by `cargo xtask test --stage install`")
        })
        .into()
}

/// A node without plugins.
pub struct Node<'vm> {
    pub vm: &'vm Vm,
}

impl<'vm> Node<'vm> {
    /// Takes away what the testbed has put there; its plugins are bind mounts.
    pub fn bare(vm: &'vm Vm) -> Self {
        let node = Self { vm };
        node.shell(&format!("umount {PLUGIN_DIR}/*"));
        for folder in [PLUGIN_DIR, CONFIG_DIR] {
            node.shell(&format!("rm -rf {folder}/* && mkdir -p {folder}"));
        }
        node
    }

    /// Runs `scripts/install-cni-plugin.sh`.
    pub fn script(&self, arguments: &[&str]) -> Output {
        self.script_with(arguments, &[])
    }

    /// Runs the script with other archives than those of this run, or in another place.
    pub fn script_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../scripts/install-cni-plugin.sh"
        );
        let program = self.vm.program(script).unwrap().args(arguments);
        let program = program.env("AZURE_VNET_SOURCE", dist());
        let set = |program: azure_vnet_testbed::process::Program, (key, value): &(&str, &str)| {
            program.env(key, value)
        };
        environment.iter().fold(program, set).output().unwrap()
    }

    /// Runs the script, which has to succeed, and returns what it printed.
    #[track_caller]
    pub fn install(&self, arguments: &[&str]) -> String {
        let output = self.script(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.stdout
    }

    /// What is in a folder.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let listed = self.shell(&format!("ls -A {folder}"));
        listed.lines().map(str::to_owned).collect()
    }

    /// Runs a command line of the test.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        let shell = self.vm.program("sh").unwrap().args(["-ec", line]);
        shell.checked().unwrap()
    }
}
