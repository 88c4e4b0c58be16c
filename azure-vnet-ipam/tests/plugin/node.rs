//! A node: a wireserver, a state directory, and calls of the plugin as a runtime makes them.

use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{vm, wireserver::Wireserver};

/// What names the folder of the plugins, one file with two names.
const BIN_DIR: &str = "AZURE_VNET_BIN_DIR";

fn plugin() -> PathBuf {
    let folder = std::env::var_os(BIN_DIR);
    let folder = folder.unwrap_or_else(|| {
        panic!("{BIN_DIR} is not set: run this stage by `cargo xtask test --stage plugin`")
    });
    PathBuf::from(folder).join("azure-vnet-ipam")
}

pub struct Node {
    pub server: Wireserver,
    dir: TempDir,
    pub cni_version: &'static str,
    pub network: &'static str,
    pub ifname: &'static str,
    pub args: &'static str,
    /// The umask that the runtime runs the plugin with.
    pub umask: &'static str,
    /// Further members of `ipam`.
    pub ipam: Value,
    /// Further members of the configuration.
    pub members: Value,
    /// MAC of the NIC. With another than the usual one, as with any of the following, the plugin runs in namespaces of
    /// its own, and so without the wireserver.
    pub nic: &'static str,
    /// Further addresses of the node's own links.
    pub own: Vec<&'static str>,
    /// Addresses of pods that this node's kernel has as permanent neighbours.
    pub neighbours: Vec<&'static str>,
    /// Further links of this node, by name.
    pub links: Vec<&'static str>,
}

impl Node {
    pub fn with(pods: usize) -> Self {
        vm::enter();
        Node {
            server: Wireserver::with(pods),
            dir: TempDir::new().unwrap(),
            cni_version: "1.1.0",
            network: "azure",
            ifname: "eth0",
            args: "",
            umask: "022",
            ipam: json!({}),
            members: json!({}),
            nic: vm::MAC,
            own: vec![],
            neighbours: vec![],
            links: vec![],
        }
    }

    /// The recorded state.
    pub fn record(&self) -> Value {
        let bytes = std::fs::read(self.state("ipam.json")).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["state"].clone()
    }

    /// Waits for a record that a call in the background is about to write; a generous limit, for a busy machine.
    pub fn eventually(&self, is_so: impl Fn(&Value) -> bool) {
        for _ in 0..1200 {
            if is_so(&self.record()) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("still {:#}", self.record());
    }

    /// A list of addresses in a file beside the state, for calls in a namespace that has no wireserver.
    pub fn use_file(&mut self, addresses: &[&str]) {
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|address| json!({"Address": address}))
            .collect();
        let list = json!({"Interfaces": [{"MacAddress": "*", "IsPrimary": true, "IPSubnets":
            [{"Prefix": "10.20.0.0/22", "IPAddresses": addresses}]}]});
        let path = self.beside("list.json");
        std::fs::write(&path, list.to_string()).unwrap();
        self.ipam = json!({"environment": "file", "file": path, "queryInterval": 0});
    }

    /// A path in the directory that the state's directory is in.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
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
            .env("AZURE_VNET_LOG_DIR", self.dir.path())
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
        let is_usual = self.own.is_empty() && self.neighbours.is_empty() && self.links.is_empty();
        if is_usual && self.nic == vm::MAC {
            let mut shell = Command::new("sh");
            let line = format!("umask {} && exec {}", self.umask, plugin().display());
            shell.args(["-c", &line]);
            return shell;
        }
        let link = |name: &&str| format!("ip link add {name} type bridge");
        let own = |address: &&str| format!("ip address add {address}/32 dev lo");
        let pod = |address: &&str| {
            format!("ip neigh add {address} lladdr 0a:58:00:00:00:01 nud permanent dev azure0")
        };
        let bridge = "ip link add azure0 type bridge && ip link set azure0 up".to_owned();
        let lines: Vec<String> = [vm::links(self.nic), bridge]
            .into_iter()
            .chain(self.links.iter().map(link))
            .chain(self.own.iter().map(own))
            .chain(self.neighbours.iter().map(pod))
            .chain([format!("exec {}", plugin().display())])
            .collect();
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "sh", "-c", &lines.join(" && ")]);
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
