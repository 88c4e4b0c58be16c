//! The shipped list, which names a bridge and no NIC, on a VM with two: when the first NIC's addresses are used up, pods get
//! the second's, on a bridge of that NIC. What the operator is told agrees with what an ADD does.

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::pod::PodSpec;
use serde_json::{Value, json};

use super::*;

/// One call of the operator's command line, as JSON, whatever its exit code.
fn json_of(vm: &Vm, command: &str) -> Value {
    let program = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    let output = program.args([command, "--json"]).output().unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

/// Free addresses of all subnets, as `status` says.
fn free(vm: &Vm) -> u64 {
    let status = json_of(vm, "status");
    let subnets = status["pool"]["subnets"].as_array().unwrap().iter();
    subnets.map(|subnet| subnet["free"].as_u64().unwrap()).sum()
}

/// What STATUS says: nothing, or the error.
fn status(vm: &Vm, list: &Conflist) -> Result<(), String> {
    let whole: Value = serde_json::from_str(&list.to_json()).unwrap();
    let mut conf = whole["plugins"][0].clone();
    conf["name"] = json!(list.name);
    conf["cniVersion"] = json!("1.1.0");
    let program = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    let program = program
        .env("CNI_COMMAND", "STATUS")
        .env("CNI_PATH", PLUGIN_DIR)
        .stdin(conf.to_string());
    let output = program.output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(output.stdout)
    }
}

fn list(tier: &str) -> Conflist {
    let masquerade = json!({ "datapath": tier });
    Conflist::shipped()
        .at_version("1.0.0")
        .with_setting("azure-vnet", "masquerade", &masquerade)
}

fn pods_of_both_nics(tier: &str) {
    let azure = Azure::builder()
        .vms(2)
        .pool(2)
        .second_nic(2)
        .build()
        .unwrap();
    let vm = &azure.vms[0];
    let list = list(tier);
    let second = second_nic(vm);
    let pods: Vec<Pod<'_>> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| {
            status(vm, &list).unwrap();
            vm.add_pod(&list, &PodSpec::named(name)).unwrap()
        })
        .collect();
    let (of_first, of_second) = pods.split_at(2);
    assert!(
        of_first
            .iter()
            .all(|pod| vm.nic.pool.contains(&pod.address))
    );
    assert!(
        of_second
            .iter()
            .all(|pod| second.pool.contains(&pod.address))
    );
    for pod in &pods {
        pod.check().unwrap();
    }
    let internet = SocketAddrV4::new(azure.internet.address(), REPORT_PORT);
    for (pod, address) in [(&pods[0], vm.nic.primary), (&pods[2], second.primary)] {
        let seen = ask(Type::STREAM, pod.namespace(), None, internet).unwrap();
        assert_eq!(seen, address);
    }
    assert_eq!(free(vm), 0);
    let full = vm.add_pod(&list, &PodSpec::named("e")).err().unwrap();
    assert!(full.to_string().contains("all 4 pod addresses"), "{full}");
    let said = status(vm, &list).unwrap_err();
    assert!(said.contains("all 4 pod addresses"), "{said}");
    nothing_was_wrong_on_the_wire(&azure);
}

#[test]
fn pods_of_both_nics_ebpf() {
    pods_of_both_nics("ebpf");
}

#[test]
fn pods_of_both_nics_netfilter() {
    pods_of_both_nics("netfilter");
}

/// Many images leave the second NIC without an address: what is listed for it is no use, and nobody says that it is.
#[test]
fn a_nic_without_an_address_of_its_own_has_no_pods() {
    let azure = Azure::builder().pool(1).second_nic(3).build().unwrap();
    let vm = &azure.vms[0];
    run(vm, "ip address flush dev eth1");
    let list = list("ebpf");
    status(vm, &list).unwrap();
    let pod = vm.add_pod(&list, &PodSpec::named("a")).unwrap();
    assert_eq!(free(vm), 0);
    for error in [
        vm.add_pod(&list, &PodSpec::named("b"))
            .err()
            .unwrap()
            .to_string(),
        status(vm, &list).unwrap_err(),
    ] {
        assert!(error.contains("all 1 pod addresses are in use"), "{error}");
        assert!(error.contains("no address of its own there"), "{error}");
    }
    let report = json_of(vm, "doctor");
    let findings = report["findings"].as_array().unwrap();
    let pool = findings.iter().find(|finding| finding["check"] == "pool");
    assert_eq!(pool.unwrap()["verdict"], "warning", "{report:#}");
    // As soon as somebody configures it, they are of use.
    let own = format!("{}/{}", second_nic(vm).primary, SECOND_SUBNET.prefix_len());
    run(vm, &format!("ip address add {own} dev eth1"));
    status(vm, &list).unwrap();
    assert_eq!(free(vm), 3);
    let next = vm.add_pod(&list, &PodSpec::named("b")).unwrap();
    assert!(second_nic(vm).pool.contains(&next.address));
    next.delete().unwrap();
    pod.delete().unwrap();
}
