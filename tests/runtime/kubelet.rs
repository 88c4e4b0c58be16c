//! A real kubelet without an API server: its pods are files. The last one that can still run the plugins itself, for docker.
//!
//! Building it takes five minutes of CPU, so these tests run only when asked for: `cargo xtask test --stage runtime -- --include-ignored`.

use std::net::Ipv4Addr;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::{Azure, CONFIG_DIR};
use serde_json::{Value, json};

use crate::cgroup::Uninvited;
use crate::containerd::Containerd;
use crate::docker::{self, Docker};
use crate::node::{Daemon, Node};
use crate::recorder::{self, Call, RECORDED_PLUGINS};
use crate::{debian, eventually, image, leftovers, reach, report};

const KUBELET: &str = "/run/kubelet";
const CONFIG: &str = "/run/kubelet.json";
const MANIFEST: &str = "/run/manifests/web.json";

/// containerd calls the plugins; the kubelet probes the pod from the node, by its address.
#[test]
#[ignore = "builds a kubelet, which takes five minutes of CPU"]
fn static_pod_on_containerd() {
    // Without cgroups for each quality of service, which want a hierarchy of their own, the kubelet names none to containerd.
    let _default_of_containerd = Uninvited::named("k8s.io");
    let azure = Azure::builder().vms(2).build().unwrap();
    let list = Conflist::shipped().at_version("1.0.0");
    let containerd = Containerd::start(&azure.vms[0], &list);
    let endpoint = "--container-runtime-endpoint=unix:///run/containerd/containerd.sock";
    let kubelet = start(&containerd.node, &["--container-runtime=remote", endpoint]);
    live_and_go(&azure, &containerd.node);
    drop(kubelet);
}

/// The kubelet calls the plugins itself, and asks each for its VERSION every five seconds.
#[test]
#[ignore = "builds a kubelet, which takes five minutes of CPU"]
fn static_pod_on_docker() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let list = Conflist::shipped().at_version("0.4.0");
    let docker = Docker::start(&azure.vms[0], &list);
    docker.import(image::PAUSE, &["/bin/sleep", "2147483647"]);
    let directories = [
        format!("--docker-endpoint={}", docker::SOCKET),
        format!("--cni-conf-dir={CONFIG_DIR}"),
        format!("--cni-bin-dir={RECORDED_PLUGINS}"),
        format!("--pod-infra-container-image={}", image::PAUSE),
    ];
    let mut args = vec!["--container-runtime=docker", "--network-plugin=cni"];
    args.extend(directories.iter().map(String::as_str));
    let kubelet = start(&docker.node, &args);
    live_and_go(&azure, &docker.node);
    // A third one after the two that precede a pod: time has passed.
    eventually("VERSION again and again", || {
        let mut calls = recorder::calls(docker.node.vm);
        calls.retain(|call| call.to_string() == "VERSION azure-vnet");
        assert!(calls.iter().all(|call| call.status == 0), "{calls:?}");
        (calls.len() > 2).then_some(())
    });
    drop(kubelet);
}

/// The pod becomes ready, which its probes decide, serves, and goes with its manifest.
fn live_and_go(azure: &Azure, node: &Node<'_>) {
    node.vm
        .write_file(MANIFEST, &manifest().to_string())
        .unwrap();
    let address: Ipv4Addr = eventually("the pod is ready", || {
        let pods = ["-qO-", "http://127.0.0.1:10255/pods"];
        let pods = node
            .program("busybox")
            .arg("wget")
            .args(pods)
            .checked()
            .ok()?;
        let pods: Value = serde_json::from_str(&pods).unwrap();
        let status = &pods["items"][0]["status"];
        let container = &status["containerStatuses"][0];
        assert_ne!(container["restartCount"], 1, "the liveness probe failed");
        let ready = container["ready"] == true;
        ready.then(|| status["podIP"].as_str().unwrap().parse().unwrap())
    });
    assert!(node.vm.nic.pool.contains(&address), "{address}");
    reach::assert_serves(azure, address);
    node.run("rm", &[MANIFEST]);
    eventually("the pod is disconnected", || {
        let calls = recorder::calls(node.vm);
        let deleted = |call: &Call| call.to_string() == "DEL azure-vnet" && call.status == 0;
        (calls.iter().any(deleted) && leftovers::found(node).is_empty()).then_some(())
    });
}

fn start<'vm>(node: &Node<'vm>, runtime: &[&str]) -> Daemon<'vm> {
    let program = std::fs::read(debian::kubelet()).unwrap();
    let write = || std::fs::write(KUBELET, program);
    node.vm.namespace().run(write).unwrap().unwrap();
    node.run("chmod", &["755", KUBELET]);
    report(node.run(KUBELET, &["--version"]).trim());

    keep_sysctls(node);
    // It asks for its own name and for a cloud; without an answer it waits.
    let vm = node.vm;
    let name = format!("127.0.0.1 localhost\n{} {}\n", vm.nic.primary, vm.name);
    vm.write_file("/etc/hosts", &name).unwrap();
    vm.write_file("/etc/resolv.conf", "nameserver 127.0.0.1\n")
        .unwrap();
    vm.write_file(CONFIG, &config(node).to_string()).unwrap();
    node.run("mkdir", &["-p", "/run/manifests"]);
    let node_ip = format!("--node-ip={}", vm.nic.primary);
    let place = [
        "--config",
        CONFIG,
        "--root-dir=/run/kubelet-root",
        "--cert-dir=/run/kubelet-pki",
        &node_ip,
    ];
    node.start(KUBELET, &[&place[..], runtime].concat())
}

/// The kubelet sets sysctls that are the machine's and not the node's. It leaves those alone that have its value already, so it is
/// shown files that do.
fn keep_sysctls(node: &Node<'_>) {
    for (sysctl, value) in [
        ("kernel/keys/root_maxbytes", "25000000"),
        ("kernel/keys/root_maxkeys", "1000000"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
        ("vm/overcommit_memory", "1"),
        ("vm/panic_on_oom", "0"),
    ] {
        let shown = format!("/run/sysctl/{sysctl}");
        node.vm.write_file(&shown, &format!("{value}\n")).unwrap();
        node.run("mount", &["--bind", &shown, &format!("/proc/sys/{sysctl}")]);
    }
}

fn config(node: &Node<'_>) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "readOnlyPort": 10255,
        "staticPodPath": "/run/manifests",
        "fileCheckFrequency": "1s",
        "syncFrequency": "1s",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup.path,
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        // The test machine's disk may be as full as it likes.
        "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%" },
    })
}

fn manifest() -> Value {
    let probe = json!({ "httpGet": { "path": "/", "port": 80 }, "periodSeconds": 1 });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "web",
                "image": image::BUSYBOX,
                "imagePullPolicy": "Never",
                "command": image::SERVE,
                "ports": [{ "containerPort": 80, "hostPort": 80 }],
                "livenessProbe": probe,
                "readinessProbe": probe,
            }],
        },
    })
}
