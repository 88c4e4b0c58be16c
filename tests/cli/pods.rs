//! `azure-vnet pods`.

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::pod::PodSpec;

use crate::golden::{assert_fits, assert_golden};
use crate::scene::{connect, json_of, list, pods, pretty, printed, run};

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

/// What a runtime passes on is a user's to choose, and a terminal obeys it.
#[test]
fn a_name_is_shown_and_not_obeyed() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let name = "web\u{1b}[2J\u{9b}31m\r\nfake\u{202e}";
    let pod = vm.add_pod(&list("ebpf"), &PodSpec::named(name)).unwrap();
    let shown = r"default/web\u{1b}[2J\u{9b}31m\r\nfake\u{202e}";
    let address = pod.address.to_string();
    let explain = ["explain", "tcp", &address, "203.0.113.10:443"];
    let veth = json_of(vm, 0, &["pods"])["pods"][0]["host_veth"].clone();
    let ip = vm.program("ip").unwrap();
    let named = [printed(vm, 0, &["pods"]), printed(vm, 0, &explain)];
    ip.args(["link", "set", veth.as_str().unwrap(), "down"])
        .checked()
        .unwrap();
    let named = named.into_iter().chain([
        printed(vm, 1, &["status"]),
        printed(vm, 1, &["doctor"]),
        run(vm, &["explain", "tcp", "\u{1b}[2J", "203.0.113.10"]).stderr,
    ]);
    for text in named {
        let obeyed = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(obeyed), "{text:?}");
        assert!(
            !text.lines().any(|line| line.starts_with("fake")),
            "{text:?}"
        );
    }
    assert!(printed(vm, 1, &["pods"]).contains(shown));
    // JSON has its own escapes, and says exactly what the name is.
    let exact = json_of(vm, 1, &["pods"])["pods"][0]["name"].clone();
    assert_eq!(exact, format!("default/{name}"));
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
