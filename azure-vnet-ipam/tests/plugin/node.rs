//! A node: a wireserver, a state directory, and calls of the plugin as a runtime makes them.

use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::wireserver::Wireserver;

const PLUGIN: &str = env!("CARGO_BIN_EXE_azure-vnet-ipam");

pub struct Node {
    pub server: Wireserver,
    dir: TempDir,
    pub cni_version: &'static str,
    pub network: &'static str,
    pub ifname: &'static str,
    pub args: &'static str,
    /// Further members of `ipam`.
    pub ipam: Value,
    /// Further members of the configuration.
    pub members: Value,
    /// Addresses of the node's own links. With any, the plugin runs in a network namespace that has no others,
    /// and so without the wireserver.
    pub own: Vec<&'static str>,
}

impl Node {
    pub fn with(pods: usize) -> Self {
        Node {
            server: Wireserver::with(pods),
            dir: TempDir::new().unwrap(),
            cni_version: "1.1.0",
            network: "azure",
            ifname: "eth0",
            args: "",
            ipam: json!({}),
            members: json!({}),
            own: vec![],
        }
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join("state").join(name)
    }

    fn conf(&self) -> String {
        let mut ipam = self.ipam.clone();
        ipam["type"] = json!("azure-vnet-ipam");
        ipam["stateDir"] = json!(self.dir.path().join("state"));
        if ipam.get("wireserver").is_none() {
            ipam["wireserver"] = json!(format!("http://{}", self.server.address));
        }
        let mut conf = json!({
            "cniVersion": self.cni_version, "name": self.network, "type": "azure-vnet", "bridge": "azure0",
            "ipam": ipam,
        });
        let members = self.members.as_object().unwrap().clone();
        conf.as_object_mut().unwrap().extend(members);
        conf.to_string()
    }

    /// Starts one call, with its configuration already written.
    pub fn start(&self, command: &str, container: &str) -> Child {
        let mut child = self
            .program()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env(
                "CNI_NETNS",
                if command == "DEL" { "" } else { "/run/netns/x" },
            )
            .env("CNI_IFNAME", self.ifname)
            .env("CNI_ARGS", self.args)
            .env("CNI_PATH", "/nonexistent")
            // Must not be followed.
            .env("http_proxy", "http://127.0.0.1:1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A call that needs no configuration may be over before it is written.
        let _ = stdin.write_all(self.conf().as_bytes());
        child
    }

    fn program(&self) -> Command {
        if self.own.is_empty() {
            return Command::new(PLUGIN);
        }
        let add = |address: &&str| format!("ip address add {address}/32 dev lo && ");
        let adds: String = self.own.iter().map(add).collect();
        let script = format!("{adds} ip link set lo up && exec {PLUGIN}");
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--net", "sh", "-c", &script]);
        unshare
    }

    pub fn call(&self, command: &str, container: &str) -> Output {
        self.start(command, container).wait_with_output().unwrap()
    }

    /// A successful ADD: the address.
    pub fn add(&self, container: &str) -> String {
        address(&self.call("ADD", container))
    }

    /// A failing call: its error object.
    pub fn fails(&self, command: &str, container: &str) -> Value {
        let output = self.call(command, container);
        assert!(!output.status.success(), "{output:?}");
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["cniVersion"], self.cni_version);
        error
    }

    /// A failing ADD: its error object.
    pub fn refused(&self, container: &str) -> Value {
        self.fails("ADD", container)
    }

    pub fn del(&self, container: &str) {
        silent_success(&self.call("DEL", container));
    }
}

pub fn address(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

pub fn silent_success(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The message of an error object.
pub fn message(error: &Value) -> &str {
    error["msg"].as_str().unwrap()
}
