//! podman with its CNI backend, which netavark has replaced since (podman 5 has no CNI).

use std::net::Ipv4Addr;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::{Azure, CONFIG_DIR, Vm};
use serde_json::Value;

use crate::node::Node;
use crate::recorder::{self, Call, RECORDED_PLUGINS};
use crate::{image, leftovers, reach, report};

const CONFIG: &str = "/run/containers.conf";
const STORAGE: &str = "/run/storage.conf";
/// The newest version that podman 4 speaks.
const VERSION: &str = "1.0.0";

/// A node with podman, which has no daemon.
struct Podman<'vm> {
    node: Node<'vm>,
}

/// A published port, another network while the container runs, a restart and the end.
#[test]
fn container_lives_and_goes() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let vm = &azure.vms[0];
    let podman = Podman::install(vm);
    let id = podman.run_container("web", &["--publish", "80:80"]);
    let address = podman.address("web", "azure");
    assert!(vm.nic.pool.contains(&address), "{address}");
    reach::assert_serves(&azure, address);

    podman.podman(&["network", "connect", "second", "web"]);
    let second = podman.address("web", "second");
    assert!(vm.nic.pool.contains(&second), "{second}");
    assert_ne!(second, address);
    podman.podman(&["network", "disconnect", "second", "web"]);
    reach::assert_serves(&azure, address);

    podman.podman(&["restart", "--time", "0", "web"]);
    reach::assert_serves(&azure, podman.address("web", "azure"));
    podman.podman(&["rm", "--force", "--time", "0", "web"]);
    let calls = podman.calls(&id);
    let interfaces: Vec<_> = calls
        .iter()
        .map(|call| format!("{} {}", call.verb(), call.env("CNI_IFNAME")))
        .collect();
    let expected = [
        "ADD eth0", "ADD eth1", "DEL eth1", "DEL eth0", "ADD eth0", "DEL eth0",
    ];
    assert_eq!(interfaces, expected);
    assert!(calls.iter().all(|call| call.status == 0), "{calls:?}");
    podman.assert_nothing_left();
}

impl<'vm> Podman<'vm> {
    fn install(vm: &'vm Vm) -> Self {
        let node = Node::boot(vm);
        node.require(&["podman", "conmon", "runc", "busybox"]);
        recorder::install(&node);
        vm.write_file(CONFIG, &config()).unwrap();
        vm.write_file(STORAGE, STORAGE_CONFIG).unwrap();
        for network in ["azure", "second"] {
            let list = Conflist::shipped().at_version(VERSION).to_json();
            let list = list.replace(r#""name": "azure""#, &format!(r#""name": "{network}""#));
            vm.write_file(&format!("{CONFIG_DIR}/{network}.conflist"), &list)
                .unwrap();
        }
        let podman = Self { node };
        report(podman.podman(&["--version"]).trim());
        let layer = image::layer(&podman.node);
        let archive = image::archive(&podman.node, &layer, image::BUSYBOX, &["/bin/sh"]);
        podman.podman(&["load", "--quiet", "--input", &archive]);
        podman
    }

    /// Starts a container that serves a page; returns its ID.
    fn run_container(&self, name: &str, options: &[&str]) -> String {
        let place = [
            "run",
            "--detach",
            "--name",
            name,
            "--cgroup-parent",
            &self.node.cgroup.path,
        ];
        let what = [&[image::BUSYBOX][..], &image::SERVE].concat();
        let id = self.podman(&[&place, options, &what].concat());
        id.trim().to_owned()
    }

    /// The address that podman says a container has in a network.
    fn address(&self, container: &str, network: &str) -> Ipv4Addr {
        let inspected = self.podman(&["inspect", container]);
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let address = &inspected[0]["NetworkSettings"]["Networks"][network]["IPAddress"];
        address.as_str().unwrap().parse().unwrap()
    }

    fn podman(&self, args: &[&str]) -> String {
        let podman = self.node.program("podman");
        let podman = podman
            .env("CONTAINERS_CONF", CONFIG)
            .env("CONTAINERS_STORAGE_CONF", STORAGE);
        podman.args(args).checked().unwrap()
    }

    fn calls(&self, id: &str) -> Vec<Call> {
        let mut calls = recorder::calls(self.node.vm);
        calls.retain(|call| call.plugin == "azure-vnet" && call.env("CNI_CONTAINERID") == id);
        calls
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.podman(&["ps", "--all", "--quiet"]), "");
        leftovers::assert_none(&self.node);
    }
}

fn config() -> String {
    format!(
        r#"[containers]
log_driver = "k8s-file"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{RECORDED_PLUGINS}"]
network_config_dir = "{CONFIG_DIR}"
default_network = "azure"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"#
    )
}

/// In memory, on which an overlay can be made.
const STORAGE_CONFIG: &str = r#"[storage]
driver = "overlay"
graphroot = "/run/podman-root"
runroot = "/run/podman-run"
"#;
