//! Which programs a call executes: on the eBPF tier none but itself, and the IPAM plugin where that is another file.

use azure_vnet_testbed::libcni::Attachment;
use azure_vnet_testbed::{Azure, NETNS_DIR, PLUGIN_DIR, Vm};
use serde_json::json;

#[test]
fn on_the_ebpf_tier_nothing_is_executed_but_an_ipam_plugin_of_another_file() {
    let azure = Azure::builder().build().unwrap();
    let folder = azure_vnet_testbed::bin_dir().unwrap().join("apart");
    let apart = Azure::builder().bin_dir(folder).build().unwrap();
    for verb in ["ADD", "ADD", "DEL"] {
        assert_eq!(
            executed(&azure.vms[0], "ebpf", verb),
            ["azure-vnet"],
            "{verb}"
        );
        let executed = executed(&apart.vms[0], "ebpf", verb);
        assert_eq!(executed, ["azure-vnet", "azure-vnet-ipam"], "{verb}");
    }
}

#[test]
fn on_the_netfilter_tier_one_transaction_is_executed_as_well() {
    let azure = Azure::builder().build().unwrap();
    let mut first = executed(&azure.vms[0], "netfilter", "ADD");
    first.sort();
    // The node's first ADD has the rules in place before there is a pod, and lists both tables, to know them again.
    let nft = ["nft"; 4];
    assert_eq!(first, [&["azure-vnet"][..], &nft].concat());
    let mut second = executed(&azure.vms[0], "netfilter", "ADD");
    second.sort();
    assert_eq!(second, ["azure-vnet", "nft"]);
}

/// A DEL of an attachment that never was has nothing to take out of the rules.
#[test]
fn del_of_the_unknown_executes_nothing() {
    let azure = Azure::builder().build().unwrap();
    let _first = executed(&azure.vms[0], "netfilter", "ADD");
    let executed = executed(&azure.vms[0], "netfilter", "DEL");
    assert_eq!(executed, ["azure-vnet"]);
}

/// Runs one call under strace and lists what was executed successfully. A second ADD is one for another container.
fn executed(vm: &Vm, datapath: &str, verb: &str) -> Vec<String> {
    static CALLS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let attachment = Attachment {
        container_id: format!("c{number}"),
        netns: format!("{NETNS_DIR}/c{number}"),
        ifname: "eth0".into(),
        ..Attachment::default()
    };
    let _sandbox = vm.new_sandbox(&attachment.netns).unwrap();
    let conf = json!({
        "cniVersion": "0.3.1", "name": "azure", "type": "azure-vnet", "bridge": "azure0",
        "ipam": { "type": "azure-vnet-ipam" }, "masquerade": { "datapath": datapath },
    });
    let plugin = format!("{PLUGIN_DIR}/azure-vnet");
    let trace = "/run/executed.trace";
    vm.program("strace")
        .unwrap()
        .args(["-f", "-qq", "-e", "trace=execve", "-o", trace, &plugin])
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &attachment.container_id)
        .env("CNI_NETNS", &attachment.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "")
        .env("CNI_PATH", PLUGIN_DIR)
        .stdin(conf.to_string())
        .checked()
        .unwrap();
    let trace = vm.program("cat").unwrap().arg(trace).checked().unwrap();
    trace
        .lines()
        .filter(|line| line.ends_with("= 0"))
        .filter_map(|line| {
            line.split('"')
                .nth(1)?
                .rsplit('/')
                .next()
                .map(str::to_owned)
        })
        .collect()
}
