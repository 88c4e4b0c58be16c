//! Which tier a node gets.

use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::{Azure, Error, libcni};
use serde_json::json;

use super::{connect, list, on, run, seen_from_internet, status};

#[test]
fn auto_takes_ebpf_where_the_kernel_has_it() {
    let azure = Azure::builder().build().unwrap();
    let pod = azure.vms[0]
        .add_pod(&on("auto"), &PodSpec::named("web"))
        .unwrap();
    assert!(status(&azure.vms[0])["tier"]["ebpf"].is_string());
    assert_eq!(seen_from_internet(&pod), azure.vms[0].nic.primary);
}

/// Without a BPF file system nothing can be pinned, so eBPF is not to be had.
#[test]
fn auto_falls_back_to_netfilter_and_says_why() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    take_bpffs_away(vm);
    let pod = vm.add_pod(&on("auto"), &PodSpec::named("web")).unwrap();
    assert_eq!(seen_from_internet(&pod), vm.nic.primary);
    let status = status(vm);
    assert_eq!(status["tier"], "netfilter");
    let why = status["why"].as_str().unwrap();
    assert!(why.contains("/sys/fs/bpf"), "{why}");
    let log = run(vm, "cat /var/log/azure-vnet.log");
    assert!(
        log.contains("WARN") && log.contains("falling back to netfilter"),
        "{log}"
    );

    // The choice is made once: with the file system back, the node keeps what its pods use.
    run(vm, "umount /sys/fs");
    vm.add_pod(&on("auto"), &PodSpec::named("other")).unwrap();
    assert_eq!(super::status(vm)["tier"], "netfilter");
}

#[test]
fn ebpf_that_is_not_to_be_had_is_an_error_that_leaves_nothing() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    take_bpffs_away(vm);
    let refused = vm.add_pod(&on("ebpf"), &PodSpec::named("web")).unwrap_err();
    let Error::Plugin(libcni::Error::Refused { msg, details, .. }) = &refused else {
        panic!("{refused:?}");
    };
    assert!(
        format!("{msg} {details}").contains("/sys/fs/bpf"),
        "{msg} {details}"
    );
    assert!(
        !vm.links()
            .unwrap()
            .iter()
            .any(|link| link.starts_with("azv"))
    );
}

#[test]
fn off_masquerades_nothing_but_carries_everything() {
    let azure = Azure::builder().build().unwrap();
    let pod = azure.vms[0]
        .add_pod(&on("off"), &PodSpec::named("web"))
        .unwrap();
    assert_eq!(seen_from_internet(&pod), pod.address);
    assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
}

/// A pod that is there when the policy changes is judged by the new one.
#[test]
fn a_changed_policy_reaches_the_node_with_the_next_pod() {
    for datapath in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let first = vm.add_pod(&on(datapath), &PodSpec::named("first")).unwrap();
        assert_eq!(seen_from_internet(&first), vm.nic.primary, "{datapath}");
        let wider =
            json!({ "datapath": datapath, "nonMasqueradeCIDRs": ["10.0.0.0/8", "203.0.113.0/24"] });
        let second = vm
            .add_pod(&list(&wider), &PodSpec::named("second"))
            .unwrap();
        assert_eq!(seen_from_internet(&first), first.address, "{datapath}");
        assert_eq!(seen_from_internet(&second), second.address, "{datapath}");
        vm.add_pod(&on(datapath), &PodSpec::named("third")).unwrap();
        assert_eq!(seen_from_internet(&first), vm.nic.primary, "{datapath}");
    }
}

/// The node's own sockets may have nearly all ports: the tier that needs a range of its own is not to be had, the others are.
#[test]
fn a_node_that_leaves_no_ports_has_no_ebpf_but_the_rest() {
    for (local, datapath, tier) in [
        ("1024\t65535", "auto", json!("netfilter")),
        ("2000\t65000", "auto", json!("netfilter")),
        ("1024\t65535", "netfilter", json!("netfilter")),
        ("1024\t65535", "off", json!({ "ebpf": "tcx" })),
    ] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        run(
            vm,
            &format!("sysctl -qw net.ipv4.ip_local_port_range={local}"),
        );
        let pod = vm.add_pod(&on(datapath), &PodSpec::named("web")).unwrap();
        let status = status(vm);
        assert_eq!(status["tier"], tier, "{local} {datapath}");
        if datapath == "auto" {
            let why = status["why"].as_str().unwrap();
            assert!(why.contains("net.ipv4.ip_local_port_range"), "{why}");
        }
        let seen = match datapath {
            "off" => pod.address,
            _ => vm.nic.primary,
        };
        assert_eq!(seen_from_internet(&pod), seen, "{local} {datapath}");
    }
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    run(vm, "sysctl -qw net.ipv4.ip_local_port_range=1024\t65535");
    let refused = vm.add_pod(&on("ebpf"), &PodSpec::named("web")).unwrap_err();
    assert!(
        format!("{refused:?}").contains("net.ipv4.ip_local_port_range"),
        "{refused:?}"
    );
}

/// A tier that pods use is not given up for that: it keeps its ports.
#[test]
fn pods_keep_their_tier_and_its_ports_when_the_node_leaves_none_any_more() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let first = vm.add_pod(&on("auto"), &PodSpec::named("first")).unwrap();
    let mut connection = connect(&azure, &first);
    run(vm, "sysctl -qw net.ipv4.ip_local_port_range=1024\t65535");
    let second = vm.add_pod(&on("auto"), &PodSpec::named("second")).unwrap();
    assert!(status(vm)["tier"]["ebpf"].is_string());
    assert_eq!(status(vm)["ports"], json!([10240, 29999]));
    assert_eq!(seen_from_internet(&second), vm.nic.primary);
    connection.is_alive().unwrap();
    let log = run(vm, "cat /var/log/azure-vnet.log");
    assert!(log.contains("10240-29999 stay the ports"), "{log}");
}

/// An empty file system in the place of `/sys/fs` has no directory to mount a BPF file system on.
fn take_bpffs_away(vm: &azure_vnet_testbed::Vm) {
    run(vm, "mount -t tmpfs none /sys/fs");
}
