//! containerd on a node of its own, with the two images it needs and the recorder in place of the plugins.

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::{CONFIG_DIR, Vm};

use crate::cri::{Client, Pod};
use crate::node::{Daemon, Node};
use crate::recorder::{self, Call, RECORDED_PLUGINS};
use crate::{eventually, image, leftovers, report};

const SOCKET: &str = "/run/containerd/containerd.sock";
const CONFIG: &str = "/run/containerd.toml";

/// A node with a running containerd.
pub struct Containerd<'vm> {
    // Dropped in this order: the daemon before the node it runs on.
    daemon: Option<Daemon<'vm>>,
    pub node: Node<'vm>,
}

/// A pod that runs, with the ID it has at the runtime.
pub struct Running {
    pub id: String,
    pub spec: Pod,
    pub address: std::net::Ipv4Addr,
}

impl<'vm> Containerd<'vm> {
    /// Boots a node and starts containerd with this network.
    pub fn start(vm: &'vm Vm, list: &Conflist) -> Self {
        let node = Node::boot(vm);
        node.require(&["containerd", "ctr", "runc", "busybox"]);
        recorder::install(&node);
        vm.write_file(CONFIG, &config()).unwrap();
        configure(vm, list);
        let layer = image::layer(&node);
        let mut containerd = Self { daemon: None, node };
        containerd.restart();
        let forever = ["/bin/sleep", "2147483647"];
        for (name, command) in [(image::BUSYBOX, &["/bin/sh"][..]), (image::PAUSE, &forever)] {
            let archive = image::archive(&containerd.node, &layer, name, command);
            let import = [
                "--address",
                SOCKET,
                "--namespace",
                "k8s.io",
                "image",
                "import",
                &archive,
            ];
            containerd.node.run("ctr", &import);
        }
        report(&containerd.client().version().unwrap());
        containerd
    }

    /// The way to talk to it.
    pub fn client(&self) -> Client<'_> {
        Client {
            vm: self.node.vm,
            socket: SOCKET,
            cgroup: &self.node.cgroup.path,
        }
    }

    /// Kills it in the middle of whatever it does; containers go on.
    pub fn kill(&mut self) {
        drop(self.daemon.take());
    }

    /// Starts it, after an orderly end if it runs; containers go on.
    pub fn restart(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop();
        }
        let daemon = self.node.start("containerd", &["--config", CONFIG]);
        self.daemon = Some(daemon);
        eventually("containerd answers", || self.client().version().ok());
    }

    /// Runs a pod, whose address must be one of the pool's.
    pub fn run_pod(&self, spec: Pod) -> Running {
        let client = self.client();
        let id = client.run_pod(&spec).unwrap();
        let address = client.address(&id).unwrap().parse().unwrap();
        assert!(self.node.vm.nic.pool.contains(&address), "{address}");
        Running { id, spec, address }
    }

    /// Starts a web server in a pod; returns its container.
    pub fn serve(&self, pod: &Running) -> String {
        let client = self.client();
        client
            .run_container(&pod.id, &pod.spec, &image::SERVE)
            .unwrap()
    }

    /// The calls of `plugin` for one pod.
    pub fn calls(&self, plugin: &str, pod: &str) -> Vec<Call> {
        let mut calls = recorder::calls(self.node.vm);
        calls.retain(|call| call.plugin == plugin && call.env("CNI_CONTAINERID") == pod);
        calls
    }

    /// Fails unless every pod is gone, with all that belonged to it.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.client().pods().unwrap(), Vec::<String>::new());
        leftovers::assert_none(&self.node);
    }
}

/// Makes this the node's network.
pub fn configure(vm: &Vm, list: &Conflist) {
    vm.write_file(&format!("{CONFIG_DIR}/10-azure.conflist"), &list.to_json())
        .unwrap();
}

/// Everything is kept in memory, which is also what an overlay can be made on. `restrict_oom_score_adj` is for test machines that
/// are containers themselves and may not lower a score.
fn config() -> String {
    format!(
        r#"version = 2
root = "/run/containerd-root"
state = "/run/containerd"

[plugins."io.containerd.internal.v1.opt"]
path = "/run/containerd-opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{RECORDED_PLUGINS}"
conf_dir = "{CONFIG_DIR}"
"#,
        pause = image::PAUSE
    )
}
