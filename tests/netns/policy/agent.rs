//! ip-masq-agent's files on a node that runs.

use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, Vm};
use serde_json::json;

use super::{TIERS, connect, list, status};

const FILE: &str = "/etc/config/ip-masq-agent";

/// Any call of a runtime will do.
fn delete_another(vm: &Vm, tier: &str) {
    let other = vm
        .add_pod(&list(tier, &json!({})), &PodSpec::named("other"))
        .unwrap();
    other.delete().unwrap();
}

#[test]
fn files_reach_the_node_with_the_next_call() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let list = list(tier, &json!({}));
        let pod = vm.add_pod(&list, &PodSpec::named("web")).unwrap();
        let other = vm.add_pod(&list, &PodSpec::named("other")).unwrap();
        let from = |pod: &Pod<'_>| connect(&azure.internet, pod).from;
        assert_eq!(from(&pod), vm.nic.primary, "{tier}");

        vm.write_file(FILE, "nonMasqueradeCIDRs:\n  - 203.0.113.0/24\n")
            .unwrap();
        // A DEL is a call as well.
        other.delete().unwrap();
        assert_eq!(from(&pod), pod.address, "{tier}");
        // The default went with the file.
        let on_prem = connect(&azure.on_prem, &pod);
        assert_eq!(on_prem.from, vm.nic.primary, "{tier}");

        vm.write_file(FILE, "nonMasqueradeCIDRs: [203.0.113.0/24")
            .unwrap();
        delete_another(vm, tier);
        assert_eq!(from(&pod), pod.address, "{tier}: the last good set stays");
        let files = &status(vm)["ip_masq_agent"];
        assert!(files["problem"].as_str().unwrap().contains(FILE), "{files}");
        assert_eq!(files["refused"], 1, "{files}");

        vm.write_file(FILE, "{\"NONMASQUERADECIDRS\": []}").unwrap();
        delete_another(vm, tier);
        assert_eq!(from(&pod), vm.nic.primary, "{tier}");
        assert!(status(vm)["ip_masq_agent"]["problem"].is_null());
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{tier}");
    }
}
