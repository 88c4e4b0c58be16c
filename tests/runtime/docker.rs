//! docker, which knows nothing of CNI: somebody else calls the plugins for its containers.

mod scripts;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::process::Program;
use azure_vnet_testbed::{CONFIG_DIR, Vm};
use serde_json::json;

use crate::node::{Daemon, Node};
use crate::{eventually, image, recorder, report};

/// Where it listens.
pub const SOCKET: &str = "unix:///run/docker.sock";

const RUNC: &str = "/run/runc-without-score";

/// A node with a docker that leaves networks alone.
pub struct Docker<'vm> {
    // Dropped in this order: the daemon before the node it runs on.
    _daemon: Daemon<'vm>,
    pub node: Node<'vm>,
}

impl<'vm> Docker<'vm> {
    /// Boots a node with this network, and starts docker with an image of busybox.
    pub fn start(vm: &'vm Vm, list: &Conflist) -> Self {
        let node = Node::boot(vm);
        node.require(&["dockerd", "docker", "containerd", "runc", "busybox", "jq"]);
        recorder::install(&node);
        let conflist = format!("{CONFIG_DIR}/10-azure.conflist");
        vm.write_file(&conflist, &list.to_json()).unwrap();
        let root = [
            "--data-root=/run/docker-root",
            "--exec-root=/run/docker",
            "--pidfile=/run/docker.pid",
        ];
        let network = ["--bridge=none", "--iptables=false", "--ip6tables=false"];
        let cgroup = format!("--cgroup-parent={}", node.cgroup.path);
        let place = [
            "--host",
            SOCKET,
            "--exec-opt=native.cgroupdriver=cgroupfs",
            &cgroup,
        ];
        vm.write_file(RUNC, include_str!("docker/runc.sh")).unwrap();
        node.run("chmod", &["755", RUNC]);
        let runtime = format!("--add-runtime=without-score={RUNC}");
        let runtime = [&runtime, "--default-runtime=without-score"];
        let args = [&root[..], &network, &place, &runtime].concat();
        let daemon = node.start("dockerd", &args);
        let docker = Self {
            _daemon: daemon,
            node,
        };
        let version = eventually("docker answers", || {
            let version = ["version", "--format", "{{.Server.Version}}"];
            docker.client().args(version).checked().ok()
        });
        report(&format!("docker {}", version.trim()));
        docker.import(image::BUSYBOX, &["/bin/sh"]);
        docker
    }

    /// Makes an image with this name and default command.
    pub fn import(&self, name: &str, command: &[&str]) {
        let layer = image::layer(&self.node);
        let command = format!("CMD {}", json!(command));
        self.run(&["import", "--change", &command, &layer, name]);
    }

    /// Runs the client.
    pub fn run(&self, args: &[&str]) -> String {
        self.client().args(args).checked().unwrap()
    }

    fn client(&self) -> Program {
        self.node.program("docker").env("DOCKER_HOST", SOCKET)
    }
}
