//! An IPAM plugin that does what a check tells it to, and remembers how it was called.

use std::collections::BTreeMap;
use std::fs;

use azure_vnet_testbed::PLUGIN_DIR;
use rustix::fs::symlink;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::fixture::{Lease, Node};
use crate::row::{Verdict, expect};

/// The plugin's type in a configuration.
pub const FAKE: &str = "fake-ipam";

/// The fake in a directory of its own.
pub struct Fake<'a> {
    node: &'a Node,
    /// The directory, to be named in `CNI_PATH`.
    pub dir: String,
}

/// How it was called once.
#[derive(Debug, Deserialize)]
pub struct Called {
    /// `CNI_COMMAND`.
    pub command: String,
    /// Standard input, as text.
    pub stdin: String,
    /// All variables.
    pub env: BTreeMap<String, String>,
    /// Its network namespace, as the link in /proc names it.
    pub netns: String,
}

impl<'a> Fake<'a> {
    /// A fake that answers every command with success and nothing else.
    pub fn new(node: &'a Node) -> Self {
        let dir = format!("/run/fake/{}", node.number());
        node.inside(|| {
            fs::create_dir_all(&dir).unwrap();
            symlink(env!("CARGO_BIN_EXE_fake-ipam"), format!("{dir}/{FAKE}")).unwrap();
        });
        Self { node, dir }
    }

    /// A fake that grants one lease at this version.
    pub fn granting(node: &'a Node, version: &str, lease: Lease) -> Self {
        let fake = Self::new(node);
        fake.grant(&ipam_result(version, &[lease]));
        fake
    }

    /// An attachment of the fixture's configuration with the fake for IPAM.
    pub fn attach(&self, version: &str) -> Attachment<'a> {
        let mut attachment = self.node.attach(version);
        attachment.conf["ipam"] = json!({ "type": FAKE });
        attachment.cni_path = format!("{}:{PLUGIN_DIR}", self.dir);
        attachment
    }

    /// Answers ADD with this result.
    pub fn grant(&self, result: &Value) {
        self.answer("ADD", &result.to_string(), "", 0);
    }

    /// Answers a command with an error object.
    pub fn refuse(&self, command: &str, version: &str, code: u64, msg: &str, details: &str) {
        let error = json!({ "cniVersion": version, "code": code, "msg": msg, "details": details });
        self.answer(command, &error.to_string(), "", 1);
    }

    /// Answers a command with these streams and this exit status.
    pub fn answer(&self, command: &str, stdout: &str, stderr: &str, exit: u8) {
        let answer = json!({ "stdout": stdout, "stderr": stderr, "exit": exit }).to_string();
        let path = format!("{}/{command}.json", self.dir);
        self.node.inside(|| fs::write(path, answer)).unwrap();
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Called> {
        let path = format!("{}/calls", self.dir);
        let text = self
            .node
            .inside(|| fs::read_to_string(path))
            .unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The commands of all calls so far.
    pub fn commands(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.command).collect()
    }

    /// Fails if it was called at all.
    pub fn was_not_called(&self) -> Verdict {
        let commands = self.commands();
        expect(
            commands.is_empty(),
            "the IPAM plugin is not called",
            format!("it was called for {commands:?}"),
        )
    }
}

/// A result of an IPAM plugin with a default route, as this version spells it.
pub fn ipam_result(version: &str, leases: &[Lease]) -> Value {
    if version < "0.3.0" {
        let lease = leases[0];
        let ip4 = json!({ "ip": lease.cidr(), "gateway": lease.gateway, "routes": [{ "dst": "0.0.0.0/0" }] });
        return json!({ "cniVersion": version, "ip4": ip4, "dns": { "nameservers": ["192.0.2.53"] } });
    }
    let ips: Vec<Value> = leases
        .iter()
        .map(|lease| {
            let mut ip = json!({ "address": lease.cidr(), "gateway": lease.gateway });
            if version < "1.0.0" {
                ip["version"] = "4".into();
            }
            ip
        })
        .collect();
    json!({
        "cniVersion": version,
        "ips": ips,
        "routes": [{ "dst": "0.0.0.0/0" }],
        "dns": { "nameservers": ["192.0.2.53"] },
    })
}
