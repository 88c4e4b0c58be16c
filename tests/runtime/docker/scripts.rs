//! Containers of docker that `scripts/docker-run.sh` connects.

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::process::Program;
use azure_vnet_testbed::{Azure, Vm};
use serde_json::json;

use super::Docker;
use crate::recorder::{self, RECORDED_PLUGINS};
use crate::{image, leftovers, reach};

const SCRIPTS: &str = "/run/scripts";

/// A node with docker and the scripts.
struct Scripts<'vm> {
    docker: Docker<'vm>,
}

/// With the list as shipped, at a version that has no `prevResult` on DEL and at one that has.
#[test]
fn container_has_an_address_of_the_pool() {
    for (version, prev_result) in [("0.3.0", false), ("1.0.0", true)] {
        let azure = Azure::builder().vms(2).build().unwrap();
        let vm = &azure.vms[0];
        let scripts = Scripts::install(vm, &Conflist::shipped().at_version(version));
        let ports =
            json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "tcp" }] });
        let run = scripts.run("web").env("CAP_ARGS", ports.to_string());
        let address = run.checked().unwrap().trim().parse().unwrap();
        assert!(vm.nic.pool.contains(&address), "{address}");
        reach::assert_serves(&azure, address);
        let internet = azure.internet.address().to_string();
        scripts
            .docker
            .run(&["exec", "web", "ping", "-c", "1", "-w", "5", &internet]);

        scripts.del("web").checked().unwrap();
        scripts.del("web").checked().unwrap();
        let calls = recorder::calls(vm);
        assert_eq!(
            calls.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "ADD azure-vnet",
                "ADD portmap",
                "DEL portmap",
                "DEL azure-vnet"
            ]
        );
        let netns = calls[0].env("CNI_NETNS");
        assert_eq!(calls[3].circumstances(), (netns, prev_result, 0));
        scripts.assert_nothing_left();
    }
}

/// Docker gives it another namespace then, in which there is nothing. What it was given for capabilities, it has again.
#[test]
fn container_is_connected_again_after_a_restart() {
    let azure = Azure::builder().vms(2).pool(1).build().unwrap();
    let vm = &azure.vms[0];
    let scripts = Scripts::install(vm, &Conflist::shipped());
    let ports =
        json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "tcp" }] });
    let run = scripts.run("web").env("CAP_ARGS", ports.to_string());
    let started = run.output().unwrap();
    assert!(started.status.success(), "{}", started.stderr);
    let said =
        "after docker restart, a restart of docker or of the node: docker-run.sh web default";
    assert!(started.stderr.contains(said), "{}", started.stderr);

    scripts.docker.run(&["restart", "--time", "1", "web"]);
    let links = scripts.docker.run(&["exec", "web", "ip", "link"]);
    assert!(!links.contains("eth0"), "{links}");
    let again = || scripts.script("docker-run.sh").args(["web", "default"]);
    // The pool has one address, which the restart has not given back.
    let address = again().checked().unwrap().trim().parse().unwrap();
    assert!(vm.nic.pool.contains(&address), "{address}");
    reach::assert_serves(&azure, address);

    // As after a reboot, with a policy that starts it: the record is gone as well.
    scripts.docker.run(&["stop", "--time", "1", "web"]);
    let stopped = again().output().unwrap();
    assert!(
        stopped.stderr.contains("web does not run"),
        "{}",
        stopped.stderr
    );
    scripts.docker.run(&["start", "web"]);
    let with_ports = again().env("CAP_ARGS", ports.to_string());
    let address = with_ports.checked().unwrap().trim().parse().unwrap();
    reach::assert_serves(&azure, address);

    scripts.docker.run(&[
        "run",
        "--detach",
        "--net=none",
        "--name",
        "other",
        image::BUSYBOX,
        "sleep",
        "600",
    ]);
    let other = scripts.script("docker-run.sh").args(["other", "default"]);
    let refused = other.output().unwrap();
    assert!(
        refused
            .stderr
            .contains("no container that docker-run.sh started"),
        "{}",
        refused.stderr
    );
    scripts.docker.run(&["rm", "--force", "other"]);
    scripts.del("web").checked().unwrap();
    scripts.assert_nothing_left();
}

/// What docker no longer knows of, the plugins still do.
#[test]
fn container_is_gone_before_it_is_disconnected() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let scripts = Scripts::install(vm, &Conflist::shipped());
    scripts.run("web").checked().unwrap();
    scripts.docker.run(&["rm", "--force", "web"]);
    scripts.del("web").checked().unwrap();
    let calls = recorder::calls(vm);
    assert_eq!(calls[3].circumstances(), ("", false, 0));
    scripts.assert_nothing_left();
}

/// The script says which plugin refused and why, and leaves neither a container nor a lease.
#[test]
fn plugin_refuses_the_container() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let scripts = Scripts::install(vm, &Conflist::shipped());
    let no =
        json!({ "cniVersion": "0.3.0", "code": 7, "msg": "not today", "details": "said the test" });
    recorder::refuse(vm, "portmap", "ADD", &no);
    let refused = scripts.run("web").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let why =
        "plugin 1 of /etc/cni/net.d/10-azure.conflist failed: not today said the test (code 7)";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    scripts.assert_nothing_left();
}

impl<'vm> Scripts<'vm> {
    fn install(vm: &'vm Vm, list: &Conflist) -> Self {
        let docker = Docker::start(vm, list);
        for (name, text) in [
            (
                "docker-run.sh",
                include_str!("../../../scripts/docker-run.sh"),
            ),
            (
                "docker-del.sh",
                include_str!("../../../scripts/docker-del.sh"),
            ),
        ] {
            let path = format!("{SCRIPTS}/{name}");
            vm.write_file(&path, text).unwrap();
            docker.node.run("chmod", &["755", &path]);
        }
        Self { docker }
    }

    /// The script that starts a container, which serves a page.
    fn run(&self, name: &str) -> Program {
        let script = self.script("docker-run.sh");
        script
            .args([name, "default", image::BUSYBOX])
            .args(image::SERVE)
    }

    /// The script that ends it.
    fn del(&self, name: &str) -> Program {
        self.script("docker-del.sh").args([name, "default"])
    }

    fn script(&self, name: &str) -> Program {
        let script = self.docker.node.program(&format!("{SCRIPTS}/{name}"));
        script
            .env("DOCKER_HOST", super::SOCKET)
            .env("CNI_PATH", RECORDED_PLUGINS)
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.docker.run(&["ps", "--all", "--quiet"]), "");
        leftovers::assert_none(&self.docker.node);
    }
}
