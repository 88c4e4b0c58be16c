//! What is and what is not the network namespace of a container, and how netlink speaks to one.

use azure_vnet::netlink::link;
use azure_vnet::netlink::route::{self, NewRoute};
use azure_vnet::netns::{NetNs, NetNsError};

use rustix::io::Errno;

use crate::lab::{ip, lab, namespace, netlink, run};

#[test]
fn a_missing_path_is_missing() {
    for path in ["/run/netns/none", "/proc/self/status/ns"] {
        let refused = NetNs::open(path);
        assert!(
            matches!(&refused, Err(NetNsError::Missing { .. })),
            "{refused:?}"
        );
        assert!(refused.unwrap_err().is_gone());
    }
}

#[test]
fn files_directories_and_other_namespaces_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_str().unwrap(), "/tmp", "/proc/self/status"] {
        let refused = NetNs::open(path);
        assert!(
            matches!(&refused, Err(NetNsError::NotANamespace { .. })),
            "{refused:?}"
        );
        assert!(refused.unwrap_err().is_gone());
    }
    lab(|| {
        let mounts = NetNs::open("/proc/thread-self/ns/mnt").unwrap();
        let refused = mounts.run_in(|| ());
        assert!(
            matches!(&refused, Err(NetNsError::NotANamespace { .. })),
            "{refused:?}"
        );
    });
}

#[test]
fn the_plugins_own_namespace_is_refused() {
    lab(|| {
        let refused = NetNs::open("/proc/thread-self/ns/net");
        assert!(
            matches!(&refused, Err(NetNsError::Own { .. })),
            "{refused:?}"
        );
        NetNs::open_any("/proc/thread-self/ns/net").unwrap();
    });
}

#[test]
fn lists_are_whole_while_links_come_and_go() {
    lab(|| {
        for link in 0..200 {
            ip(&format!("link add br{link} type bridge"));
        }
        std::thread::scope(|scope| {
            let churn = scope.spawn(|| {
                for _ in 0..60 {
                    ip("link add passing type bridge");
                    ip("link delete passing");
                }
            });
            while !churn.is_finished() {
                let links = run(async { netlink().links().await }).unwrap();
                let lasting = links.iter().filter(|link| link.name.starts_with("br"));
                assert_eq!(lasting.count(), 200);
            }
            churn.join().unwrap();
        });
    });
}

#[test]
fn a_refusal_says_what_on_what_and_why() {
    lab(|| {
        let refused = run(async { netlink().run(link::delete("lo")).await }).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::OPNOTSUPP));
        assert!(
            refused.to_string().starts_with("cannot delete the link lo"),
            "{refused}"
        );
        let nothing = run(async { netlink().run(link::delete("none")).await }).unwrap_err();
        assert!(nothing.is_gone(), "{nothing:?}");
        let to_nowhere = NewRoute {
            to: "192.0.2.0/24".parse().unwrap(),
            via: Some([192, 0, 2, 1].into()),
            onlink: false,
            metric: 0,
        };
        let refused = run(async { netlink().run(route::add(1, "lo", &to_nowhere)).await });
        let words = refused.unwrap_err().to_string();
        assert!(
            words.contains("192.0.2.0/24 through lo ("),
            "the kernel's own words: {words}"
        );
    });
}

#[test]
fn work_is_done_inside_and_the_caller_stays_outside() {
    lab(|| {
        let pod = namespace("pod");
        ip("-n pod link add inside type veth peer name also-inside");
        let links = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(pod.run_in(links).unwrap().contains("also-inside"));
        assert!(!links().contains("also-inside"));
    });
}
