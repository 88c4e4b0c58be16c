//! What is and what is not the network namespace of a container.

use azure_vnet::netns::{NetNs, NetNsError};

use crate::lab::{ip, lab, namespace};

#[test]
fn a_missing_path_is_missing() {
    for path in ["/run/netns/none", "/proc/self/status/ns"] {
        let refused = NetNs::open(path);
        assert!(matches!(&refused, Err(NetNsError::Missing { .. })), "{refused:?}");
        assert!(refused.unwrap_err().is_gone());
    }
}

#[test]
fn files_directories_and_other_namespaces_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_str().unwrap(), "/tmp", "/proc/self/status"] {
        let refused = NetNs::open(path);
        assert!(matches!(&refused, Err(NetNsError::NotANamespace { .. })), "{refused:?}");
        assert!(refused.unwrap_err().is_gone());
    }
    lab(|| {
        let mounts = NetNs::open("/proc/thread-self/ns/mnt").unwrap();
        let refused = mounts.run_in(|| ());
        assert!(matches!(&refused, Err(NetNsError::NotANamespace { .. })), "{refused:?}");
    });
}

#[test]
fn the_plugins_own_namespace_is_refused() {
    lab(|| {
        let refused = NetNs::open("/proc/thread-self/ns/net");
        assert!(matches!(&refused, Err(NetNsError::Own { .. })), "{refused:?}");
        NetNs::open_any("/proc/thread-self/ns/net").unwrap();
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
