//! `azure-vnet explain`: what it says is what really happens.

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_testbed::address_plan::{INTERNET, ON_PREM, PEERED};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::{Azure, exchange};
use serde_json::json;
use socket2::Type;

use crate::golden::{assert_fits, assert_golden};
use crate::scene::{connect, json_of, pods, pretty, printed, run};

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
