//! The life of a pod when all goes well.

use std::net::Ipv4Addr;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::host::REPORT_PORT;

use super::daemon::{Containerd, Running};
use crate::cri::Pod;
use crate::{reach, recorder};

/// Run, look, stop, stop again, remove: at every version of the specification that this containerd speaks, with the list as shipped.
#[test]
fn pod_lives_and_goes() {
    for (version, prev_result) in [
        ("0.3.0", false),
        ("0.3.1", false),
        ("0.4.0", true),
        ("1.0.0", true),
    ] {
        let azure = Azure::builder().vms(2).build().unwrap();
        let list = Conflist::shipped().at_version(version);
        let containerd = Containerd::start(&azure.vms[0], &list);
        let pod = containerd.run_pod(Pod {
            name: "web".into(),
            host_port: Some((80, 80)),
            ..Pod::default()
        });
        assert_connected(&azure, &containerd, &pod);
        go(&containerd, &pod, prev_result);
        assert_eq!(azure.fabric.leaked().unwrap(), 0);
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
    }
}

/// Starts a web server in the pod, which serves everybody, and reaches the internet as the node. Returns its container.
pub fn assert_connected(azure: &Azure, containerd: &Containerd<'_>, pod: &Running) -> String {
    let server = containerd.serve(pod);
    reach::assert_serves(azure, pod.address);
    assert_reaches(azure, containerd, pod, &server);
    server
}

/// A container of the pod reaches the internet as the node, and a peered network as itself.
pub fn assert_reaches(azure: &Azure, containerd: &Containerd<'_>, pod: &Running, container: &str) {
    let (client, node) = (containerd.client(), &azure.vms[0]);
    let port = REPORT_PORT.to_string();
    let ask = |address: Ipv4Addr| {
        let command = ["/bin/nc", "-w", "5", &address.to_string(), &port];
        let (status, seen, complaint) = client.exec(container, &command).unwrap();
        assert_eq!(status, 0, "{complaint}");
        seen.split(':').next().unwrap().parse::<Ipv4Addr>().unwrap()
    };
    assert_eq!(ask(azure.internet.address()), node.nic.primary, "internet");
    assert_eq!(ask(azure.peered.address()), pod.address, "peered VNet");
    let ping = [
        "/bin/ping",
        "-c",
        "1",
        "-w",
        "5",
        &azure.internet.address().to_string(),
    ];
    assert_eq!(client.exec(container, &ping).unwrap().0, 0, "ping");
}

/// Ends a pod as a kubelet does, more often than necessary, and sees what that comes to for the plugin.
pub fn go(containerd: &Containerd<'_>, pod: &Running, prev_result: bool) {
    let client = containerd.client();
    client.stop_pod(&pod.id).unwrap();
    client.stop_pod(&pod.id).unwrap();
    client.remove_pod(&pod.id).unwrap();

    let calls = containerd.calls("azure-vnet", &pod.id);
    let (add, dels) = calls.split_first().unwrap();
    assert_eq!(add.verb(), "ADD");
    assert_eq!(
        dels.iter().map(recorder::Call::verb).collect::<Vec<_>>(),
        ["DEL"; 3]
    );
    let netns = add.env("CNI_NETNS");
    let dels: Vec<_> = dels.iter().map(recorder::Call::circumstances).collect();
    assert_eq!(
        dels,
        [(netns, prev_result, 0), ("", false, 0), ("", false, 0)]
    );
    containerd.assert_nothing_left();
}
