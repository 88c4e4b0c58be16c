//! `azure-vnet explain`: what it says is what really happens.

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_abi::ABI_VERSION;
use azure_vnet_testbed::address_plan::{INTERNET, ON_PREM, PEERED};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::{Azure, exchange};
use serde_json::json;
use socket2::Type;

use crate::golden::{assert_fits, assert_golden};
use crate::scene::{connect, json_of, list, pods, pretty, printed, run};

const MULTICAST: &str = "239.1.2.3:5000";

#[test]
fn every_verdict_in_both_tiers() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let [web, db] = pods(&azure, tier);
        let _open = connect(&azure, &web, 20000, (INTERNET[0], 8443));
        let to_db = format!("{}:80", db.address);
        let to_node = vm.nic.primary.to_string();
        let mut all = Vec::new();
        for (code, arguments) in [
            (0, ["tcp", "web", "203.0.113.10:8443"]),
            (0, ["udp", "default/web", "203.0.113.10"]),
            (0, ["icmp", "10.0.0.5", "203.0.113.10"]),
            (0, ["tcp", "web", "10.200.0.10:80"]),
            (0, ["tcp", "web", "168.63.129.16:80"]),
            (0, ["tcp", "web", "169.254.169.254:80"]),
            (0, ["tcp", "web", &to_db]),
            (0, ["tcp", "web", &to_node]),
            (1, ["udp", "web", MULTICAST]),
        ] {
            let text = printed(vm, code, &[&["explain"][..], &arguments].concat());
            assert_fits(&text);
            all.push(format!(
                "$ azure-vnet explain {}\n{text}",
                arguments.join(" ")
            ));
        }
        assert_golden(&format!("explain-{tier}.txt"), &all.join("\n"));
        let json = json_of(vm, 0, &["explain", "tcp", "web", "203.0.113.10:8443"]);
        assert_golden(&format!("explain-{tier}.json"), &pretty(&json));
    }
}

/// The source that the far end really sees is the one that was said.
#[test]
fn is_what_happens() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let [web, _db] = pods(&azure, tier);
        for to in [INTERNET[0], ON_PREM, PEERED] {
            let said = json_of(
                &azure.vms[0],
                0,
                &["explain", "tcp", "web", &format!("{to}:{REPORT_PORT}")],
            );
            let report = SocketAddrV4::new(to, REPORT_PORT);
            let seen = exchange::ask(Type::STREAM, web.namespace(), None, report).unwrap();
            assert_eq!(said["seen_as"], json!(seen), "{tier}: {said}");
        }
    }
}

/// A question leaves no flow behind and counts nothing.
#[test]
fn asking_changes_nothing() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let _pods = pods(&azure, "ebpf");
    let created = || {
        let status = json_of(vm, 0, &["status"]);
        let counters = status["bridges"][0]["counters"].as_array().unwrap().clone();
        let named = |name: &str| {
            counters
                .iter()
                .find(|counter| counter["reason"] == name)
                .cloned()
        };
        ["flow_created", "policy_drop", "in_range"]
            .map(|name| named(name).unwrap()["packets"].clone())
    };
    let before = created();
    printed(vm, 0, &["explain", "tcp", "web", "203.0.113.10:443"]);
    printed(vm, 1, &["explain", "udp", "web", MULTICAST]);
    printed(vm, 0, &["explain", "tcp", "web", "10.200.0.10:443"]);
    assert_eq!(created(), before);
    assert_eq!(json_of(vm, 0, &["flows", "--count"])["flows"], 0);
}

/// A share that is used up, and ports that are, are said before a packet is sent.
#[test]
fn what_there_is_no_room_for_is_dropped() {
    for (masquerade, protocol, reason, level) in [
        (
            json!({ "datapath": "ebpf", "flowsPerPod": 1 }),
            "udp",
            "pod_flow_limit",
            "1 of 1",
        ),
        (
            json!({ "datapath": "ebpf", "ports": "20000-20000" }),
            "tcp",
            "no_port_found",
            "1 of 1",
        ),
    ] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let list = list("ebpf").with_setting("azure-vnet", "masquerade", &masquerade);
        let web = vm.add_pod(&list, &PodSpec::named("web")).unwrap();
        let to = ["explain", protocol, "web", "203.0.113.10:8443"];
        assert_eq!(json_of(vm, 0, &to)["verdict"], "masqueraded");
        let _open = connect(&azure, &web, 20_000, (INTERNET[0], 8443));
        let said = json_of(vm, 1, &to);
        assert_eq!(said["verdict"], "dropped", "{said}");
        assert_eq!(said["reason"], reason, "{said}");
        assert!(said["because"].as_str().unwrap().contains(level), "{said}");
        assert!(said["seen_as"].is_null(), "{said}");
    }
}

/// Rules of others that may be about the packet are quoted.
#[test]
fn what_others_have_put_in_the_way_is_said() {
    for (tier, program, rule, what) in [
        (
            "netfilter",
            "iptables",
            "-t raw -A PREROUTING -p udp --dport 53 -j CT --notrack",
            "--dport 53 -j CT --notrack",
        ),
        (
            "ebpf",
            "iptables",
            "-t nat -A POSTROUTING ! -d 10.0.0.0/8 -j MASQUERADE",
            "! -d 10.0.0.0/8 -j MASQUERADE",
        ),
        (
            "ebpf",
            "iptables",
            "-t nat -A PREROUTING -d 203.0.113.10 -p udp -j DNAT --to-destination 10.0.0.6",
            "--to-destination 10.0.0.6",
        ),
        ("ebpf", "nft", "add table ip other", ""),
        (
            "ebpf",
            "nft",
            "add table ip other; add chain ip other post { type nat hook postrouting priority 90; }; add rule ip other post masquerade",
            "masquerade",
        ),
    ] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let _pods = pods(&azure, tier);
        let asked = ["explain", "udp", "web", "203.0.113.10"];
        assert_eq!(json_of(vm, 0, &asked)["doubts"], json!([]));
        let words = match program {
            "nft" => vec![rule],
            _ => rule.split(' ').collect(),
        };
        vm.program(program).unwrap().args(words).checked().unwrap();
        let said = json_of(vm, 0, &asked);
        let doubts = said["doubts"].as_array().unwrap();
        if what.is_empty() {
            assert!(doubts.is_empty(), "{said}");
            continue;
        }
        assert_eq!(doubts.len(), 1, "{said}");
        assert!(doubts[0].as_str().unwrap().ends_with(what), "{said}");
        let text = printed(vm, 0, &asked);
        assert_fits(&text);
        assert!(text.contains("But: a rule of"), "{text}");
    }
}

/// The programs would be asked about other settings than those in force.
#[test]
fn without_a_map_nothing_is_said() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let _pods = pods(&azure, "ebpf");
    let pin = format!("/sys/fs/bpf/azure-vnet/v{ABI_VERSION}/azure0/maps/policy");
    vm.program("rm").unwrap().args([pin]).checked().unwrap();
    let output = run(vm, &["explain", "tcp", "web", "203.0.113.10"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.contains("policy"),
        "{output:?}"
    );
}

/// Whatever link it is on.
#[test]
fn an_address_of_the_node_stays_there() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let _pods = pods(&azure, "ebpf");
    for line in [
        "ip link add local0 type bridge",
        "ip address add 169.254.20.10/32 dev local0",
    ] {
        let mut words = line.split(' ');
        let program = vm.program(words.next().unwrap()).unwrap();
        program.args(words).checked().unwrap();
    }
    let said = json_of(vm, 0, &["explain", "udp", "web", "169.254.20.10"]);
    assert_eq!(said["verdict"], "local", "{said}");
}

#[test]
fn what_cannot_be_explained_is_said() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let _pods = pods(&azure, "ebpf");
    let nobody = Ipv4Addr::new(10, 0, 0, 99).to_string();
    for (code, arguments) in [
        (3, ["tcp", nobody.as_str(), "1.1.1.1"]),
        (2, ["tcp", "web", "nowhere"]),
        (2, ["tcp", "web", "1.1.1.1:70000"]),
        (2, ["gre", "web", "1.1.1.1"]),
    ] {
        let output = run(vm, &[&["explain"][..], &arguments].concat());
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{output:?}"
        );
    }
}
