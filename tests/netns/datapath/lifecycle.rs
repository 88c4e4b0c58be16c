//! What is lost or replaced under running pods.

use std::io;

use aya::maps::{Array, Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use azure_vnet_abi::{Secret, Uplink, maps};
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};
use serde_json::json;

use super::scarce_ports::{client, server};
use super::share::has_room_for;
use super::{connect, list, on, pins, run, seen_from_internet, status};

/// The programs of another build are replaced in place: the connection does not notice.
#[test]
fn another_build_takes_over_the_flows() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let pod = vm.add_pod(&on("ebpf"), &PodSpec::named("old")).unwrap();
    let mut connection = connect(&azure, &pod);
    assert_eq!(connection.from, vm.nic.primary);

    let build = rename_build(vm);
    let before = program_ids(vm);
    let new = vm.add_pod(&on("ebpf"), &PodSpec::named("new")).unwrap();

    connection.is_alive().unwrap();
    assert_eq!(seen_from_internet(&pod), vm.nic.primary);
    assert_eq!(seen_from_internet(&new), vm.nic.primary);
    let programs = format!("ls {}/programs", pins());
    assert_eq!(run(vm, &programs).trim(), build);
    let after = program_ids(vm);
    assert!(
        before.iter().all(|id| !after.contains(id)),
        "{before:?} {after:?}"
    );
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

/// What chooses ports is drawn once, kept by whatever mends the tier, and another's on each node.
#[test]
fn the_secret_of_a_node_stays_and_is_no_others() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let mut pods: Vec<_> = (azure.vms.iter())
        .map(|vm| vm.add_pod(&on("ebpf"), &PodSpec::named("old")).unwrap())
        .collect();
    let [first, second] = [0, 1].map(|vm| secret(&azure.vms[vm]));
    assert_ne!(first, Secret::default());
    assert_ne!(first, second);

    let vm = &azure.vms[0];
    rename_build(vm);
    vm.add_pod(&on("ebpf"), &PodSpec::named("new")).unwrap();
    assert_eq!(secret(vm), first, "after an upgrade");
    pods.remove(0).delete().unwrap();
    assert_eq!(secret(vm), first, "after a DEL");
}

fn secret(vm: &Vm) -> Secret {
    let settings = vm.namespace().run(|| {
        let map = MapData::from_pin(format!("{}/maps/{}", pins(), maps::UPLINK)).unwrap();
        let map: Array<_, Uplink> = Map::from_map_data(map).unwrap().try_into().unwrap();
        map.get(&0, 0).unwrap()
    });
    settings.unwrap().secret
}

/// An upgrade that was killed before it came to the pods' veths: what is pinned of both builds tells the next call.
#[test]
fn an_upgrade_that_was_killed_is_ended_by_the_next_call() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let old = vm.add_pod(&on("ebpf"), &PodSpec::named("old")).unwrap();
    let mut connection = connect(&azure, &old);
    let programs = format!("{}/programs", pins());
    let build = run(vm, &format!("ls {programs}")).trim().to_owned();
    run(vm, &format!("mkdir {programs}/another"));
    vm.add_pod(&on("ebpf"), &PodSpec::named("new")).unwrap();
    assert_eq!(run(vm, &format!("ls {programs}")).trim(), build);
    connection.is_alive().unwrap();
}

/// All pins lost: the next ADD sets the tier up anew and serves the pods that were there.
#[test]
fn lost_pins_are_made_again() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let old = vm.add_pod(&on("ebpf"), &PodSpec::named("old")).unwrap();
    run(vm, &format!("rm -r {}", pins()));
    let new = vm.add_pod(&on("ebpf"), &PodSpec::named("new")).unwrap();
    // Between the loss and the ADD nobody gave the pod's frames the NIC's MAC.
    let spoofed = azure.fabric.verdicts(0).unwrap().spoofed();
    assert_eq!(seen_from_internet(&old), vm.nic.primary);
    assert_eq!(seen_from_internet(&new), vm.nic.primary);
    old.delete().unwrap();
    new.delete().unwrap();
    assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), spoofed);
}

/// Everything lost that was written down or pinned: a node may see no ADD for days, so a DEL and a GC bring it back as well.
#[test]
fn what_is_lost_altogether_is_made_again_by_a_del() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let [stays, goes] =
            ["stays", "goes"].map(|name| vm.add_pod(&on(tier), &PodSpec::named(name)).unwrap());
        run(vm, "rm -r /run/azure-vnet");
        run(vm, "rm -rf /sys/fs/bpf/azure-vnet");
        run(vm, "nft flush ruleset");
        goes.delete().unwrap();
        assert_eq!(seen_from_internet(&stays), vm.nic.primary, "{tier}");
        let tier_now = status(vm)["tier"].to_string();
        assert!(tier_now.contains(tier), "{tier}: {tier_now}");
        let next = vm.add_pod(&on(tier), &PodSpec::named("next")).unwrap();
        assert_ne!(next.address, stays.address, "{tier}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier}");
    }
}

/// Programs that somebody takes off, where their pins stay: those of NIC and bridge come back with any call, those of pods by `gc`,
/// which looks at each.
#[test]
fn programs_that_were_taken_off_are_attached_again() {
    let mut azure = Azure::builder().build().unwrap();
    azure.vms[0].set_environment("AZURE_VNET_FORCE_CLS_BPF", "1");
    let vm = &azure.vms[0];
    let [stays, goes] =
        ["stays", "goes"].map(|name| vm.add_pod(&on("ebpf"), &PodSpec::named(name)).unwrap());
    let filters = |link: &str| run(vm, &format!("tc filter show dev {link} ingress"));
    for link in ["eth0", "azure0"] {
        run(vm, &format!("tc qdisc del dev {link} clsact"));
    }
    goes.delete().unwrap();
    assert_eq!(seen_from_internet(&stays), vm.nic.primary);

    let veth = run(vm, "ls /sys/class/net/azure0/brif").trim().to_owned();
    assert_ne!(filters(&veth), "");
    run(vm, &format!("tc qdisc del dev {veth} clsact"));
    let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    plugin.args(["gc"]).checked().unwrap();
    assert_ne!(filters(&veth), "");
    assert_eq!(seen_from_internet(&stays), vm.nic.primary);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

/// One pin lost, as by a hand that tidies up: the next ADD makes that map again, with what has to be in it, and what the others hold
/// stays. But for the flows: those are the connections.
#[test]
fn a_lost_pin_is_made_again() {
    let azure = Azure::builder().pool(40).build().unwrap();
    let vm = &azure.vms[0];
    let [open, closed] = [server(&azure), server(&azure)];
    closed.set_nonblocking(true).unwrap();
    let port = closed.local_addr().unwrap().port();
    let rule = json!({ "to": "0.0.0.0/0", "proto": "udp", "port": port, "action": "drop" });
    let list = list(&json!({ "datapath": "ebpf", "flowsPerPod": 2, "rules": [rule] }));
    let old = vm.add_pod(&list, &PodSpec::named("old")).unwrap();
    let mut connection = connect(&azure, &old);
    for map in maps::ALL.into_iter().filter(|name| *name != maps::FLOWS) {
        let pin = format!("{}/maps/{map}", pins());
        run(vm, &format!("rm {pin}"));
        let new = vm.add_pod(&list, &PodSpec::named(map)).unwrap();
        run(vm, &format!("ls {pin}"));

        connection.is_alive().unwrap();
        let refused = client(new.namespace(), &closed);
        refused.send(b"is it closed?").unwrap();
        assert_eq!(seen_from_internet(&new), vm.nic.primary, "{map}");
        let error = closed.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{map}");
        new.delete().unwrap();
    }
    // Of two flows the connection has one.
    has_room_for(1, &old, &open);
}

/// The plugin's memory of its choice lost: it finds what is there and goes on.
#[test]
fn a_lost_record_of_the_choice_loses_no_connection() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let pod = vm.add_pod(&on("ebpf"), &PodSpec::named("old")).unwrap();
    let mut connection = connect(&azure, &pod);
    run(vm, "rm /run/azure-vnet/datapath-azure0.json");
    vm.add_pod(&on("auto"), &PodSpec::named("new")).unwrap();
    connection.is_alive().unwrap();
    assert!(status(vm)["tier"]["ebpf"].is_string());
}

/// `nft flush ruleset`, as firewall scripts do it: the next ADD brings the rules back for all pods.
#[test]
fn flushed_rules_are_made_again() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let old = vm
        .add_pod(&on("netfilter"), &PodSpec::named("old"))
        .unwrap();
    run(vm, "nft flush ruleset");
    let new = vm
        .add_pod(&on("netfilter"), &PodSpec::named("new"))
        .unwrap();
    assert_eq!(seen_from_internet(&old), vm.nic.primary);
    assert_eq!(seen_from_internet(&new), vm.nic.primary);
}

/// From netfilter to eBPF: connections that netfilter translates stay with it, new ones are ours.
#[test]
fn netfilter_to_ebpf_keeps_connections() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let pod = vm
        .add_pod(&on("netfilter"), &PodSpec::named("old"))
        .unwrap();
    let mut connection = connect(&azure, &pod);
    vm.add_pod(&on("ebpf"), &PodSpec::named("new")).unwrap();
    connection.is_alive().unwrap();
    assert_eq!(seen_from_internet(&pod), vm.nic.primary);
    assert!(status(vm)["tier"]["ebpf"].is_string());
    assert!(!run(vm, "nft list ruleset").contains("snat"));
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

/// What is there becomes another build's, so that the next call brings this one's. A build is known by the name of its directory,
/// which is returned.
pub(super) fn rename_build(vm: &Vm) -> String {
    let programs = format!("{}/programs", pins());
    let build = run(vm, &format!("ls {programs}")).trim().to_owned();
    run(vm, &format!("mv {programs}/{build} {programs}/another"));
    build
}

/// Ids of the programs on the NIC.
fn program_ids(vm: &Vm) -> Vec<u32> {
    let on_nic = || {
        [TcAttachType::Ingress, TcAttachType::Egress].map(|direction| {
            let (_revision, programs) = SchedClassifier::query_tcx("eth0", direction).unwrap();
            assert_eq!(programs.len(), 1, "{direction:?}");
            programs[0].id()
        })
    };
    vm.namespace().run(on_nic).unwrap().to_vec()
}
