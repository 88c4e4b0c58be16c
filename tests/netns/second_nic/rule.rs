//! The routing rule of a NIC that does not have the node's default route: what comes from its bridge is routed by a table with the
//! default route of that NIC and every pod of the node.

use std::net::Ipv4Addr;

use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{PLUGIN_DIR, Vm};

use super::{Scene, TIERS, azure, lists, run, second_nic};

#[test]
fn the_second_bridge_has_one_rule() {
    for tier in TIERS {
        let azure = azure("2");
        let scene = Scene::new(&azure, tier);
        let vm = scene.vm();
        let gateway = second_nic(vm).gateway();
        let routes = table(vm);
        assert!(
            routes.contains(&format!("default via {gateway} dev eth1")),
            "{tier}: {routes}"
        );
        for (pod, bridge) in pods(&scene) {
            assert!(leads(&routes, pod.address, bridge), "{tier}: {routes}");
        }
    }
}

/// The table follows the pods of the other bridge as well.
#[test]
fn a_pods_route_comes_and_goes_with_it() {
    for tier in TIERS {
        let azure = azure("2");
        let scene = Scene::new(&azure, tier);
        let [first, second] = lists(tier);
        for (list, bridge) in [(first, "azure0"), (second, "azure1")] {
            let pod = scene.vm().add_pod(&list, &PodSpec::named("late")).unwrap();
            let address = pod.address;
            assert!(leads(&table(scene.vm()), address, bridge), "{tier}");
            pod.delete().unwrap();
            assert!(!leads(&table(scene.vm()), address, bridge), "{tier}");
        }
    }
}

/// systemd-networkd deletes rules that it does not know when it starts (field fault A6).
#[test]
fn a_lost_rule_is_missed_and_comes_back() {
    for tier in TIERS {
        let azure = azure("2");
        let scene = Scene::new(&azure, tier);
        let (vm, [_, second]) = (scene.vm(), lists(tier));
        let before = rule(vm);
        // Of a pod without ports: portmap 1.1 fails its own CHECK of those that have an address of one family.
        scene.another.check().unwrap();
        assert!(!doctor_finds_fault(vm), "{tier}: doctor");
        for mend in ["ADD", "DEL", "gc"] {
            let doomed = vm.add_pod(&second, &PodSpec::named("doomed")).unwrap();
            let rule_of_it = before.split_once(':').unwrap().0;
            run(vm, &format!("ip rule del priority {rule_of_it}"));
            assert!(scene.another.check().is_err(), "{tier}: CHECK");
            assert!(doctor_finds_fault(vm), "{tier}: doctor");
            match mend {
                "ADD" => drop(vm.add_pod(&second, &PodSpec::named("new")).unwrap()),
                "DEL" => doomed.delete().unwrap(),
                _ => drop(run(vm, &format!("{PLUGIN_DIR}/azure-vnet gc"))),
            }
            assert_eq!(rule(vm), before, "{tier}: {mend}");
            scene.another.check().unwrap();
        }
    }
}

/// What the netfilter tier sends answers out of the other NIC with (`host_ports`).
#[test]
fn the_table_of_the_other_nics_addresses_is_missed_and_comes_back() {
    let azure = azure("2");
    let scene = Scene::new(&azure, "netfilter");
    let vm = scene.vm();
    let tables = ["azure0", "azure1"].map(|bridge| format!("netdev azure-vnet-{bridge}"));
    let listed = || {
        tables
            .clone()
            .map(|table| run(vm, &format!("nft list table {table}")))
    };
    let before = listed();
    let [first, second] = [vm.nic.primary, second_nic(vm).primary];
    assert!(
        before[0].contains(&format!("ip saddr {second} ")),
        "{before:?}"
    );
    assert!(
        before[1].contains(&format!("ip saddr {first} ")),
        "{before:?}"
    );
    for table in &tables {
        assert!(!doctor_finds_fault(vm), "{table}: doctor");
        run(vm, &format!("nft delete table {table}"));
        assert!(doctor_finds_fault(vm), "{table}: doctor");
        run(vm, &format!("{PLUGIN_DIR}/azure-vnet gc"));
        assert_eq!(listed(), before);
    }
}

fn doctor_finds_fault(vm: &Vm) -> bool {
    let doctor = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    !doctor.arg("doctor").output().unwrap().status.success()
}

/// The pods of the first VM, and the bridge that leads to each.
fn pods<'a>(scene: &'a Scene<'_>) -> [(&'a Pod<'a>, &'static str); 3] {
    let [one, two] = &scene.pods;
    [(one, "azure0"), (two, "azure1"), (&scene.another, "azure1")]
}

/// The one rule for what comes from the second bridge.
#[track_caller]
fn rule(vm: &Vm) -> String {
    let rules = run(vm, "ip rule");
    let ours: Vec<_> = rules
        .lines()
        .filter(|rule| rule.contains("iif azure1"))
        .collect();
    assert_eq!(ours.len(), 1, "{rules}");
    ours[0].to_owned()
}

/// The routes that the rule leads to.
#[track_caller]
fn table(vm: &Vm) -> String {
    let rule = rule(vm);
    let table = rule.rsplit("lookup ").next().unwrap().trim().to_owned();
    run(vm, &format!("ip route show table {table}"))
}

fn leads(routes: &str, address: Ipv4Addr, bridge: &str) -> bool {
    let route = format!("{address} dev {bridge} ");
    routes
        .lines()
        .any(|line| format!("{line} ").starts_with(&route))
}
