//! How `from_pod` hangs on a pod's veth: as a filter where nobody else wants that place, as a TCX link where a chained plugin may.

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, CONFIG_DIR, Vm};
use serde_json::{Value, json};

use super::lifecycle::rename_build;
use super::{connect, list, on, pins, run, seen_from_internet};

#[test]
fn a_filter_where_the_list_leaves_its_place_free() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = on("ebpf").at_version("1.0.0");
    install(vm, &list);
    let pod = vm.add_pod(&list, &PodSpec::named("plain")).unwrap();
    assert_eq!(attached(vm, &pod), (false, true));
    assert_eq!(seen_from_internet(&pod), vm.nic.primary);
    pod.check().unwrap();
    let veth = host_veth(&pod).to_owned();
    run(vm, &format!("tc filter del dev {veth} ingress"));
    let lacking = pod.check().unwrap_err().to_string();
    assert!(lacking.contains("from_pod is not attached"), "{lacking}");
}

#[test]
fn a_link_where_bandwidth_is_chained() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = with_bandwidth().at_version("1.0.0");
    install(vm, &list);
    // The limit for what comes out of the pod is what needs the ingress queueing discipline.
    let pod = vm.add_pod(&list, &PodSpec::named("shaped")).unwrap();
    assert!(attached(vm, &pod).0);
    assert!(run(vm, &format!("tc qdisc show dev {}", host_veth(&pod))).contains("ingress"));
    assert_eq!(seen_from_internet(&pod), vm.nic.primary);
    pod.check().unwrap();
}

#[test]
fn a_list_that_is_not_found_may_have_anything_behind_us() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let pod = vm.add_pod(&on("ebpf"), &PodSpec::named("lonely")).unwrap();
    assert_eq!(attached(vm, &pod), (true, false));
}

/// The list is changed, and another build takes over: a pod that was there has one program afterwards, not two.
#[test]
fn a_changed_list_moves_running_pods_and_loses_no_connection() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    install(vm, &on("ebpf"));
    let old = vm.add_pod(&on("ebpf"), &PodSpec::named("old")).unwrap();
    assert_eq!(attached(vm, &old), (false, true));
    let mut connection = connect(&azure, &old);

    install(vm, &with_bandwidth());
    rename_build(vm);
    let new = vm
        .add_pod(&with_bandwidth(), &PodSpec::named("new"))
        .unwrap();

    assert_eq!(attached(vm, &old), (true, false));
    connection.is_alive().unwrap();
    assert_eq!(seen_from_internet(&old), vm.nic.primary);
    assert_eq!(seen_from_internet(&new), vm.nic.primary);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

pub(super) fn install(vm: &Vm, list: &Conflist) {
    let path = format!("{CONFIG_DIR}/10-azure.conflist");
    vm.write_file(&path, &list.to_json()).unwrap();
}

fn with_bandwidth() -> Conflist {
    let rate = 100_000_000;
    let shaped = json!({ "type": "bandwidth", "egressRate": rate, "egressBurst": rate });
    let mut list: Value =
        serde_json::from_str(&list(&json!({ "datapath": "ebpf" })).to_json()).unwrap();
    list["plugins"].as_array_mut().unwrap().push(shaped);
    Conflist::parse(&list.to_string()).unwrap()
}

pub(super) fn host_veth<'a>(pod: &'a Pod<'_>) -> &'a str {
    let interfaces = pod.result["interfaces"].as_array().unwrap();
    let names = interfaces
        .iter()
        .map(|interface| interface["name"].as_str().unwrap());
    names
        .into_iter()
        .find(|name| name.starts_with("azv"))
        .unwrap()
}

/// Whether the pod has a TCX link, and whether it has a filter.
fn attached(vm: &Vm, pod: &Pod<'_>) -> (bool, bool) {
    let veth = host_veth(pod);
    let links = run(vm, &format!("ls {}/links", pins()));
    // Without a queueing discipline tc says nothing, or that there is none.
    let tc = vm.program("tc").unwrap();
    let filters = tc
        .args(["filter", "show", "dev", veth, "ingress"])
        .output()
        .unwrap();
    (
        links.lines().any(|link| link == veth),
        filters.stdout.contains("from_pod"),
    )
}
