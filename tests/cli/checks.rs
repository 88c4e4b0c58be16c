//! Every check is shown to fire: something is broken, doctor names it, the command that it prints is run as printed, and all is well
//! again. docs/checks.md is the table of what there is to fire.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use azure_vnet_abi::{Be16, Be32, Flow, FlowKey, FlowKind, Mac, Uplink};
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::{Azure, Vm};
use serde_json::json;

use crate::doctor::{configure, follow, shell, wrong};
use crate::scene::{connect, json_of, list, pods, printed};

/// What breaks it, line by line, and the check that names it first.
struct Case {
    check: &'static str,
    verdict: &'static str,
    broken: &'static [&'static str],
}

const fn problem(check: &'static str, broken: &'static [&'static str]) -> Case {
    Case {
        check,
        verdict: "problem",
        broken,
    }
}

const fn warning(check: &'static str, broken: &'static [&'static str]) -> Case {
    Case {
        verdict: "warning",
        ..problem(check, broken)
    }
}

/// The path of packets: each is the first thing that doctor names.
const PATH: &[Case] = &[
    problem("gateway", &["ip route add blackhole 10.0.0.1"]),
    problem("platform", &["ip route add unreachable 168.63.129.16"]),
    problem("default_route", &["ip route del default"]),
    problem("ip_forward", &["sysctl -qw net.ipv4.ip_forward=0"]),
    problem(
        "ip_forward",
        &["sysctl -qw net/ipv4/conf/eth0/forwarding=0"],
    ),
    problem(
        "node_to_pod",
        &["ip rule add to 10.0.0.5 pref 100 blackhole"],
    ),
    problem("node_to_pod", &["ip address add 10.0.0.5/32 dev lo"]),
    problem("pod_to_node", &["ip route del local 10.0.0.4 table local"]),
    problem(
        "pod_to_pod",
        &[
            "ip route add default via 10.0.0.1 dev eth0 table 99",
            "ip rule add from 10.0.0.5 pref 100 lookup 99",
        ],
    ),
    problem(
        "pod_to_out",
        &["ip rule add from 10.0.0.5 to 13.0.0.0/8 pref 100 prohibit"],
    ),
    problem(
        "out_to_pod",
        &["ip rule add iif eth0 from 10.0.0.1 to 10.0.0.5 pref 100 unreachable"],
    ),
    warning(
        "rules",
        &["ip rule add from 10.0.0.5 to 13.0.0.0/8 pref 100 lookup 99"],
    ),
    problem("node_to_pod", &["ip link set azure0 down"]),
    // Last, since what DHCP has set beside the default route is not known to doctor.
    problem("nic", &["ip link set eth0 down"]),
    problem("nic", &["ip address flush dev eth0"]),
];

/// What others have set up.
const OTHERS: &[Case] = &[
    problem(
        "names",
        &["iptables -A OUTPUT -p udp -m udp --dport 53 -j DROP"],
    ),
    warning("mtu", &["ip link set eth0 mtu 1400", "azure-vnet gc"]),
    problem(
        "iptables_masquerade",
        &["iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE"],
    ),
    problem(
        "iptables_masquerade",
        &[
            "iptables -t nat -N OTHERS",
            "iptables -t nat -A OTHERS -j SNAT --to-source 10.0.0.4",
            "iptables -t nat -A POSTROUTING -s 10.0.0.0/20 -j OTHERS",
        ],
    ),
    warning(
        "iptables_masquerade",
        &["iptables -t nat -A POSTROUTING -p udp -j MASQUERADE"],
    ),
    problem(
        "nft_masquerade",
        &[
            "nft add table ip others",
            "nft add chain ip others post { type nat hook postrouting priority 90 ; }",
            "nft add rule ip others post oifname eth0 masquerade",
        ],
    ),
    problem(
        "ip_masq_agent",
        &[
            "iptables -t nat -N IP-MASQ-AGENT",
            "iptables -t nat -A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT",
        ],
    ),
    problem("forward_policy", &["iptables -P FORWARD DROP"]),
    problem("forward_policy", &["iptables -I FORWARD -j REJECT"]),
    problem("forward_policy", &["iptables -I FORWARD -p tcp -j DROP"]),
    problem(
        "forward_policy",
        &["iptables -t raw -A PREROUTING -i azure0 -j DROP"],
    ),
    problem("forward_policy", &["iptables -t mangle -P FORWARD DROP"]),
    problem(
        "forward_policy",
        &[
            "nft add table inet fw",
            "nft add chain inet fw pass { type filter hook forward priority 0 ; policy drop ; }",
        ],
    ),
    problem(
        "ebtables",
        &[
            "ebtables -t nat -A POSTROUTING -s unicast -o eth0 -j snat --to-src 00:0d:3a:00:00:01 --snat-arp",
        ],
    ),
    problem(
        "ports",
        &["sysctl -qw net.ipv4.ip_local_port_range=12000\t60999"],
    ),
    warning("datapath", &["ip route del 10.0.0.5 metric 10"]),
    problem("datapath", &["ip route flush dev azure0"]),
    warning(
        "links",
        &["ip link add azv0123456789a type veth peer name other"],
    ),
    warning("versions", &["mkdir /sys/fs/bpf/azure-vnet/v999"]),
    warning("original", &["touch /run/azure-vnet-ipam.json"]),
    warning("addresses", &["ip address add 10.0.0.30/20 dev eth0"]),
    problem("addresses", &["ip address add 10.0.0.6/20 dev eth0"]),
];

/// What another test shows, here or in doctor.rs, and what cannot be broken.
const ELSEWHERE: &[&str] = &[
    // It names a manager, and is never wrong.
    "nic_manager",
    // Its kernel is the machine's: a unit test has others.
    "kernel",
    // `a_configuration_that_is_refused_or_comes_second`
    "configuration",
    "configuration_order",
    "plugins",
    // `a_node_that_leaves_no_ports_is_named_before_an_add_fails`
    "ports_free",
    // `what_is_left_of_a_pod_is_found_and_collected`
    "maps",
    // Below.
    "ebpf",
    "netfilter",
    "iptables",
    "programs",
    "flow_table",
    "destination_ports",
    "shares",
    "conntrack",
    "queues",
    "passed_by",
    "spoofing",
    "pool",
    "leases",
];

fn named(check: &str, verdict: &str) -> (String, String) {
    (check.to_owned(), verdict.to_owned())
}

#[track_caller]
fn fire(vm: &Vm, case: &Case, is_first: bool) {
    for line in case.broken {
        shell(vm, line);
    }
    let found = wrong(vm);
    let expected = named(case.check, case.verdict);
    let first = found.iter().find(|(_, verdict)| *verdict == case.verdict);
    if is_first {
        assert_eq!(first, Some(&expected), "{:?}: {found:?}", case.broken);
    } else {
        assert!(found.contains(&expected), "{:?}: {found:?}", case.broken);
    }
    follow(vm);
}

#[test]
fn the_first_break_of_the_path_is_named_and_mended() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        configure(vm);
        let _pods = pods(&azure, tier);
        // Of somebody else, and about nothing that is asked here: it must not be blamed for what others do.
        shell(vm, "ip rule add from 192.0.2.1 pref 50 blackhole");
        assert_eq!(wrong(vm), []);
        for case in PATH {
            // What the NIC had is known from the programs alone, where nobody manages it.
            if tier == "ebpf" || case.check != "nic" {
                fire(vm, case, true);
            }
        }
        let rules = vm.program("ip").unwrap().args(["rule"]).output().unwrap();
        assert!(rules.stdout.contains("from 192.0.2.1"), "{}", rules.stdout);
    }
}

/// The look-up is right, and nobody answers: here a firewall drops the answers to ARP.
#[test]
fn a_gateway_that_does_not_answer_is_named() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "ebpf");
    for line in [
        "nft add table arp deaf",
        "nft add chain arp deaf heard { type filter hook input priority 0 ; policy drop ; }",
        "ip neigh flush 10.0.0.1 dev eth0",
    ] {
        shell(vm, line);
    }
    let ask = || UdpSocket::bind("0.0.0.0:0")?.send_to(b"!", "10.0.0.1:9");
    let end = Instant::now() + Duration::from_mins(1);
    let found = loop {
        // Refused, once the kernel has given up.
        let _ = vm.namespace().run(ask).unwrap();
        let found = wrong(vm);
        if !found.is_empty() || Instant::now() > end {
            break found;
        }
    };
    assert_eq!(
        found.first(),
        Some(&named("gateway", "problem")),
        "{found:?}"
    );
    shell(vm, "nft delete table arp deaf");
    follow(vm);
}

/// What a VPN does is somebody's wish, and a runtime need not keep pods away for it.
#[test]
fn a_way_to_the_world_that_is_no_nic_is_a_warning() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "ebpf");
    for line in [
        "ip tuntap add vpn0 mode tun",
        "ip link set vpn0 up",
        "ip route add 13.0.0.0/8 dev vpn0",
    ] {
        shell(vm, line);
    }
    let expected = ["default_route", "pod_to_out"].map(|check| named(check, "warning"));
    assert_eq!(wrong(vm), expected);
    follow(vm);
}

#[test]
fn what_others_do_is_named_and_mended() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        configure(vm);
        let _pods = pods(&azure, tier);
        for case in OTHERS {
            // The netfilter tier has neither ports of its own nor pins.
            if tier == "ebpf" || !matches!(case.check, "ports" | "versions") {
                fire(vm, case, false);
            }
        }
    }
}

/// A firewall that keeps pods from some ports does what somebody wants: it is no fault of the node.
#[test]
fn a_firewall_for_some_ports_is_nobodys_fault() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "ebpf");
    shell(vm, "iptables -A FORWARD -p tcp -m tcp --dport 25 -j DROP");
    shell(
        vm,
        "iptables -t raw -A PREROUTING -p udp -m udp --dport 1900 -j DROP",
    );
    assert_eq!(wrong(vm), []);
}

/// The page is what the program writes, and each of its checks is fired by a test.
#[test]
fn the_page_has_every_check_and_every_check_is_fired() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    printed(vm, 0, &["generate", "/run/generated"]);
    let read = || std::fs::read_to_string("/run/generated/checks.md");
    let text = vm.namespace().run(read).unwrap().unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/checks.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&page, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(page).unwrap(), text);
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<&str> = rows.map(|row| row.split('`').next().unwrap()).collect();
    let fired = PATH.iter().chain(OTHERS).map(|case| case.check);
    let shown: BTreeSet<&str> = fired.chain(ELSEWHERE.iter().copied()).collect();
    assert_eq!(listed, shown);
}

#[test]
fn a_tier_that_cannot_be_had_is_named() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "netfilter");
    shell(vm, "umount /sys/fs/bpf");
    shell(vm, "mount -t tmpfs none /sys/fs");
    assert_eq!(wrong(vm), [named("ebpf", "warning")]);
    shell(vm, "umount /sys/fs");
    follow(vm);
}

#[test]
fn a_node_without_netfilters_programs_says_so() {
    let mut azure = Azure::builder().build().unwrap();
    configure(&azure.vms[0]);
    let gone = ["nft", "iptables-restore", "iptables-save"];
    azure.vms[0]
        .replace_programs(&gone.map(|name| (name, None)))
        .unwrap();
    let _pods = pods(&azure, "ebpf");
    let found = wrong(&azure.vms[0]);
    assert_eq!(found, [named("netfilter", "warning")]);
}

/// The program that failed is the one that is named.
#[test]
fn rules_that_cannot_be_listed_are_said_to_be_so() {
    let mut azure = Azure::builder().build().unwrap();
    configure(&azure.vms[0]);
    azure.vms[0]
        .replace_programs(&[("iptables-nft-save", Some("/bin/false"))])
        .unwrap();
    let _pods = pods(&azure, "ebpf");
    let vm = &azure.vms[0];
    assert_eq!(wrong(vm), [named("iptables", "warning")]);
    let text = printed(vm, 0, &["doctor"]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("iptables-nft-save ended with"), "{text}");
    assert!(!text.contains("nft ended"), "{text}");
}

/// The programs are asked what they do: here they have not been told about the NIC.
#[test]
fn a_program_that_drops_what_it_should_not_is_named() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let pods = pods(&azure, "ebpf");
    with_map(vm, "uplink", |map| {
        let mut uplink: aya::maps::Array<_, Uplink> = map.try_into().unwrap();
        uplink.set(0, Uplink::default(), 0).unwrap();
    });
    let found = wrong(vm);
    assert!(found.contains(&named("programs", "problem")), "{found:?}");
    follow(vm);
    drop(pods);
}

fn with_map<T: Send>(vm: &Vm, name: &str, work: impl FnOnce(aya::maps::Map) -> T + Send) -> T {
    let abi = azure_vnet_abi::ABI_VERSION;
    let path = format!("/sys/fs/bpf/azure-vnet/v{abi}/azure0/maps/{name}");
    let open = || {
        let data = aya::maps::MapData::from_pin(&path).unwrap();
        work(aya::maps::Map::from_map_data(data).unwrap())
    };
    vm.namespace().run(open).unwrap()
}

fn masquerading(settings: &serde_json::Value) -> Conflist {
    Conflist::shipped().with_setting("azure-vnet", "masquerade", settings)
}

#[test]
fn what_is_nearly_full_is_named_with_the_pod() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let few = json!({ "datapath": "ebpf", "ports": "10240-10249", "flowsPerPod": 20 });
    let pod = vm
        .add_pod(&masquerading(&few), &PodSpec::named("web"))
        .unwrap();
    let to = |address: Ipv4Addr, count: u16| -> Vec<_> {
        let ports = (0..count).map(|port| 20000 + 100 * u16::from(address.octets()[3]) + port);
        ports
            .map(|port| connect(&azure, &pod, port, (address, 8443)))
            .collect()
    };
    let seven = to(INTERNET[0], 7);
    assert_eq!(wrong(vm), []);
    let eight = to(INTERNET[1], 8);
    assert_eq!(wrong(vm), [named("destination_ports", "warning")]);
    let one = connect(&azure, &pod, 30000, (INTERNET[0], 8443));
    let found = wrong(vm);
    assert_eq!(
        found,
        [
            named("destination_ports", "warning"),
            named("shares", "warning")
        ]
    );
    let text = printed(vm, 0, &["doctor"]);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.matches("default/web (10.0.0.5)").count() >= 2,
        "{text}"
    );
    drop((seven, eight, one));
    // What ended stays in the table for a while; a pod takes its flows with it.
    pod.delete().unwrap();
    assert_eq!(wrong(vm), []);
}

#[test]
fn a_flow_table_that_is_nearly_full_is_named() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let [web, _db] = pods(&azure, "ebpf");
    with_map(vm, "flows", |map| {
        let mut flows: aya::maps::HashMap<_, FlowKey, Flow> = map.try_into().unwrap();
        let flow = Flow::new(
            FlowKind::INBOUND,
            Be32::default(),
            Be16::default(),
            u32::MAX,
            Mac::default(),
            0,
            1,
        );
        for number in 0..430_000_u32 {
            let remote = Be32::from(Ipv4Addr::from_bits(0x0b00_0000 + number));
            let port = Be16::from_host(1);
            let key = FlowKey::new(17, Be32::from(web.address), port, remote, port);
            flows.insert(key, flow, 0).unwrap();
        }
    });
    let found = wrong(vm);
    assert!(found.contains(&named("flow_table", "warning")), "{found:?}");
    web.delete().unwrap();
    // They are of a link that is not there, and gc takes them away.
    shell(vm, "azure-vnet gc");
    let found = wrong(vm);
    assert!(
        !found.iter().any(|(check, _)| check == "flow_table"),
        "{found:?}"
    );
}

/// The kernel's own table, in the tier that masquerades with it. How large it may be is one number for the machine, so it is filled.
#[test]
fn a_conntrack_table_that_is_nearly_full_is_named() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "netfilter");
    assert_eq!(wrong(vm), []);
    shell(vm, "sysctl -qw net/netfilter/nf_conntrack_udp_timeout=600");
    let fill = || -> std::io::Result<()> {
        let path = "/proc/sys/net/netfilter/nf_conntrack_max";
        let most: u32 = std::fs::read_to_string(path)?.trim().parse().unwrap();
        assert!(most <= 1 << 20, "too many to fill: {most}");
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        for number in 0..most / 100 * 82 {
            let to = Ipv4Addr::from_bits(0x7f01_0000 + number);
            // Nobody listens.
            let _ = socket.send_to(b"", (to, 9));
        }
        Ok(())
    };
    vm.namespace().run(fill).unwrap().unwrap();
    assert_eq!(wrong(vm), [named("conntrack", "warning")]);
}

#[test]
fn spoofing_that_is_going_on_is_named() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        configure(vm);
        let [web, _db] = pods(&azure, tier);
        let ip = web.namespace().program("ip").unwrap();
        let address = ["address", "add", "10.9.9.9/32", "dev", "eth0"];
        ip.args(address).checked().unwrap();
        // The pod knows the router's MAC from then on: it would ask for it with the address that it spoofs.
        drop(connect(&azure, &web, 20000, (INTERNET[0], 8443)));
        let spoof = || {
            let socket = UdpSocket::bind("10.9.9.9:5000")?;
            socket.send_to(b"!", (INTERNET[0], 5000))
        };
        let done = AtomicBool::new(false);
        let found = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    web.namespace().run(spoof).unwrap().unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let found = wrong(vm);
            done.store(true, Ordering::Relaxed);
            found
        });
        assert_eq!(found, [named("spoofing", "warning")], "{tier}");
        assert_eq!(wrong(vm), [], "{tier}");
    }
}

/// Found by a newcomer's trial: the first command for it was no command, and the second deleted the links of pods that live.
#[test]
fn without_its_records_a_node_is_mended_and_its_pods_are_left_alone() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let pods = pods(&azure, "ebpf");
    shell(vm, "rm -r /run/azure-vnet");
    let found = wrong(vm);
    assert_eq!(
        found.first(),
        Some(&named("datapath", "problem")),
        "{found:?}"
    );
    let text = printed(vm, 1, &["doctor"]);
    assert!(
        text.contains("fix: azure-vnet gc") && !text.contains("ip link delete"),
        "{text}"
    );
    shell(vm, "azure-vnet gc");
    assert_eq!(wrong(vm), [named("links", "warning")]);
    for pod in pods {
        pod.delete().unwrap();
    }
    assert_eq!(wrong(vm), []);
}

#[test]
fn a_pool_without_a_free_address_and_one_without_its_record_are_named() {
    let azure = Azure::builder().pool(2).build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let [_web, db] = pods(&azure, "ebpf");
    assert_eq!(wrong(vm), [named("pool", "warning")]);
    // Of pods that are gone it is a problem, and the command mends it.
    let listed = json_of(vm, 0, &["pods"]);
    let veth = listed["pods"][1]["host_veth"].as_str().unwrap();
    vm.remove_sandbox(&db.attachment.netns).unwrap();
    shell(vm, &format!("ip link delete {veth}"));
    let found = wrong(vm);
    assert!(found.contains(&named("pool", "problem")), "{found:?}");
    follow(vm);
    // A lease without its attachment, and the other way round.
    let db = vm.add_pod(&list("ebpf"), &PodSpec::named("db")).unwrap();
    let listed = json_of(vm, 0, &["pods"]);
    let veth = listed["pods"][1]["host_veth"].as_str().unwrap();
    shell(vm, &format!("rm /run/azure-vnet/attachments/{veth}.json"));
    let found = wrong(vm);
    assert!(found.contains(&named("leases", "warning")), "{found:?}");
    db.delete().unwrap();
    assert_eq!(wrong(vm), []);
}
