//! A MAC that a runtime asks for, in each of the three places: not one that others are known by.

use std::net::SocketAddrV4;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::{FABRIC_MAC, INTERNET, Mac};
use azure_vnet_testbed::exchange;
use azure_vnet_testbed::field::{Tier, run};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use serde_json::{Value, json};
use socket2::Type;

/// Where a runtime asks.
#[derive(Clone, Copy, Debug)]
enum Place {
    Capability,
    Configuration,
    Variable,
}

const PLACES: [Place; 3] = [Place::Capability, Place::Configuration, Place::Variable];

/// A pod that asks for a MAC.
fn asking<'a>(azure: &'a Azure, place: Place, mac: &str) -> Result<Pod<'a>, String> {
    let list = Tier::Tcx.list(true);
    let mut spec = PodSpec::named("asking");
    let list = match place {
        Place::Capability => {
            spec.mac = Some(mac.to_owned());
            list.with_setting("azure-vnet", "capabilities", &json!({ "mac": true }))
        }
        Place::Configuration => {
            list.with_setting("azure-vnet", "args", &json!({ "cni": { "mac": mac } }))
        }
        Place::Variable => {
            spec.args.push(("MAC".into(), mac.to_owned()));
            list
        }
    };
    azure.vms[0]
        .add_pod(&list, &spec)
        .map_err(|error| error.to_string())
}

#[test]
fn what_others_are_known_by_is_refused() {
    let azure = Tier::Tcx.azure_with(Azure::builder().second_nic(4));
    let vm = &azure.vms[0];
    let pod = vm
        .add_pod(&Tier::Tcx.list(true), &PodSpec::named("first"))
        .unwrap();
    let second = vm.second_nic.as_ref().unwrap().mac;
    let free = vm.nic.pool.iter().find(|it| **it != pod.address).unwrap();
    let [a, b, c, d] = free.octets();
    let before = pictures(&azure);
    for (mac, holder) in [
        (vm.nic.mac.to_string(), "the node's link eth0"),
        (second.to_string(), "the node's link eth1"),
        (FABRIC_MAC.to_string(), "the pods' router"),
        (mac_of(&pod.result), "the pod "),
        (
            Mac([0x0a, 0x58, a, b, c, d]).to_string(),
            "whatever pod gets",
        ),
        ("01:00:5e:00:00:05".into(), "not a unicast MAC"),
        ("ff:ff:ff:ff:ff:ff".into(), "not a unicast MAC"),
        ("00:00:00:00:00:00".into(), "not a unicast MAC"),
    ] {
        for place in PLACES {
            let refusal = asking(&azure, place, &mac).map(drop).unwrap_err();
            assert!(refusal.contains(holder), "{place:?} {mac}: {refusal}");
            let code = match place {
                Place::Variable => "[code 4]",
                _ => "[code 7]",
            };
            assert!(refusal.contains(code), "{place:?} {mac}: {refusal}");
            assert_eq!(pictures(&azure), before, "{place:?} {mac}");
        }
    }
    // Nobody lost anything by it.
    let internet = SocketAddrV4::new(INTERNET[0], REPORT_PORT);
    let seen = exchange::ask(Type::STREAM, pod.namespace(), None, internet).unwrap();
    assert_eq!(seen, vm.nic.primary);
}

#[test]
fn any_other_is_given() {
    let azure = Tier::Tcx.azure();
    for (place, mac) in PLACES.into_iter().zip([
        "02:00:00:00:00:05",
        "02:00:00:00:00:06",
        "02:00:00:00:00:07",
    ]) {
        let pod = asking(&azure, place, mac).unwrap();
        assert_eq!(mac_of(&pod.result), mac, "{place:?}");
        pod.delete().unwrap();
    }
}

/// What a call leaves on the node: links, the bridge's table, and what is remembered.
fn pictures(azure: &Azure) -> [String; 4] {
    let vm = azure.vms[0].namespace();
    [
        "ip -br link",
        "bridge fdb show br azure0",
        "find /run/azure-vnet/attachments",
        "ip -4 route show table all",
    ]
    .map(|line| run(vm, line))
}

fn mac_of(result: &Value) -> String {
    let interfaces = result["interfaces"].as_array().unwrap();
    let inside = interfaces
        .iter()
        .find(|it| it["sandbox"].is_string() && it["name"] == "eth0");
    inside.unwrap()["mac"].as_str().unwrap().to_owned()
}
