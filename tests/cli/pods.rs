//! `azure-vnet pods`.

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;

use crate::golden::{assert_fits, assert_golden};
use crate::scene::{connect, json_of, pods, pretty, printed};

#[test]
fn each_with_its_link_and_flows() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let [web, _db] = pods(&azure, "ebpf");
    let _connection = connect(&azure, &web, 20000, (INTERNET[0], 8443));
    let text = printed(vm, 0, &["pods"]);
    assert_fits(&text);
    assert_golden("pods.txt", &text);
    assert_golden("pods.json", &pretty(&json_of(vm, 0, &["pods"])));
}

/// The pod's namespace went without a DEL: the kernel took the link along.
#[test]
fn a_link_that_is_gone_is_a_problem() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let [_web, _db] = pods(&azure, "ebpf");
    let veth = json_of(vm, 0, &["pods"])["pods"][1]["host_veth"].clone();
    let ip = vm.program("ip").unwrap();
    ip.args(["link", "delete", veth.as_str().unwrap()])
        .checked()
        .unwrap();
    assert_golden("pods-gone.txt", &printed(vm, 1, &["pods"]));
}
