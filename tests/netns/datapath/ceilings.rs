//! What an ADD and a DEL of a node at work may cost at most, in things that can be counted, so that nobody adds to it without
//! noticing. Where a change makes one of them cheaper, its ceiling comes down with it.

use azure_vnet_testbed::libcni::Attachment;
use azure_vnet_testbed::trace::{self, Counts};
use azure_vnet_testbed::{Azure, CONFIG_DIR, NETNS_DIR, PLUGIN_DIR, Vm};
use serde_json::json;

use super::on;

struct Ceiling {
    verb: &'static str,
    netlink_messages: usize,
    netlink_reason: &'static str,
    files_synced: usize,
    sync_reason: &'static str,
}

const CEILINGS: [Ceiling; 2] = [
    Ceiling {
        verb: "ADD",
        netlink_messages: 29,
        netlink_reason: "is the interface there; the neighbours, and the bridge's entry for the pod's MAC (IPAM); the look: bridges, NIC, the addresses of both, default routes; veth, its \
                         index; forwarding entry, port; lo, address, link, route; what there is of all pods: own routes, rules, the bridge's \
                         neighbours and ports; neighbour and two routes; queueing discipline, filter and its handle; \
                         the node's sockets (TCP and UDP, each of two families), which takes no lock",
        files_synced: 6,
        sync_reason: "IPAM's record and its backup, the attachment, each with its directory",
    },
    Ceiling {
        verb: "DEL",
        netlink_messages: 14,
        netlink_reason: "veth; whether another has the pod's MAC, neighbour, two routes; the look and what there is of all pods, as above",
        files_synced: 4,
        sync_reason: "IPAM's record and its backup, each with its directory",
    },
];

#[test]
fn an_add_and_a_del_cost_no_more_than_is_written_down() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = format!("{CONFIG_DIR}/10-azure.conflist");
    vm.write_file(&list, &on("ebpf").to_json()).unwrap();
    // The node's first call sets things up that later ones find.
    counted(vm, "first", "ADD");
    for ceiling in CEILINGS {
        let counts = counted(vm, "second", ceiling.verb);
        let Ceiling {
            verb,
            netlink_messages,
            netlink_reason,
            files_synced,
            sync_reason,
        } = ceiling;
        assert_eq!(counts.programs, ["azure-vnet"], "{verb}");
        assert!(
            counts.netlink_messages <= netlink_messages,
            "{verb} sends {} netlink messages, the ceiling is {netlink_messages}: {netlink_reason}",
            counts.netlink_messages
        );
        assert!(
            counts.files_synced <= files_synced,
            "{verb} syncs {} files, the ceiling is {files_synced}: {sync_reason}",
            counts.files_synced
        );
        // A trace in which nothing is found would be below every ceiling.
        assert!(
            counts.netlink_messages > 1 && counts.files_synced > 1,
            "{counts:?}"
        );
    }
}

fn counted(vm: &Vm, container: &str, verb: &str) -> Counts {
    let attachment = Attachment {
        container_id: container.to_owned(),
        netns: format!("{NETNS_DIR}/{container}"),
        ifname: "eth0".into(),
        ..Attachment::default()
    };
    if verb == "ADD" {
        vm.new_sandbox(&attachment.netns).unwrap();
    }
    let conf = json!({
        "cniVersion": "0.3.1", "name": "azure", "type": "azure-vnet", "bridge": "azure0",
        "ipam": { "type": "azure-vnet-ipam" }, "masquerade": { "datapath": "ebpf" },
    });
    let file = "/run/counted.trace";
    let strace = vm.program("strace").unwrap();
    strace
        .args(trace::options(file))
        .arg(format!("{PLUGIN_DIR}/azure-vnet"))
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &attachment.container_id)
        .env("CNI_NETNS", &attachment.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "")
        .env("CNI_PATH", PLUGIN_DIR)
        .stdin(conf.to_string())
        .checked()
        .unwrap();
    Counts::read(&vm.program("cat").unwrap().arg(file).checked().unwrap())
}
