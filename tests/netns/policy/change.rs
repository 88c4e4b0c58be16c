//! A policy that changes reaches the node with the next ADD, and live connections go on as they began.

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::pod::PodSpec;
use serde_json::json;

use super::{TIERS, assert_cut, connect, list, status};

#[test]
fn masqueraded_connections_stay_so_when_their_destination_becomes_exempt() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let pod = vm
            .add_pod(&list(tier, &json!({})), &PodSpec::named("web"))
            .unwrap();
        let mut old = connect(&azure.internet, &pod);
        assert_eq!(old.from, vm.nic.primary, "{tier}");
        let exempt = json!({"rules": [{"to": INTERNET[0], "action": "exempt"}]});
        vm.add_pod(&list(tier, &exempt), &PodSpec::named("other"))
            .unwrap();
        assert_eq!(connect(&azure.internet, &pod).from, pod.address, "{tier}");
        old.is_alive().unwrap();
    }
}

#[test]
fn exempt_connections_stay_so_when_their_destination_is_masqueraded() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let exempt = json!({"nonMasqueradeCIDRs": ["10.0.0.0/8", "203.0.113.0/24"]});
        let pod = vm
            .add_pod(&list(tier, &exempt), &PodSpec::named("web"))
            .unwrap();
        let mut old = connect(&azure.internet, &pod);
        assert_eq!(old.from, pod.address, "{tier}");
        vm.add_pod(&list(tier, &json!({})), &PodSpec::named("other"))
            .unwrap();
        let mut new = connect(&azure.internet, &pod);
        assert_eq!(new.from, vm.nic.primary, "{tier}");
        old.is_alive().unwrap();
        // And once more, by now two policies ago.
        let unlike = json!({"nonMasqueradeCIDRs": ["10.0.0.0/9"]});
        vm.add_pod(&list(tier, &unlike), &PodSpec::named("third"))
            .unwrap();
        old.is_alive().unwrap();
        new.is_alive().unwrap();
    }
}

#[test]
fn what_is_closed_ends_at_once() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let pod = vm
            .add_pod(&list(tier, &json!({})), &PodSpec::named("web"))
            .unwrap();
        let mut closed = connect(&azure.internet, &pod);
        let mut open = connect(&azure.on_prem, &pod);
        closed.is_alive().unwrap();
        let locked = json!({"rules": [{"to": "203.0.113.0/24", "action": "drop"}]});
        vm.add_pod(&list(tier, &locked), &PodSpec::named("other"))
            .unwrap();
        assert_cut(&mut closed);
        open.is_alive().unwrap();
    }
}

/// A thousand ranges and more, one of them the internet's.
#[test]
fn a_thousand_ranges_take_effect_and_go_again() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let mut ranges: Vec<String> = (0..1500)
            .map(|n| format!("172.{}.{}.0/24", 16 + n / 256, n % 256))
            .collect();
        ranges.extend(["10.0.0.0/8".to_owned(), "203.0.113.0/24".to_owned()]);
        let many = json!({ "nonMasqueradeCIDRs": ranges });
        let pod = vm
            .add_pod(&list(tier, &many), &PodSpec::named("web"))
            .unwrap();
        assert_eq!(status(vm)["bridges"][0]["policy_prefixes"], 1507, "{tier}");
        let from = |pod| connect(&azure.internet, pod).from;
        assert_eq!(from(&pod), pod.address, "{tier}");
        ranges.pop();
        let fewer = json!({ "nonMasqueradeCIDRs": ranges });
        vm.add_pod(&list(tier, &fewer), &PodSpec::named("other"))
            .unwrap();
        assert_eq!(status(vm)["bridges"][0]["policy_prefixes"], 1506, "{tier}");
        assert_eq!(from(&pod), vm.nic.primary, "{tier}");
    }
}
