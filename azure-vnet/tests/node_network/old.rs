//! A node as v0.1.0 left it, made by hand with ip(8): the NIC is a port of the bridge, and the bridge has the node's addresses,
//! routes and rules.

use azure_vnet::names;
use azure_vnet::netlink::address;
use azure_vnet::netlink::route;
use azure_vnet::plan;
use azure_vnet::state::{self, Attachment};
use rtnetlink::packet_core::Emitable;

use crate::lab::{
    ADDRESSES, NIC_MAC, ROUTES, RULES, addresses_are_settled, all_but_ours, assert_same, command,
    ip, moved, namespace, netlink, network, plain_node, rich_node, rules, run,
};
use crate::pods::Pod;

/// Its journal.
pub const JOURNAL: &str = "/run/azure-vnet/node-azure0.json";

/// A node with everything that its network may have, as v0.1.0 left it. Gives what there was before that came.
pub fn old_rich_node() -> Vec<String> {
    rich_node(1500);
    rules();
    addresses_are_settled();
    let (before, network_before) = (all_but_ours(), network());
    move_to_bridge(true);
    assert_same(
        &network(),
        &moved(&network_before, "eth0", "azure0"),
        "as v0.1.0 left it",
    );
    before
}

/// Likewise a plain one.
pub fn old_node() -> Vec<String> {
    plain_node(1500);
    addresses_are_settled();
    let before = all_but_ours();
    move_plain_node();
    before
}

/// What v0.1.0 does to the first NIC.
pub fn move_plain_node() {
    move_to_bridge(false);
}

fn move_to_bridge(is_rich: bool) {
    let addresses_before = addresses("eth0");
    ip(&format!(
        "link add azure0 address {NIC_MAC} type bridge stp_state 0 forward_delay 0 nf_call_iptables 1"
    ));
    ip("link set azure0 alias azure-vnet");
    ip("link set azure0 up");
    ip("addr add 10.0.0.4/24 brd + dev azure0");
    if is_rich {
        for address in ADDRESSES {
            ip(&format!("addr add {}", address.replace("{}", "azure0")));
        }
        for route in ROUTES.iter().filter(|it| it.starts_with("-6")) {
            ip(&route.replace("{}", "eth0").replace(" add ", " del "));
        }
        for rule in RULES {
            ip(&rule.replace("{}", "eth0").replace("rule add", "rule del"));
        }
    }
    ip("link set eth0 master azure0");
    ip("-4 addr flush dev eth0");
    ip("-6 addr flush dev eth0 scope global");
    if is_rich {
        // Of an address with a lifetime, which the kernel leaves there.
        ip("-6 route del fd00:1::/64 dev eth0");
    }
    ip("route add default via 10.0.0.1 dev azure0 proto dhcp src 10.0.0.4 metric 100");
    if is_rich {
        for what in ROUTES.iter().chain(&RULES) {
            ip(&what.replace("{}", "azure0"));
        }
    }
    forward();
    write_journal(
        &addresses_before,
        serde_json::json!({ "bridge": false, "port": false, "up": true }),
    );
}

/// Switches forwarding on, and remembers what was.
fn forward() {
    let mut paths = vec![
        "net/ipv4/ip_forward".to_owned(),
        "net/ipv4/conf/all/accept_redirects".to_owned(),
    ];
    for link in std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap() {
        let link = link.unwrap().file_name().into_string().unwrap();
        paths.push(format!("net/ipv4/conf/{link}/forwarding"));
    }
    let former = paths.into_iter().map(|path| {
        let value = std::fs::read_to_string(format!("/proc/sys/{path}")).unwrap();
        serde_json::json!({ "path": path, "value": value.trim() })
    });
    let former: serde_json::Value = former.collect();
    std::fs::create_dir_all("/run/azure-vnet").unwrap();
    std::fs::write("/run/azure-vnet/settings.json", former.to_string()).unwrap();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
}

/// The journal of a complete move, with what there was before it.
pub fn write_journal(addresses_before: &[String], mut before: serde_json::Value) {
    before["addresses"] = addresses_before.into();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let index = |name: &str| {
        run(async { netlink().link(name).await })
            .unwrap()
            .unwrap()
            .index
    };
    let bridge = index("azure0");
    let journal = serde_json::json!({
        "version": 1, "boot": boot.trim(), "state": "done",
        "bridge": "azure0", "bridge_index": bridge, "master": "eth0", "master_index": index("eth0"),
        "gateway": "10.0.0.1", "addresses": addresses("azure0"), "routes": routes(bridge), "before": before,
    });
    std::fs::create_dir_all("/run/azure-vnet").unwrap();
    std::fs::write(JOURNAL, serde_json::to_string_pretty(&journal).unwrap()).unwrap();
}

/// The addresses of a link as the journal has them.
pub fn addresses(link: &str) -> Vec<String> {
    run(async {
        let netlink = netlink();
        let link = netlink.link(link).await.unwrap().unwrap();
        let addresses = netlink.addresses_on(&link).await.unwrap();
        let movable = addresses.iter().filter(|it| address::is_movable(it));
        movable.map(hexadecimal).collect()
    })
}

fn routes(link: u32) -> Vec<String> {
    let routes = run(async { netlink().routes().await }).unwrap();
    let of_link = routes
        .iter()
        .filter(|it| route::uses(it, link) && !route::is_kernels_own(it));
    of_link.map(hexadecimal).collect()
}

fn hexadecimal(message: &impl Emitable) -> String {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// A pod as v0.1.0 attached it.
pub fn old_pod(container: &str, address: &'static str) -> Pod {
    let netns = namespace(container);
    let host_veth = names::host_veth("azure", container, "eth0");
    let last = address.rsplit('.').next().unwrap().parse::<u8>().unwrap();
    let mac = |prefix: &str| format!("{prefix}:58:0a:00:00:{last:02x}");
    let (pod_mac, host_mac) = (mac("0a"), mac("0e"));
    ip(&format!(
        "link add {host_veth} address {host_mac} type veth peer name eth0 netns {container} address {pod_mac}"
    ));
    ip(&format!("link set {host_veth} addrgenmode none"));
    ip(&format!("link set {host_veth} master azure0"));
    ip(&format!("link set {host_veth} up"));
    command("bridge", &format!("link set dev {host_veth} hairpin on"));
    command(
        "bridge",
        &format!("fdb replace {pod_mac} dev {host_veth} master static sticky"),
    );
    ip(&format!(
        "neigh replace {address} lladdr {pod_mac} dev azure0 nud permanent"
    ));
    ip(&format!("-n {container} link set lo up"));
    ip(&format!(
        "-n {container} addr add {address}/24 brd + dev eth0"
    ));
    ip(&format!("-n {container} link set eth0 up"));
    ip(&format!(
        "-n {container} route add default via 10.0.0.1 proto static"
    ));
    let attachment = Attachment {
        network: "azure".to_owned(),
        container_id: container.to_owned(),
        ifname: "eth0".to_owned(),
        netns: format!("/run/netns/{container}"),
        host_veth: host_veth.clone(),
        bridge: "azure0".to_owned(),
        address: address.parse().unwrap(),
        mac: plan::pod_mac(address.parse().unwrap()),
        host_ports: Vec::new(),
        pod: None,
    };
    state::remember(attachment).unwrap().commit();
    Pod {
        netns,
        address,
        host_veth,
    }
}
