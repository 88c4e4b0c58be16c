//! The takeover of a node that v0.1.0 set up, whole or half torn, at once or cut short anywhere.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use azure_vnet::netlink::Netlink;
use azure_vnet::node::{self, NodeError, NodeWanted, missing};
use azure_vnet::takeover::{self, Step};

use crate::cut::{cut_short, everywhere};
use crate::lab::{
    NIC_MAC, addresses_are_settled, all_but_ours, assert_same, but_for_settings, ensure, ip, lab,
    mend, netlink, network, nic, plain_node, run, second_nic, wanted, without_detection,
};
use crate::old::{
    JOURNAL, addresses, move_plain_node, old_node, old_pod, old_rich_node, write_journal,
};
use crate::pods::{Pod, all_talk, connect, fabric, here, settle, talk};

fn complete() {
    run(async { takeover::complete(&netlink()).await }).unwrap();
}

/// Takes so many steps of each takeover that is pending, as a call that is killed then; how many takeovers that were.
pub fn stop_after(steps: usize) -> usize {
    run(async {
        let netlink = netlink();
        let mut pending = takeover::pending(&netlink).await.unwrap();
        for takeover in &mut pending {
            takeover.begin().await.unwrap();
            for step in &Step::ALL[..steps] {
                takeover.step(*step).await.unwrap();
            }
        }
        pending.len()
    })
}

/// The NIC is as it was before v0.1.0 came, and the bridge is the router of pods that are all known.
#[track_caller]
fn is_taken_over(before: &[String], when: &str) {
    addresses_are_settled();
    assert_same(
        &but_for_settings(all_but_ours()),
        &but_for_settings(before.to_vec()),
        when,
    );
    the_bridge_is_whole(when);
}

#[track_caller]
fn the_bridge_is_whole(when: &str) {
    let shown = ip("addr show dev azure0");
    let of_node: Vec<_> = shown.lines().filter(|line| line.contains("inet")).collect();
    assert_eq!(of_node.len(), 1, "{when}: {shown}");
    assert!(of_node[0].contains("169.254.73.1/32"), "{when}: {shown}");
    assert!(!ip("link show eth0").contains("master"), "{when}");
    let (defects, missing) = run(async {
        let netlink = netlink();
        let bridge = netlink.link("azure0").await.unwrap().unwrap();
        let nic = netlink.link("eth0").await.unwrap().unwrap();
        let defects = node::defects(&netlink, &bridge, &nic).await.unwrap();
        (defects, missing(&netlink).await.unwrap())
    });
    assert!(
        defects.is_empty() && missing.is_empty(),
        "{when}: {defects:?} {missing:?}"
    );
    assert_eq!(
        node::remembered(),
        [("azure0".to_owned(), "eth0".to_owned())],
        "{when}"
    );
    for table in ["route show table all", "-6 route show table all"] {
        let routes = ip(table);
        let others = |line: &&str| line.contains("dev azure0") && !line.contains("proto 97");
        let kernels = |line: &str| line.contains("table local") || line.starts_with("multicast");
        let others: Vec<_> = routes
            .lines()
            .filter(others)
            .filter(|it| !kernels(it))
            .collect();
        assert!(others.is_empty(), "{when}: {others:?}");
    }
}

/// Pods reach each other and the fabric. What a pod of v0.1.0 knows of the node's MAC is out of date: that is for the programs
/// (`from_pod`), and here its address is forgotten.
#[track_caller]
fn pods_live(pods: &[&Pod]) {
    for pod in pods {
        ip(&format!("-n {} neigh flush all", name_of(pod)));
    }
    all_talk("10.0.0.4", pods);
}

fn name_of(pod: &Pod) -> String {
    pod.netns
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn everything_goes_back_to_the_nic() {
    lab(|| {
        let before = old_rich_node();
        let _pods = [old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8")];
        complete();
        is_taken_over(&before, "after the takeover");
        let text = std::fs::read_to_string(JOURNAL).unwrap();
        assert!(text.contains("\"version\":2"), "{text}");
        // Nothing is left to do.
        let requests = run(async {
            let netlink = netlink();
            takeover::complete(&netlink).await.unwrap();
            netlink.requests()
        });
        assert_eq!(requests, 0);
    });
}

#[test]
fn pods_keep_their_network() {
    lab(|| {
        let before = old_node();
        let (one, two) = (old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8"));
        // They know each other and the gateway, and are not asked to look again.
        talk(&one.netns, &two.netns, two.address);
        talk(&two.netns, &fabric(), "10.0.0.1");
        complete();
        is_taken_over(&before, "after the takeover");
        talk(&one.netns, &two.netns, two.address);
        talk(&two.netns, &one.netns, one.address);
        talk(&two.netns, &fabric(), "10.0.0.1");
        talk(&fabric(), &one.netns, one.address);
        pods_live(&[&one, &two]);
        let three = crate::pods::pod(&settle(), "three", "10.0.0.9");
        pods_live(&[&one, &two, &three]);
    });
}

/// Bytes go to and fro until `finished`, and a while longer.
fn keep_talking(
    ends: (TcpStream, TcpStream),
    finished: Arc<AtomicBool>,
) -> std::thread::JoinHandle<u32> {
    let (mut out, mut back) = ends;
    std::thread::spawn(move || {
        let mut byte = [0; 1];
        // To the end of the connection; a read that a signal has interrupted is begun again.
        while back.read_exact(&mut byte).is_ok() {
            back.write_all(&byte).unwrap();
        }
    });
    std::thread::spawn(move || {
        let (mut rounds, mut rounds_after) = (0, 0);
        while rounds_after < 200 {
            out.write_all(b"x").expect("sending");
            out.read_exact(&mut [0; 1]).expect("the echo");
            rounds += 1;
            rounds_after += u32::from(finished.load(Ordering::SeqCst));
        }
        rounds
    })
}

#[test]
fn connections_survive_it() {
    lab(|| {
        old_node();
        let (one, two) = (old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8"));
        let (here, fabric) = (here(), fabric());
        let finished = Arc::new(AtomicBool::new(false));
        let streams = [
            connect(&here, &fabric, "10.0.0.1"),
            connect(&fabric, &here, "10.0.0.4"),
            connect(&one.netns, &fabric, "10.0.0.1"),
            connect(&fabric, &one.netns, one.address),
            connect(&one.netns, &two.netns, two.address),
        ];
        let talking = streams.map(|ends| keep_talking(ends, Arc::clone(&finished)));
        complete();
        finished.store(true, Ordering::SeqCst);
        for stream in talking {
            assert!(stream.join().unwrap() >= 200);
        }
    });
}

/// What comes next after a call was killed.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// An ADD.
    Add,
    /// A DEL or GC.
    Delete,
}

impl Next {
    fn run(self, when: &str) {
        run(async {
            let netlink = netlink();
            match self {
                Self::Add => {
                    let node = ensure(&netlink, &wanted()).await;
                    let node = node.unwrap_or_else(|error| panic!("{when}: {error:?}"));
                    assert_eq!(node.primary.to_string(), "10.0.0.4", "{when}");
                }
                Self::Delete => takeover::complete_beside(&netlink).await,
            }
            mend(&netlink)
                .await
                .unwrap_or_else(|error| panic!("{when}: {error:?}"));
        });
    }
}

/// At the moment of the cut every address is somewhere; after the next call all is as it should be.
#[track_caller]
fn is_continued(before: &[String], addresses: &[String], next: Next, when: &str) {
    let meanwhile = network();
    for address in addresses {
        let somewhere = meanwhile
            .iter()
            .any(|line| line.contains(&format!(" {address} ")));
        assert!(somewhere, "{when}: {address} is lost");
    }
    next.run(when);
    is_taken_over(before, when);
}

/// Somebody gives these commands.
fn by_hand(commands: &[&str]) {
    commands.iter().copied().map(ip).for_each(drop);
}

fn addresses_of_node() -> Vec<String> {
    let lines = network();
    let of_bridge = lines.iter().filter(|line| line.starts_with("azure0 inet"));
    of_bridge
        .map(|line| line.split(' ').nth(2).unwrap().to_owned())
        .collect()
}

#[test]
fn any_next_call_continues_it_after_every_step() {
    for steps in 0..=Step::ALL.len() {
        for next in [Next::Add, Next::Delete] {
            lab(move || {
                without_detection();
                let before = old_rich_node();
                let _pods = [old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8")];
                let addresses = addresses_of_node();
                assert_eq!(stop_after(steps), 1);
                let when = format!("stopped after {steps} steps, then {next:?}");
                is_continued(&before, &addresses, next, &when);
            });
        }
    }
}

#[test]
fn any_next_call_continues_it_after_every_request() {
    let requests = everywhere(|requests| {
        lab(move || {
            without_detection();
            let before = old_rich_node();
            let _pods = [old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8")];
            let addresses = addresses_of_node();
            let complete = run(cut_short(requests, |netlink: Netlink| async move {
                takeover::complete(&netlink).await.unwrap();
            }));
            let next = if requests.is_multiple_of(2) {
                Next::Add
            } else {
                Next::Delete
            };
            let when = format!("stopped after {requests} requests, then {next:?}");
            is_continued(&before, &addresses, next, &when);
            complete
        })
    });
    assert!(
        requests > 60,
        "the takeover ended after {requests} requests"
    );
}

/// What a manager's restart does to a node of v0.1.0, and to what remains of it: any next call puts it right.
#[test]
fn half_torn_nodes_become_whole() {
    let out = "link set eth0 nomaster";
    let lease = [
        "addr add 10.0.0.4/24 brd + dev eth0",
        "route append default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100",
    ];
    let cases: [(&str, Vec<&'static str>); 7] = [
        ("a port with a lease of its own", lease.to_vec()),
        ("no port, the address on the bridge alone", vec![out]),
        (
            "no port, the address on both",
            [vec![out], lease.to_vec()].concat(),
        ),
        (
            "no port, the address on the NIC alone",
            [vec![out], lease.to_vec(), vec!["addr flush dev azure0"]].concat(),
        ),
        (
            "a port, and no address anywhere",
            vec!["addr flush dev azure0"],
        ),
        (
            "no port, and no address anywhere",
            vec![out, "addr flush dev azure0"],
        ),
        ("a bridge that is gone", vec!["link delete azure0"]),
    ];
    for (case, commands) in cases {
        for next in [Next::Add, Next::Delete] {
            let commands = commands.clone();
            lab(move || {
                let before = old_node();
                let (one, two) = (old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8"));
                by_hand(&commands);
                let when = format!("{case}, then {next:?}");
                next.run(&when);
                is_taken_over(&before, &when);
                pods_live(&[&one, &two]);
            });
        }
    }
}

/// The address that a manager has given the NIC since is the one that is true.
#[test]
fn the_address_of_a_new_lease_is_not_mixed_with_that_of_the_old() {
    lab(|| {
        old_node();
        let one = old_pod("one", "10.0.0.7");
        ip("link set eth0 nomaster");
        ip("addr add 10.0.0.14/24 brd + dev eth0");
        ip("route append default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.14 metric 100");
        let node = settle();
        run(async { mend(&netlink()).await }).unwrap();
        assert_eq!(node.primary.to_string(), "10.0.0.14");
        assert!(!ip("addr").contains("10.0.0.4/"), "{}", ip("addr"));
        assert_eq!(
            ip("route show default").lines().count(),
            1,
            "{}",
            ip("route")
        );
        the_bridge_is_whole("afterwards");
        ip("-n one neigh flush all");
        all_talk("10.0.0.14", &[&one]);
    });
}

#[test]
fn without_its_journal_the_bridge_is_known_by_its_mark() {
    lab(|| {
        let before = old_rich_node();
        let _pods = [old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8")];
        let settings = std::fs::read("/run/azure-vnet/settings.json").unwrap();
        std::fs::remove_dir_all("/run/azure-vnet").unwrap();
        Next::Add.run("without its journal");
        // Only to know which settings may differ.
        std::fs::write("/run/azure-vnet/settings.json", settings).unwrap();
        let before: Vec<String> = before
            .into_iter()
            .filter(|it| !it.contains("send_redirects"))
            .collect();
        addresses_are_settled();
        let after = but_for_settings(all_but_ours());
        let after: Vec<String> = after
            .into_iter()
            .filter(|it| !it.contains("send_redirects"))
            .collect();
        assert_same(&after, &but_for_settings(before), "without its journal");
        the_bridge_is_whole("without its journal");
    });
}

#[test]
fn without_its_journal_a_half_torn_node_becomes_whole() {
    let out = "link set eth0 nomaster";
    let lease = [
        "addr add 10.0.0.4/24 brd + dev eth0",
        "route append default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100",
    ];
    for commands in [vec![out], [vec![out], lease.to_vec()].concat()] {
        lab(move || {
            old_node();
            let (one, two) = (old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8"));
            by_hand(&commands);
            std::fs::remove_dir_all("/run/azure-vnet").unwrap();
            let when = format!("without its journal, {commands:?}");
            Next::Add.run(&when);
            the_bridge_is_whole(&when);
            assert!(ip("addr show eth0").contains("10.0.0.4/24"), "{when}");
            assert_eq!(
                ip("route show default").lines().count(),
                1,
                "{}",
                ip("route")
            );
            pods_live(&[&one, &two]);
        });
    }
}

#[test]
fn a_journal_of_another_boot_says_nothing() {
    lab(|| {
        plain_node(1500);
        let journal = serde_json::json!({
            "version": 1, "boot": "another", "state": "done", "bridge": "azure0", "bridge_index": 9,
            "master": "eth0", "master_index": 2, "gateway": null, "addresses": [], "routes": [],
        });
        std::fs::create_dir_all("/run/azure-vnet").unwrap();
        std::fs::write(JOURNAL, journal.to_string()).unwrap();
        let pending = run(async {
            let netlink = netlink();
            takeover::pending(&netlink).await.unwrap().len()
        });
        assert_eq!(pending, 0);
        settle();
        the_bridge_is_whole("afterwards");
    });
}

#[test]
fn a_nic_that_is_gone_is_waited_for() {
    lab(|| {
        old_node();
        let (one, two) = (old_pod("one", "10.0.0.7"), old_pod("two", "10.0.0.8"));
        ip("link delete eth0");
        complete();
        // Pods of one bridge reach each other still.
        talk(&one.netns, &two.netns, two.address);
        ip("link add filler type bridge");
        nic(1500);
        ip("addr add 10.0.0.4/24 brd + dev eth0");
        ip("route append default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100");
        settle();
        run(async { mend(&netlink()).await }).unwrap();
        the_bridge_is_whole("afterwards");
        pods_live(&[&one, &two]);
    });
}

#[test]
fn a_nic_that_was_renamed_is_known_by_its_index() {
    lab(|| {
        old_node();
        let one = old_pod("one", "10.0.0.7");
        ip("link set eth0 name wan0");
        complete();
        assert!(ip("addr show wan0").contains("10.0.0.4/24"));
        assert!(ip("route show default").contains("dev wan0"));
        assert!(!ip("link show wan0").contains("master"));
        pods_live(&[&one]);
    });
}

/// v0.1.0 used it as it was, and did not mark it.
#[test]
fn a_bridge_that_somebody_else_had_made_is_left_alone() {
    lab(|| {
        plain_node(1500);
        ip(&format!("link add azure0 address {NIC_MAC} type bridge"));
        ip("link set azure0 up");
        ip("link set eth0 master azure0");
        ip("addr flush dev eth0");
        ip("addr add 10.0.0.4/24 brd + dev azure0");
        ip("route add default via 10.0.0.1 dev azure0");
        let before_move = addresses("eth0");
        write_journal(
            &before_move,
            serde_json::json!({ "bridge": true, "port": true, "up": true }),
        );
        let state = || network();
        let before = state();
        complete();
        assert_same(&state(), &before, "after the call");
        let refused = run(async { ensure(&netlink(), &wanted()).await });
        assert!(
            matches!(&refused, Err(NodeError::BridgeTaken { port, .. }) if port == "eth0"),
            "{refused:?}"
        );
        assert_same(&state(), &before, "after the call");
        // Under another name the pods have a bridge beside it, which is their NIC.
        let wanted = NodeWanted {
            bridge: None,
            ..wanted()
        };
        let node = run(async { ensure(&netlink(), &wanted).await }).unwrap();
        assert_eq!(node.nic.name, "azure0");
        let one = crate::pods::pod(&node, "one", "10.0.0.7");
        all_talk("10.0.0.4", &[&one]);
    });
}

/// What v0.1.0 made for a NIC without the node's default route: a rule for its subnet, and a table.
#[test]
fn the_rule_of_a_second_nic_becomes_the_new_one() {
    lab(|| {
        old_node();
        second_nic();
        ip("route del default dev eth1");
        ip("route add default via 10.9.0.1 dev eth1 metric 10");
        let index = run(async { netlink().link("azure0").await })
            .unwrap()
            .unwrap()
            .index;
        let table = 0x617a_0000 + index;
        ip(&format!("route add 10.0.0.0/24 dev azure0 table {table}"));
        ip(&format!(
            "route add default via 10.0.0.1 dev azure0 table {table}"
        ));
        ip(&format!(
            "rule add pref 32000 from 10.0.0.0/24 lookup {table}"
        ));
        let one = old_pod("one", "10.0.0.7");
        complete();
        let rules = ip("rule");
        assert!(!rules.contains("from 10.0.0.0/24"), "{rules}");
        assert!(
            rules.contains(&format!("iif azure0 lookup {table}")),
            "{rules}"
        );
        let routes = ip(&format!("route show table {table}"));
        assert!(routes.contains("default via 10.0.0.1 dev eth0"), "{routes}");
        assert!(!routes.contains("10.0.0.0/24"), "{routes}");
        let way = ip("route get 203.0.113.1 from 10.0.0.7 iif azure0");
        assert!(way.contains("dev eth0"), "{way}");
        the_bridge_is_whole("afterwards");
        pods_live(&[&one]);
    });
}

/// The pods of another bridge, which was made by this version, do not notice.
#[test]
fn pods_of_another_bridge_keep_their_routes_meanwhile() {
    lab(|| {
        plain_node(1500);
        second_nic();
        let second = NodeWanted {
            bridge: Some("azure1".to_owned()),
            subnet: "10.9.0.0/24".parse().unwrap(),
            ..wanted()
        };
        let node = run(async { ensure(&netlink(), &second).await }).unwrap();
        let two = crate::pods::pod(&node, "two", "10.9.0.7");
        move_plain_node();
        let one = old_pod("one", "10.0.0.7");
        for steps in 0..=Step::ALL.len() {
            stop_after(steps);
            let routes = ip("route show dev azure1");
            assert_eq!(
                routes.matches("10.9.0.7").count(),
                2,
                "{steps} steps: {routes}"
            );
            talk(&here(), &two.netns, two.address);
        }
        run(async { mend(&netlink()).await }).unwrap();
        pods_live(&[&one]);
        talk(&one.netns, &two.netns, two.address);
    });
}
