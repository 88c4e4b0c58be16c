//! One VM, the plugin in one tier, and calls of it as a runtime makes them, with whatever a test wants to say in between.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::process::{Error, Output, Program};
use azure_vnet_testbed::{Azure, NETNS_DIR, PLUGIN_DIR, Vm};
use serde_json::{Value, json};

use crate::traces::Traces;

/// How the datapath is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// eBPF by TCX links.
    Tcx,
    /// eBPF by filters, as on kernels before 6.6.
    ClsBpf,
    /// nftables.
    Netfilter,
}

pub const TIERS: [Tier; 3] = [Tier::Tcx, Tier::ClsBpf, Tier::Netfilter];

/// A VM whose runtime calls the plugin with one configuration.
pub struct Node {
    azure: Azure,
    pub tier: Tier,
    conf: Mutex<Value>,
    containers: AtomicUsize,
    /// Whether the IPAM plugin is a program of its own for every second container.
    by_turns: bool,
}

/// A container's sandbox. Dropping it takes the path away, and with it the last user of the namespace.
pub struct Container<'a> {
    node: &'a Node,
    pub id: String,
    pub netns: String,
    pub ifname: &'static str,
    namespace: Option<Namespace>,
}

/// What the plugin answered.
#[derive(Debug)]
#[expect(
    dead_code,
    reason = "standard error is for whoever reads a failed assertion"
)]
pub struct Answer {
    success: bool,
    stdout: String,
    stderr: String,
}

/// A search path where the IPAM plugin is a file of its own, so that it is executed: the netfilter tier's. On the others it is the
/// network plugin's file, and called within.
fn apart() -> String {
    let folder = azure_vnet_testbed::bin_dir().unwrap().join("apart");
    format!("{}:{PLUGIN_DIR}", folder.display())
}

impl Node {
    pub fn new(tier: Tier) -> Self {
        Self::with_pool(tier, 40)
    }

    pub fn with_pool(tier: Tier, pool: u8) -> Self {
        let datapath = if tier == Tier::Netfilter {
            "netfilter"
        } else {
            "ebpf"
        };
        let conf = json!({
            "cniVersion": "1.1.0", "name": "azure", "type": "azure-vnet", "mode": "bridge", "bridge": "azure0",
            "ipam": { "type": "azure-vnet-ipam" }, "masquerade": { "datapath": datapath },
        });
        let azure = Azure::builder().pool(pool).mtu(3900).build().unwrap();
        Self {
            azure,
            tier,
            conf: Mutex::new(conf),
            containers: AtomicUsize::new(0),
            by_turns: false,
        }
    }

    /// The IPAM plugin is called within the network plugin for one container, and executed for the next.
    pub fn with_ipam_by_turns(self) -> Self {
        Self {
            by_turns: true,
            ..self
        }
    }

    pub fn vm(&self) -> &Vm {
        &self.azure.vms[0]
    }

    pub fn azure(&self) -> &Azure {
        &self.azure
    }

    /// The plugin's configuration as it is now.
    pub fn conf(&self) -> Value {
        self.conf.lock().unwrap().clone()
    }

    /// Changes the configuration for all calls from now on; returns the one before.
    pub fn reconfigure(&self, conf: Value) -> Value {
        std::mem::replace(&mut self.conf.lock().unwrap(), conf)
    }

    /// Takes away what shows to IPAM that a pod has this address: its neighbour and its routes.
    pub fn forget_in_kernel(&self, address: Ipv4Addr) {
        for line in [
            format!("ip neighbour delete {address} dev azure0"),
            format!("ip route delete {address} dev azure0"),
            format!("ip route delete {address} dev azure0"),
        ] {
            self.sh(&line);
        }
    }

    /// Names another IPAM plugin for all calls from now on.
    pub fn use_ipam(&self, plugin: &str) {
        self.conf.lock().unwrap()["ipam"]["type"] = plugin.into();
    }

    /// The first attachment sets the node up; what is there when it is gone is what must be there when any other is gone.
    pub fn settled(tier: Tier) -> (Self, Traces) {
        let node = Self::new(tier);
        let first = node.container();
        first.add();
        first.del().ok();
        drop(first);
        let traces = node.traces();
        (node, traces)
    }

    pub fn container(&self) -> Container<'_> {
        let number = self.containers.fetch_add(1, Ordering::Relaxed);
        let (id, netns) = (
            format!("container-{number}"),
            format!("{NETNS_DIR}/cni-{number}"),
        );
        let namespace = Some(self.vm().new_sandbox(&netns).unwrap());
        Container {
            node: self,
            id,
            netns,
            ifname: "eth0",
            namespace,
        }
    }

    pub fn traces(&self) -> Traces {
        Traces::of(self.vm(), self.tier)
    }

    /// Calls the plugin about no container.
    pub fn call(&self, verb: &str, extra: &Value) -> Answer {
        self.run(self.program(verb, [""; 4]), extra)
    }

    /// Calls the plugin about a container that is none of the fixture's; `of` is as in [`Self::environment`].
    pub fn call_of(&self, verb: &str, of: [&str; 4]) -> Answer {
        self.run(self.program(verb, of), &json!({}))
    }

    fn program(&self, verb: &str, of: [&str; 4]) -> Program {
        let path = format!("{PLUGIN_DIR}/azure-vnet");
        let program = self.vm().program(&path).unwrap();
        let variables = self.environment(verb, of).into_iter();
        variables.fold(program, |program, (name, value)| program.env(name, value))
    }

    /// The variables of a call; `of` is container ID, namespace, interface and arguments.
    pub fn environment(&self, verb: &str, of: [&str; 4]) -> Vec<(&'static str, String)> {
        let [id, netns, ifname, args] = of;
        let forced = if self.tier == Tier::ClsBpf { "1" } else { "0" };
        let is_second = id.ends_with(['1', '3', '5', '7', '9']);
        let path = if self.tier == Tier::Netfilter || self.by_turns && is_second {
            apart()
        } else {
            PLUGIN_DIR.to_owned()
        };
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_PATH", path.as_str()),
            ("AZURE_VNET_FORCE_CLS_BPF", forced),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", ifname),
            ("CNI_ARGS", args),
        ];
        variables
            .map(|(name, value)| (name, value.to_owned()))
            .to_vec()
    }

    /// What a call reads: the configuration, with more keys.
    pub fn stdin(&self, extra: &Value) -> String {
        let mut conf = self.conf();
        let extra = extra.as_object().unwrap().clone();
        conf.as_object_mut().unwrap().extend(extra);
        conf.to_string()
    }

    fn run(&self, program: Program, extra: &Value) -> Answer {
        program.stdin(self.stdin(extra)).output().unwrap().into()
    }

    /// Runs a program on the VM.
    pub fn sh(&self, line: &str) -> String {
        sh(self.vm().namespace(), line)
    }

    /// An IPAM plugin of its own for the VM: a shell script.
    pub fn install_plugin(&self, name: &str, script: &str) {
        let path = format!("{PLUGIN_DIR}/{name}");
        self.vm()
            .write_file(&path, &format!("#!/bin/sh\n{script}\n"))
            .unwrap();
        self.sh(&format!("chmod 755 {path}"));
    }
}

/// Runs a program in a namespace.
pub fn sh(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = namespace.program(words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap()
}

/// Runs `ip -j` in a namespace.
pub fn ip(namespace: &Namespace, line: &str) -> Value {
    let text = sh(namespace, &format!("ip -j {line}"));
    if text.trim().is_empty() {
        json!([])
    } else {
        serde_json::from_str(&text).unwrap()
    }
}

impl<'a> Container<'a> {
    /// Another interface of the same container.
    pub fn second(&self, ifname: &'static str) -> Container<'a> {
        Container {
            node: self.node,
            id: self.id.clone(),
            netns: self.netns.clone(),
            ifname,
            namespace: None,
        }
    }

    pub fn call(&self, verb: &str, extra: &Value) -> Answer {
        self.call_with_args(verb, "", extra)
    }

    pub fn call_with_args(&self, verb: &str, args: &str, extra: &Value) -> Answer {
        self.node.run(self.program(verb, args), extra)
    }

    /// ADD, which must succeed.
    pub fn add(&self) -> Value {
        self.call("ADD", &json!({})).result()
    }

    /// ADD by a runtime that says whether the plugin's own namespace may be meant.
    pub fn add_with_override(&self, value: &str) -> Answer {
        let program = self.program("ADD", "").env("CNI_NETNS_OVERRIDE", value);
        self.node.run(program, &json!({}))
    }

    /// ADD that is killed if it has not ended by `limit`; says whether it was.
    pub fn add_or_kill(&self, limit: Duration) -> bool {
        self.call_or_kill("ADD", limit)
    }

    /// A call that is killed if it has not ended by `limit`; says whether it was.
    pub fn call_or_kill(&self, verb: &str, limit: Duration) -> bool {
        let program = self.program(verb, "").stdin(self.node.stdin(&json!({})));
        match program.limit(limit).output() {
            Ok(_) => false,
            Err(Error::TimeLimit { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    }

    /// DEL by the IPAM plugin alone.
    pub fn give_address_back(&self) {
        let program = self
            .node
            .vm()
            .program(&format!("{PLUGIN_DIR}/azure-vnet-ipam"))
            .unwrap();
        let program = program
            .env("CNI_COMMAND", "DEL")
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", "")
            .env("CNI_IFNAME", self.ifname)
            .env("CNI_ARGS", "")
            .env("CNI_PATH", PLUGIN_DIR);
        self.node.run(program, &json!({})).ok();
    }

    pub fn del(&self) -> Answer {
        self.call("DEL", &json!({}))
    }

    /// DEL of a runtime that knows no namespace any more.
    pub fn del_without_netns(&self) -> Answer {
        let program = self.program("DEL", "").env("CNI_NETNS", "");
        self.node.run(program, &json!({}))
    }

    fn program(&self, verb: &str, args: &str) -> Program {
        self.node
            .program(verb, [&self.id, &self.netns, self.ifname, args])
    }

    /// The variables of a call about it.
    pub fn environment(&self, verb: &str) -> Vec<(&'static str, String)> {
        let of = [&self.id, &self.netns, self.ifname, ""];
        self.node.environment(verb, of)
    }

    /// The VM it is on.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    pub fn check(&self, result: &Value) -> Answer {
        self.call("CHECK", &json!({ "prevResult": result }))
    }

    pub fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().unwrap()
    }

    /// Ends the sandbox and everything in it.
    pub fn end_sandbox(&mut self) {
        if self.namespace.take().is_some() {
            self.node.vm().remove_sandbox(&self.netns).unwrap();
        }
    }

    /// The node's end of its veth.
    pub fn host_veth(&self) -> String {
        azure_vnet::names::host_veth("azure", &self.id, self.ifname)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.namespace.take().is_some() {
            let _ = self.node.vm().remove_sandbox(&self.netns);
        }
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            success: output.status.success(),
            stdout: output.stdout,
            stderr: output.stderr,
        }
    }
}

impl Answer {
    /// Success, with nothing printed.
    #[track_caller]
    pub fn ok(self) {
        assert!(self.success && self.stdout.is_empty(), "{self:?}");
    }

    /// Whether the call succeeded, whatever it printed.
    pub fn succeeded(&self) -> bool {
        self.success
    }

    /// Success, with nothing printed; otherwise all that was said.
    pub fn silent(self) -> Result<(), String> {
        if self.success && self.stdout.is_empty() {
            Ok(())
        } else {
            Err(format!("{self:?}"))
        }
    }

    /// Success, with a result; otherwise all that was said.
    pub fn added(self) -> Result<Value, String> {
        let result = serde_json::from_str(&self.stdout).ok();
        result
            .filter(|_| self.success)
            .ok_or_else(|| format!("{self:?}"))
    }

    /// The result of an ADD.
    #[track_caller]
    pub fn result(self) -> Value {
        assert!(self.success, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The error's code, and its message with its details.
    #[track_caller]
    pub fn error(self) -> (u64, String) {
        assert!(!self.success, "{self:?}");
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        (
            error["code"].as_u64().unwrap(),
            format!("{} {}", text("msg"), text("details")),
        )
    }
}

/// The IPv4 address of a result.
pub fn address(result: &Value) -> Ipv4Addr {
    let address = result["ips"][0]["address"].as_str().unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}
