//! `azure-vnet status`.

use azure_vnet_testbed::Azure;
use serde_json::Value;

use crate::golden::{assert_fits, assert_golden};
use crate::scene::{json_of, pods, pretty, printed, without};

/// How often each kind of packet came by depends on the neighbours' mood.
fn without_counters(text: &str) -> String {
    without(text, |line| {
        // What is wrong is indented further where it goes on.
        line.starts_with("    ") && !line.starts_with("     ")
    })
}

#[test]
fn of_a_healthy_node() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let _pods = pods(&azure, tier);
        let text = printed(&azure.vms[0], 0, &["status"]);
        assert_fits(&text);
        assert_golden(&format!("status-{tier}.txt"), &without_counters(&text));
        let mut json = json_of(&azure.vms[0], 0, &["status"]);
        let counters = json["bridges"][0]["counters"].take();
        assert_golden(&format!("status-{tier}.json"), &pretty(&json));
        let named = |counter: &Value| {
            counter["reason"].is_string()
                && counter["dropped"].is_boolean()
                && counter["packets"].is_u64()
        };
        let counters = counters.as_array().unwrap();
        assert!(counters.iter().all(named), "{counters:?}");
        assert_eq!(counters.is_empty(), tier == "netfilter");
    }
}

/// What somebody breaks on purpose is named, in the exit code too.
#[test]
fn of_a_broken_node() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let _pods = pods(&azure, "ebpf");
    let break_it = |line: &str| {
        let mut words = line.split(' ');
        let program = vm.program(words.next().unwrap()).unwrap();
        program.args(words).checked().unwrap();
    };
    break_it("find /sys/fs/bpf/azure-vnet -name to_uplink -path */links/* -delete");
    let listed = json_of(vm, 0, &["pods"]);
    let web_veth = listed["pods"][0]["host_veth"].as_str().unwrap();
    break_it(&format!("ip link set {web_veth} nomaster"));
    let text = printed(vm, 1, &["status"]);
    assert_fits(&text);
    assert_golden("status-broken.txt", &without_counters(&text));
    assert_golden(
        "status-broken.json",
        &pretty(&json_of(vm, 1, &["status"])["bridges"][0]["problems"]),
    );
}

#[test]
fn a_pool_without_a_free_address_is_a_problem() {
    let azure = Azure::builder().pool(2).build().unwrap();
    let _pods = pods(&azure, "ebpf");
    let status = json_of(&azure.vms[0], 1, &["status"]);
    assert_eq!(status["health"], "degraded");
    assert!(
        status["problems"][0]
            .as_str()
            .unwrap()
            .contains("no address is free"),
        "{status}"
    );
}

/// The rules that somebody flushed are missed for every pod.
#[test]
fn of_a_node_without_its_rules() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let _pods = pods(&azure, "netfilter");
    let nft = vm.program("nft").unwrap();
    nft.args(["delete", "table", "ip", "azure-vnet-azure0"])
        .checked()
        .unwrap();
    let text = printed(vm, 1, &["status"]);
    assert_fits(&text);
    assert_golden("status-flushed.txt", &text);
}
