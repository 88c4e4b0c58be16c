//! `azure-vnet teardown`: what it says, and that it refuses to cut pods off.

use azure_vnet_testbed::Azure;

use crate::golden::{assert_fits, assert_golden};
use crate::scene::{json_of, pods, pretty, printed, run};

#[test]
fn it_refuses_while_pods_are_attached_and_says_what_it_did() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let mut text = printed(vm, 0, &["teardown"]);
    let [web, db] = pods(&azure, "auto");

    let refused = run(vm, &["teardown"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(refused.stdout.is_empty(), "{refused:?}");
    let words = "2 pods are attached to azure0";
    assert!(refused.stderr.contains(words), "{refused:?}");
    // Nothing of the pods was touched.
    printed(vm, 0, &["status"]);
    let unknown = run(vm, &["teardown", "--bridge", "br7"]);
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    let words = "br7 is not a bridge of azure-vnet on this node (it has azure0)";
    assert!(unknown.stderr.contains(words), "{unknown:?}");

    web.delete().unwrap();
    db.delete().unwrap();
    text += &printed(vm, 0, &["teardown"]);
    text += &printed(vm, 0, &["status"]);
    assert_fits(&text);
    assert_golden("teardown.txt", &text);
}

#[test]
fn by_force_pods_are_cut_off() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let _pods = pods(&azure, "netfilter");
    let arguments = ["teardown", "--bridge", "azure0", "--force"];
    assert_golden("teardown.json", &pretty(&json_of(vm, 0, &arguments)));
    let links = vm.program("ip").unwrap().args(["link"]).checked().unwrap();
    assert!(
        !links.contains("azv") && !links.contains("azure0"),
        "{links}"
    );
}
