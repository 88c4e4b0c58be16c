//! A node with running pods gets a plugin with another ABI: its programs take the places of those that are there, and the flows are
//! those that were. With TCX and with `cls_bpf`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aya::programs::TcAttachType;
use azure_vnet_abi::ABI_VERSION;
use azure_vnet_testbed::connection::Connection;
use azure_vnet_testbed::exchange;
use azure_vnet_testbed::libcni::Attachment;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::process::{Error, Program};
use azure_vnet_testbed::steady::Steady;
use azure_vnet_testbed::{Azure, NETNS_DIR, PLUGIN_DIR, Vm};
use serde_json::{Value, json};
use socket2::Type;

use super::chained::host_veth;
use super::fast_path::{MECHANISMS, assert_clean, azure, datagram_sockets};
use super::foreign::order;
use super::scarce_ports;
use super::share::{has_room_for, with_flows_per_pod};
use super::{REPORT_OF_INTERNET, connect, list, on, pins, run, seen_from_internet};

/// Of all versions and bridges.
const PLACE: &str = "/sys/fs/bpf/azure-vnet";
/// The one that differs from ours by nothing that concerns flows.
const BEFORE: u32 = ABI_VERSION - 1;

/// What is there becomes another version's. A version is known by the name of its directory.
fn rename_version(vm: &Vm, version: u32) {
    run(vm, &format!("mkdir {PLACE}/v{version}"));
    run(vm, &format!("mv {} {PLACE}/v{version}/azure0", pins()));
}

fn versions(vm: &Vm) -> String {
    run(vm, &format!("ls {PLACE}")).trim().to_owned()
}

fn pod<'vm>(vm: &'vm Vm, name: &str) -> Pod<'vm> {
    vm.add_pod(&on("ebpf"), &PodSpec::named(name)).unwrap()
}

/// Ours alone, everywhere.
#[track_caller]
fn assert_attached_once(vm: &Vm, pods: &[&Pod<'_>], mechanism: &str) {
    let hook = |link, direction| order(vm, (link, direction), mechanism);
    assert_eq!(hook("eth0", TcAttachType::Egress), ["to_uplink"]);
    assert_eq!(hook("eth0", TcAttachType::Ingress), ["from_uplink"]);
    for pod in pods {
        let from_pod = hook(host_veth(pod), TcAttachType::Ingress);
        assert_eq!(from_pod, ["from_pod"], "{}", pod.address);
    }
    assert_eq!(versions(vm), format!("v{ABI_VERSION}"));
}

/// Pings and numbers through a connection all the while, new connections one after the other, and an idle one of each kind.
#[test]
fn an_earlier_version_is_followed_under_load_without_a_loss() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let old = pod(vm, "old");
        let mut idle = connect(&azure, &old);
        idle.is_alive().unwrap();
        let (client, server) = datagram_sockets(&azure, &old);
        client.send(b"first").unwrap();
        let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
        rename_version(vm, BEFORE);

        let traffic = Steady::start(old.namespace(), &azure.internet).unwrap();
        let done = AtomicBool::new(false);
        let new = thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let mut connections = 0;
                while !done.load(Ordering::Relaxed) {
                    let seen =
                        exchange::ask(Type::STREAM, old.namespace(), None, REPORT_OF_INTERNET);
                    assert_eq!(seen.unwrap(), vm.nic.primary);
                    connections += 1;
                }
                connections
            });
            let new = pod(vm, "new");
            done.store(true, Ordering::Relaxed);
            assert!(connecting.join().unwrap() > 0);
            new
        });
        let tally = traffic.end().unwrap();
        println!("{mechanism}: {tally}");
        assert_eq!(tally.lost, 0, "{mechanism}: {tally}");

        idle.is_alive().unwrap();
        server.send_to(b"still there?", from).unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 12);
        client.send(b"yes").unwrap();
        assert_eq!(server.recv_from(&mut [0; 16]).unwrap().1, from);
        assert_eq!(seen_from_internet(&new), vm.nic.primary);
        assert_attached_once(vm, &[&old, &new], mechanism);
        assert_clean(&azure);
    }
}

/// A call that was killed on the way: the programs of this version are there, and the predecessor's pins, and a pod's link is still
/// among those. Then a pod goes.
#[test]
fn a_call_killed_on_the_way_is_ended_by_the_next() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let old = pod(vm, "old");
        let gone = pod(vm, "gone");
        let mut connection = connect(&azure, &old);
        let _of_gone = connect(&azure, &gone);
        rename_version(vm, BEFORE);
        let halfway = pod(vm, "halfway");
        let before = format!("{PLACE}/v{BEFORE}/azure0");
        run(vm, &format!("mkdir -p {before}/maps {before}/links"));
        if mechanism == "tcx" {
            let veth = host_veth(&old);
            run(vm, &format!("mv {}/links/{veth} {before}/links", pins()));
        }
        gone.delete().unwrap();

        let new = pod(vm, "new");
        connection.is_alive().unwrap();
        assert_attached_once(vm, &[&old, &halfway, &new], mechanism);
        for pod in [&old, &halfway, &new] {
            assert_eq!(seen_from_internet(pod), vm.nic.primary);
        }
        assert_clean(&azure);
    }
}

/// The same with SIGKILL, later and later in the call that follows the other version, while traffic flows.
#[test]
fn killed_at_any_moment_it_loses_nothing() {
    const STEP: Duration = Duration::from_millis(20);
    const MOMENTS: u32 = 15;
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let old = pod(vm, "old");
        let traffic = Steady::start(old.namespace(), &azure.internet).unwrap();
        let mut killed = 0;
        for moment in 1..=MOMENTS {
            rename_version(vm, BEFORE);
            let add = add(vm, &format!("killed{moment}"));
            let is_done = match add.limit(STEP * moment).output() {
                Ok(output) => {
                    assert!(output.status.success(), "{output:?}");
                    true
                }
                Err(Error::TimeLimit { .. }) => false,
                Err(error) => panic!("{error}"),
            };
            killed += u32::from(!is_done);
            let next = pod(vm, &format!("next{moment}"));
            assert_attached_once(vm, &[&old, &next], mechanism);
            assert_eq!(seen_from_internet(&next), vm.nic.primary);
            next.delete().unwrap();
            // Longer limits would be the same.
            if is_done {
                break;
            }
        }
        assert!(killed > 0, "{mechanism}: none was killed");
        let tally = traffic.end().unwrap();
        println!("{mechanism}: {killed} killed; {tally}");
        assert_eq!(tally.lost, 0, "{mechanism}: {tally}");
        assert_clean(&azure);
    }
}

/// An ADD of a pod of this name, ready to be run; the same configuration as [`pod`]'s.
fn add(vm: &Vm, name: &str) -> Program {
    let attachment = Attachment {
        container_id: name.into(),
        netns: format!("{NETNS_DIR}/{name}"),
        ifname: "eth0".into(),
        ..Attachment::default()
    };
    // The namespace stays mounted there.
    let _sandbox = vm.new_sandbox(&attachment.netns).unwrap();
    let list: Value = serde_json::from_str(&on("ebpf").to_json()).unwrap();
    let mut conf = list["plugins"][0].clone();
    conf["name"] = list["name"].clone();
    conf["cniVersion"] = list["cniVersion"].clone();
    let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    plugin
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", name)
        .env("CNI_NETNS", &attachment.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "")
        .env("CNI_PATH", PLUGIN_DIR)
        .stdin(conf.to_string())
}

/// A version whose flows mean something else, or are not known yet, as after a downgrade: connections are lost, and nothing else is.
#[test]
fn one_whose_flows_are_not_known_is_followed_without_them() {
    for (forced, mechanism) in MECHANISMS {
        for version in [1, ABI_VERSION + 1] {
            let azure = azure(forced);
            let vm = &azure.vms[0];
            let old = pod(vm, "old");
            let _lost = connect(&azure, &old);
            rename_version(vm, version);
            let new = pod(vm, "new");
            for pod in [&old, &new] {
                assert_eq!(seen_from_internet(pod), vm.nic.primary);
            }
            assert_attached_once(vm, &[&old, &new], mechanism);
            assert_clean(&azure);
        }
    }
}

/// The policy changes with the version: it ends what it closes, as it does otherwise.
/// Nobody counted them; now somebody does.
#[test]
fn flows_that_are_taken_over_are_a_part_of_their_pods_share() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = with_flows_per_pod(3);
    let early = vm
        .add_pod(&with_flows_per_pod(2), &PodSpec::named("early"))
        .unwrap();
    let server = scarce_ports::server(&azure);
    let flows = has_room_for(2, &early, &server);
    rename_version(vm, BEFORE);
    let late = vm.add_pod(&list, &PodSpec::named("late")).unwrap();
    has_room_for(1, &early, &server);
    has_room_for(3, &late, &server);
    for client in &flows {
        scarce_ports::exchange(client, &server).unwrap();
    }
}

/// They stood in another line.
#[test]
fn flows_that_are_taken_over_end() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let timeouts = json!({ "udp": 5 });
    let masquerade = json!({ "datapath": "ebpf", "flowsPerPod": 2, "timeouts": timeouts });
    let list = list(&masquerade);
    let early = vm.add_pod(&list, &PodSpec::named("early")).unwrap();
    let server = scarce_ports::server(&azure);
    has_room_for(2, &early, &server);
    rename_version(vm, BEFORE);
    let late = vm.add_pod(&list, &PodSpec::named("late")).unwrap();
    thread::sleep(Duration::from_secs(7));
    has_room_for(2, &late, &server);
    has_room_for(2, &early, &server);
}

#[test]
fn a_policy_that_comes_with_it_closes_what_it_closes() {
    for (forced, _) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let old = pod(vm, "old");
        let mut closed = connect(&azure, &old);
        let mut open = Connection::open(old.namespace(), &azure.on_prem).unwrap();
        closed.is_alive().unwrap();
        rename_version(vm, BEFORE);
        let rules = [json!({"to": "203.0.113.0/24", "action": "drop"})];
        let locked = list(
            &json!({"datapath": "ebpf", "rules": rules, "nonMasqueradeCIDRs": ["10.0.0.0/9"]}),
        );
        vm.add_pod(&locked, &PodSpec::named("new")).unwrap();
        closed.is_alive().unwrap_err();
        open.is_alive().unwrap();
    }
}

/// To the other tier: nothing of an earlier version goes on translating beside it.
#[test]
fn the_other_tier_leaves_nothing_of_an_earlier_version() {
    for (forced, mechanism) in MECHANISMS {
        let azure = azure(forced);
        let vm = &azure.vms[0];
        let old = pod(vm, "old");
        rename_version(vm, BEFORE);
        let new = vm.add_pod(&on("netfilter"), &PodSpec::named("new"));
        let new = new.unwrap();
        for hook in [
            ("eth0", TcAttachType::Egress),
            ("eth0", TcAttachType::Ingress),
            (host_veth(&old), TcAttachType::Ingress),
        ] {
            let left = order(vm, hook, mechanism);
            assert!(left.is_empty(), "{hook:?}: {left:?}");
        }
        for pod in [&old, &new] {
            assert_eq!(seen_from_internet(pod), vm.nic.primary);
        }
    }
}
