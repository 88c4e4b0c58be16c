//! The way back: after it, the node is as if we had never been there.

use azure_vnet::node::{NodeError, bridges, leave};
use azure_vnet::state;

use crate::cut::{cut_short, everywhere};
use crate::lab::{
    addresses_are_settled, assert_unchanged, ensure, everything, ip, lab, mend, netlink,
    plain_node, rich_node, rules, run, wanted, without_detection,
};
use crate::pods::{all_talk, pod, settle};

fn back() -> Result<bool, NodeError> {
    run(async { leave(&netlink(), "azure0", false).await })
}

#[track_caller]
fn is_as_before(before: &[String]) {
    assert_unchanged(&everything(), before, "afterwards");
    for file in ["node-azure0.json", "settings.json"] {
        let path = format!("/run/azure-vnet/{file}");
        assert!(!std::path::Path::new(&path).exists(), "{path}");
    }
}

/// The pod's link goes with its namespace.
fn end(container: &str) {
    let host_veth = azure_vnet::names::host_veth("azure", container, "eth0");
    ip(&format!("link delete {host_veth}"));
    state::forget(&host_veth).unwrap();
}

#[test]
fn the_node_is_as_it_was_to_the_last_byte() {
    for mtu in [1500, 3900, 9000] {
        lab(move || {
            rich_node(mtu);
            rules();
            ip("neigh add 10.0.0.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
            addresses_are_settled();
            let before = everything();
            for _ in 0..2 {
                let node = settle();
                pod(&node, "one", "10.0.0.7");
                end("one");
                assert!(back().unwrap());
                is_as_before(&before);
                ip("netns delete one");
            }
            assert!(!back().unwrap(), "there is nothing left to go back from");
        });
    }
}

#[test]
fn settings_are_what_they_were() {
    for forward in ["0", "1"] {
        lab(move || {
            plain_node(1500);
            let set = |path: &str, value: &str| {
                std::fs::write(format!("/proc/sys/net/ipv4/{path}"), value).unwrap();
            };
            set("ip_forward", forward);
            set("conf/all/send_redirects", "1");
            set("conf/all/accept_redirects", "1");
            // One link that differs from the others.
            set("conf/lo/forwarding", if forward == "0" { "1" } else { "0" });
            addresses_are_settled();
            let before = everything();
            settle();
            let is = |path: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{path}"));
            assert_eq!(is("ip_forward").unwrap().trim(), "1");
            assert_eq!(is("conf/all/send_redirects").unwrap().trim(), "0");
            assert!(back().unwrap());
            is_as_before(&before);
        });
    }
}

#[test]
fn without_its_record_a_bridge_of_ours_is_known_by_its_mark() {
    lab(|| {
        rich_node(1500);
        addresses_are_settled();
        settle();
        std::fs::remove_dir_all("/run/azure-vnet").unwrap();
        let known = run(async { bridges(&netlink()).await }).unwrap();
        assert_eq!(known, ["azure0"]);
        assert!(back().unwrap());
        assert!(!ip("link").contains("azure0"));
        assert!(!ip("route show table all").contains("proto 97"));
    });
}

#[test]
fn a_bridge_that_somebody_deleted_is_forgotten() {
    lab(|| {
        rich_node(1500);
        addresses_are_settled();
        let before = everything();
        settle();
        ip("link delete azure0");
        assert!(back().unwrap());
        is_as_before(&before);
    });
}

#[test]
fn routes_that_drop_go_with_the_bridge_that_somebody_deleted() {
    lab(|| {
        plain_node(1500);
        let node = settle();
        pod(&node, "one", "10.0.0.7");
        end("one");
        ip("link delete azure0");
        assert!(back().unwrap());
        assert_eq!(ip("route show table all proto 97"), "");
    });
}

#[test]
fn a_bridge_that_is_not_ours_stays() {
    lab(|| {
        plain_node(1500);
        ip("link add azure0 type bridge");
        ip("link set azure0 up");
        ip("addr add 192.0.2.1/24 dev azure0");
        let before = everything();
        assert!(!back().unwrap());
        assert_unchanged(&everything(), &before, "afterwards");
    });
}

#[test]
fn other_ports_are_not_cut_off() {
    lab(|| {
        plain_node(1500);
        addresses_are_settled();
        let before = everything();
        settle();
        ip("link add tap0 type veth peer name guest");
        ip("link set tap0 master azure0");
        let refused = back();
        assert!(
            matches!(&refused, Err(NodeError::InUse { port, .. }) if port == "tap0"),
            "{refused:?}"
        );
        assert!(ip("link show tap0").contains("master azure0"));
        assert!(run(async { leave(&netlink(), "azure0", true).await }).unwrap());
        ip("link delete tap0");
        is_as_before(&before);
    });
}

#[test]
fn without_a_nic_the_bridge_goes_as_well() {
    lab(|| {
        plain_node(1500);
        settle();
        ip("link delete eth0");
        assert!(back().unwrap());
        assert!(!ip("link").contains("azure0"));
    });
}

/// What comes next after a teardown was killed.
#[derive(Debug, Clone, Copy)]
enum Next {
    Teardown,
    Add,
}

#[test]
fn a_teardown_that_is_cut_short_is_ended_or_taken_back() {
    for next in [Next::Teardown, Next::Add] {
        let requests = everywhere(|requests| {
            lab(move || {
                without_detection();
                rich_node(1500);
                addresses_are_settled();
                let before = everything();
                let node = settle();
                pod(&node, "one", "10.0.0.7");
                end("one");
                let complete = run(cut_short(requests, |netlink| async move {
                    leave(&netlink, "azure0", false).await.unwrap();
                }));
                let when = format!("stopped after {requests} requests, then {next:?}");
                match next {
                    Next::Teardown => {
                        assert_ne!(back().unwrap(), complete, "{when}");
                        is_as_before(&before);
                    }
                    Next::Add => {
                        let node = run(async { ensure(&netlink(), &wanted()).await });
                        let node = node.unwrap_or_else(|error| panic!("{when}: {error:?}"));
                        ip("netns delete one");
                        let one = pod(&node, "one", "10.0.0.7");
                        run(async { mend(&netlink()).await }).unwrap();
                        all_talk("10.0.0.4", &[&one]);
                    }
                }
                complete
            })
        });
        assert!(requests > 4, "the teardown ended after {requests} requests");
    }
}
