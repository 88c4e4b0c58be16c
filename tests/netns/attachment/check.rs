//! CHECK: right after ADD it passes, and whatever is damaged it sees.

use std::time::{Duration, Instant};

use azure_vnet_testbed::Vm;
use serde_json::{Value, json};

use crate::fixture::{Container, Node, TIERS, Tier, address, sh};
use crate::traces::remove_from_pods;

#[test]
fn it_passes_at_once_and_changes_nothing() {
    for tier in TIERS {
        let node = Node::new(tier);
        let container = node.container();
        let result = container.add();
        let before = (node.traces(), network(node.vm()));
        for _ in 0..if tier == Tier::Tcx { 100 } else { 10 } {
            container.check(&result).ok();
        }
        assert_eq!((node.traces(), network(node.vm())), before);
        container.del().ok();
    }
}

fn network(vm: &Vm) -> Vec<String> {
    [
        "ip link",
        "ip -4 address",
        "ip -4 route show table all",
        "ip neighbour show nud permanent",
        // Without what its counters say: pods solicit routers, which is counted and dropped.
        "nft --stateless list ruleset",
    ]
    .map(|line| sh(vm.namespace(), line))
    .to_vec()
}

/// What may happen to an attachment: how, and what CHECK must then name. `{veth}` is the host's end of its veth.
type Damage = (&'static str, &'static str);

const IN_POD: [Damage; 5] = [
    ("ip link set eth0 down", "eth0 in the pod is down"),
    ("ip route delete default", "no route to 0.0.0.0/0"),
    ("ip address flush dev eth0", "does not have 10.0.0."),
    (
        "ip link set eth0 address 02:00:00:00:00:01",
        "does not have the MAC",
    ),
    ("ip link delete eth0", "no interface eth0"),
];

const ON_NODE: [Damage; 4] = [
    ("ip link set {veth} down", "is down"),
    ("ip link set {veth} nomaster", "is not a port of azure0"),
    ("ip link delete {veth}", "no interface eth0"),
    (
        "rm -r /run/azure-vnet/ipam.json /run/azure-vnet/ipam.json.backup /run/azure-vnet/attachments",
        "reserved",
    ),
];

/// What the node knows of its pods, or all of them share: any next call mends it.
const OF_NODE: [Damage; 10] = [
    ("ip link set azure0 down", "the bridge azure0 is down"),
    (
        "ip link set azure0 address 02:00:00:00:00:01",
        "does not have the MAC 12:34:56:78:9a:bc",
    ),
    ("ip link set azure0 mtu 1400", "azure0 has the MTU 1400"),
    (
        "ip link set azure0 type bridge mcast_snooping 1",
        "does not have the settings",
    ),
    (
        "ip address flush dev azure0",
        "does not have the address 169.254.73.1/32",
    ),
    ("sysctl -qw net.ipv4.conf.azure0.proxy_arp=0", "proxy_arp"),
    ("ip route flush dev azure0", "the route 10.0.0."),
    (
        "ip route flush type blackhole",
        "the route blackhole 10.0.0.",
    ),
    (
        "ip neighbour flush nud permanent dev azure0",
        "does not know the MAC",
    ),
    (
        "bridge link set dev {veth} flood on",
        "not set as a pod's port is",
    ),
];

#[test]
fn it_sees_damage() {
    for tier in TIERS {
        let node = Node::new(tier);
        for (damage, names) in IN_POD {
            expect(&node, names, |container| {
                drop(sh(container.namespace(), damage));
            });
        }
        for (damage, names) in ON_NODE {
            expect(&node, names, |container| {
                drop(node.sh(&damage.replace("{veth}", &container.host_veth())));
            });
        }
    }
    let node = Node::new(Tier::Tcx);
    for (damage, names) in OF_NODE {
        expect(&node, names, |container| {
            drop(node.sh(&damage.replace("{veth}", &container.host_veth())));
        });
    }
}

#[test]
fn it_sees_a_damaged_datapath() {
    let node = Node::new(Tier::Tcx);
    for program in ["to_uplink", "from_uplink"] {
        let pin = format!(
            "/sys/fs/bpf/azure-vnet/v{}/azure0/links/{program}",
            azure_vnet_abi::ABI_VERSION
        );
        expect(&node, program, |_| drop(node.sh(&format!("rm {pin}"))));
    }
    let links = format!(
        "/sys/fs/bpf/azure-vnet/v{}/azure0/links",
        azure_vnet_abi::ABI_VERSION
    );
    expect(&node, "from_pod", |container| {
        drop(node.sh(&format!("rm {links}/{}", container.host_veth())));
    });
    for tier in [Tier::Tcx, Tier::ClsBpf] {
        let node = Node::new(tier);
        let remove = |container: &Container<'_>, result: &Value| {
            let _ = container;
            remove_from_pods(node.vm(), address(result));
        };
        expect_with(&node, "map pods", remove);
    }
    let node = Node::new(Tier::ClsBpf);
    for (side, program) in [("ingress", "from_uplink"), ("egress", "to_uplink")] {
        expect(&node, program, |_| {
            drop(node.sh(&format!("tc filter delete dev eth0 {side}")));
        });
    }
    expect(&node, "from_pod", |container| {
        drop(node.sh(&format!(
            "tc qdisc delete dev {} clsact",
            container.host_veth()
        )));
    });
    let node = Node::new(Tier::Netfilter);
    for (damage, names) in [
        (
            "nft delete table ip azure-vnet-azure0",
            "has no rules in postrouting",
        ),
        (
            "nft flush chain bridge azure-vnet-azure0 prerouting",
            "has no rules in prerouting",
        ),
        ("nft flush set ip azure-vnet-azure0 pods", "in pods"),
        ("nft flush ruleset", "in sources"),
    ] {
        expect(&node, names, |_| drop(node.sh(damage)));
    }
}

#[test]
fn what_other_plugins_did_is_no_damage() {
    let node = Node::new(Tier::Tcx);
    let container = node.container();
    let mut result = container.add();
    for line in [
        "ip link set eth0 address 02:00:00:00:00:01",
        "ip link set eth0 mtu 1400",
        "ip address add 192.0.2.1/32 dev eth0",
        "ip route add 192.0.2.0/24 dev eth0",
        "ip link add sb0 type veth peer name sb1",
    ] {
        sh(container.namespace(), line);
    }
    result["interfaces"][2]["mac"] = "02:00:00:00:00:01".into();
    let more = json!({ "name": "sb0", "sandbox": container.netns });
    result["interfaces"].as_array_mut().unwrap().push(more);
    result["ips"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "address": "192.0.2.7/32", "interface": 3 }));
    result["routes"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "dst": "192.0.2.0/24" }));
    container.check(&result).ok();
    result.as_object_mut().unwrap().remove("cniVersion");
    container.check(&result).ok();
    container.del().ok();
}

#[test]
fn results_of_others_are_refused() {
    let node = Node::new(Tier::Tcx);
    let container = node.container();
    let result = container.add();
    let (code, _) = container.call("CHECK", &json!({})).error();
    assert_eq!(code, 7);
    let mut other = result.clone();
    other["interfaces"][2]["name"] = "eth9".into();
    let (code, text) = container.check(&other).error();
    assert!(code == 7 && text.contains("eth0"), "{text}");
    let mut moved = result.clone();
    moved["ips"][0]["address"] = "10.0.0.99/20".into();
    let (_, text) = container.check(&moved).error();
    assert!(text.contains("10.0.0.99/20"), "{text}");
    node.install_plugin(
        "sulking",
        r#"[ $CNI_COMMAND = CHECK ] || exit 0; echo '{"code":123,"msg":"sulking"}'; exit 1"#,
    );
    node.use_ipam("sulking");
    let (code, text) = container.check(&result).error();
    assert!(code == 123 && text.contains("sulking"), "{text}");
    node.use_ipam("azure-vnet-ipam");
    container.del().ok();
}

fn expect(node: &Node, names: &str, damage: impl FnOnce(&Container<'_>)) {
    expect_with(node, names, |container, _| damage(container));
}

/// A fresh attachment passes, and after the damage CHECK names it.
fn expect_with(node: &Node, names: &str, damage: impl FnOnce(&Container<'_>, &Value)) {
    let container = node.container();
    let result = container.add();
    container.check(&result).ok();
    damage(&container, &result);
    // The kernel lets go of a link whose pin was removed a moment later (`bpf_link_put` hands it to a worker).
    let end = Instant::now() + Duration::from_secs(10);
    let mut answer = container.check(&result);
    while answer.succeeded() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
        answer = container.check(&result);
    }
    let (code, text) = answer.error();
    assert!(
        code >= 100 && text.contains(names),
        "{:?}: expected {names:?}, found {code} {text}",
        node.tier
    );
    container.del().ok();
}
