#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::netlink::MacAddress;
use crate::netlink::link::LinkKind;
use rtnetlink::packet_route::link::LinkFlags;

const NIC_MAC: MacAddress = MacAddress([0x00, 0x0d, 0x3a, 0, 0, 4]);

fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mac: Some(NIC_MAC),
        mtu: 1500,
        kind,
        master,
        peer: None,
        peer_netns: None,
        flags: LinkFlags::Up,
        alias: None,
        is_proxy: false,
        is_router: false,
        is_pod_port: false,
        qdisc: String::new(),
        largest_mtu: 65_535,
    }
}

fn hardware(index: u32, name: &str, master: Option<u32>) -> Link {
    link(index, name, LinkKind::Hardware, master)
}

fn bridge(index: u32, name: &str) -> Link {
    link(index, name, LinkKind::Bridge, None)
}

fn node(links: Vec<Link>, addresses: &[(u32, &str)]) -> Snapshot {
    let mut loopback = hardware(1, "lo", None);
    loopback.flags |= LinkFlags::Loopback;
    Snapshot {
        links: std::iter::once(loopback).chain(links).collect(),
        addresses: addresses
            .iter()
            .map(|(index, net)| (*index, net.parse().unwrap()))
            .collect(),
    }
}

fn wanted(bridge: Option<&str>, master: Option<&str>) -> NodeWanted {
    NodeWanted {
        bridge: bridge.map(str::to_owned),
        master: master.map(str::to_owned),
        mac: None,
        subnet: "10.0.0.0/24".parse().unwrap(),
    }
}

fn names(place: &Place) -> (&str, &str) {
    (&place.nic.name, &place.bridge_name)
}

#[test]
fn the_nic_that_owns_the_subnet_is_chosen() {
    let snapshot = node(
        vec![hardware(2, "eth0", None), hardware(3, "eth1", None)],
        &[(2, "192.168.0.4/24"), (3, "10.0.0.4/24")],
    );
    let place = choose(&snapshot, &wanted(None, None), &[]).unwrap();
    assert_eq!(names(&place), ("eth1", "azure3"));
}

#[test]
fn its_own_network_counts_before_a_wider_one() {
    let snapshot = node(
        vec![hardware(2, "eth0", None), hardware(3, "eth1", None)],
        &[(2, "10.0.0.200/8"), (3, "10.0.0.4/24")],
    );
    let place = choose(&snapshot, &wanted(None, None), &[]).unwrap();
    assert_eq!(place.nic.name, "eth1");
}

#[test]
fn loopback_pods_and_parts_of_other_links_are_never_chosen() {
    let snapshot = node(
        vec![
            hardware(2, "eth0", None),
            hardware(3, "enP1s1", Some(2)),
            link(4, "bond0", LinkKind::Other("bond".to_owned()), None),
            hardware(5, "eth1", Some(4)),
            link(6, "azv0123456789a", LinkKind::Veth, None),
            bridge(7, "cni0"),
            link(8, "veth1", LinkKind::Veth, Some(7)),
        ],
        &[
            (1, "10.0.0.1/24"),
            (3, "10.0.0.2/24"),
            (5, "10.0.0.3/24"),
            (6, "10.0.0.5/24"),
        ],
    );
    let refused = choose(&snapshot, &wanted(None, None), &[]);
    assert!(
        matches!(refused, Err(NodeError::NoMaster { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_bridge_of_containers_on_the_same_subnet_is_not_adopted() {
    let mut bridge = bridge(7, "cni0");
    bridge.mac = Some(MacAddress([2, 0, 0, 0, 0, 9]));
    let snapshot = node(
        vec![bridge, link(8, "veth1", LinkKind::Veth, Some(7))],
        &[(7, "10.0.0.1/24")],
    );
    let refused = choose(&snapshot, &wanted(None, None), &[]);
    assert!(
        matches!(refused, Err(NodeError::NoMaster { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_bridge_that_the_nic_is_a_port_of_is_the_nic() {
    let snapshot = node(
        vec![hardware(2, "eth0", Some(7)), bridge(7, "br0")],
        &[(7, "10.0.0.4/24")],
    );
    let place = choose(&snapshot, &wanted(None, None), &[]).unwrap();
    assert_eq!(names(&place), ("br0", "azure7"));
    let refused = choose(&snapshot, &wanted(None, Some("eth0")), &[]);
    assert!(
        matches!(&refused, Err(NodeError::UnsuitableMaster { why, .. }) if why.contains("br0")),
        "{refused:?}"
    );
}

/// Whatever address somebody gives it, and also after the record was lost.
#[test]
fn our_own_bridge_is_never_the_nic() {
    let mut ours = bridge(7, "azure0");
    ours.alias = Some("azure-vnet".to_owned());
    let snapshot = node(
        vec![hardware(2, "eth0", None), ours],
        &[(7, "10.0.0.9/24"), (2, "10.0.0.4/24")],
    );
    let place = choose(&snapshot, &wanted(Some("azure0"), None), &[]).unwrap();
    assert_eq!(names(&place), ("eth0", "azure0"));
    let refused = choose(&snapshot, &wanted(None, Some("azure0")), &[]);
    assert!(
        matches!(refused, Err(NodeError::UnsuitableMaster { .. })),
        "{refused:?}"
    );
}

#[test]
fn the_bridge_of_a_nic_stays_the_one_that_is_written_down() {
    let record = |nic: &Link| Record::new("azure0", nic);
    let nic = hardware(2, "eth0", None);
    let records = [record(&nic)];
    let owned = [(2, "10.0.0.4/24")];
    for name in [None, Some("azure0"), Some("another")] {
        let snapshot = node(vec![nic.clone(), bridge(7, "azure0")], &owned);
        let place = choose(&snapshot, &wanted(name, None), &records).unwrap();
        assert_eq!(names(&place), ("eth0", "azure0"), "{name:?}");
    }
    // Under another name it has the index that it had, ...
    let renamed = node(vec![hardware(2, "wan0", None), bridge(7, "azure0")], &owned);
    let place = choose(&renamed, &wanted(Some("azure0"), None), &records).unwrap();
    assert_eq!(names(&place), ("wan0", "azure0"));
    // ... and after it was taken out and put in again, the name.
    let replaced = node(
        vec![hardware(9, "eth0", None), bridge(7, "azure0")],
        &[(9, "10.0.0.4/24")],
    );
    let place = choose(&replaced, &wanted(None, None), &records).unwrap();
    assert_eq!(names(&place), ("eth0", "azure0"));
}

#[test]
fn the_bridge_of_one_nic_is_not_given_to_another_which_has_its_own() {
    let first = hardware(2, "eth0", None);
    let records = [Record::new("azure0", &first)];
    let links = vec![first, hardware(3, "eth1", None), bridge(7, "azure0")];
    let snapshot = node(links, &[(3, "10.0.0.4/24")]);
    let refused = choose(&snapshot, &wanted(Some("azure0"), Some("eth1")), &records);
    assert!(
        matches!(&refused, Err(NodeError::BridgeOfAnotherNic { nic, .. }) if nic == "eth0"),
        "{refused:?}"
    );
    for name in [Some("azure0"), None] {
        let place = choose(&snapshot, &wanted(name, None), &records).unwrap();
        assert_eq!(names(&place), ("eth1", "azure3"));
    }
}

#[test]
fn a_named_master_must_exist_and_be_a_nic() {
    let snapshot = node(
        vec![hardware(2, "eth0", None), bridge(7, "cni0")],
        &[(2, "10.0.0.4/24")],
    );
    let choose = |master| choose(&snapshot, &wanted(None, Some(master)), &[]);
    assert_eq!(choose("eth0").unwrap().bridge_name, "azure2");
    assert!(matches!(
        choose("eth9"),
        Err(NodeError::NoSuchMaster { .. })
    ));
    for master in ["cni0", "lo"] {
        let refused = choose(master);
        assert!(
            matches!(refused, Err(NodeError::UnsuitableMaster { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn the_bridge_name_must_be_free_or_a_bridge_that_carries_nothing_else() {
    let nics = || vec![hardware(2, "eth0", None), hardware(3, "eth1", None)];
    let owned = [(2, "10.0.0.4/24")];
    let named = |name| wanted(Some(name), None);

    let refused = choose(&node(nics(), &owned), &named("eth1"), &[]);
    assert!(
        matches!(refused, Err(NodeError::NotABridge { .. })),
        "{refused:?}"
    );
    let refused = choose(&node(nics(), &owned), &named("a/b"), &[]);
    assert!(
        matches!(refused, Err(NodeError::BadBridgeName { .. })),
        "{refused:?}"
    );

    let mut links = nics();
    links.extend([bridge(7, "azure0")]);
    let place = choose(&node(links.clone(), &owned), &named("azure0"), &[]).unwrap();
    assert_eq!(names(&place), ("eth0", "azure0"));

    links[1].master = Some(7);
    let refused = choose(&node(links, &owned), &named("azure0"), &[]);
    assert!(
        matches!(&refused, Err(NodeError::BridgeTaken { port, .. }) if port == "eth1"),
        "{refused:?}"
    );
}

#[test]
fn of_two_nics_in_one_subnet_the_one_with_the_mac_is_chosen() {
    let other = MacAddress([0x00, 0x0d, 0x3a, 0, 0, 5]);
    let mut second = hardware(3, "eth1", None);
    second.mac = Some(other);
    let links = vec![hardware(2, "eth0", None), second];
    let snapshot = node(links, &[(2, "10.0.0.4/24"), (3, "10.0.0.5/24")]);
    let with_mac = |mac| NodeWanted {
        mac,
        ..wanted(None, None)
    };
    for (mac, name) in [(NIC_MAC, "eth0"), (other, "eth1")] {
        let place = choose(&snapshot, &with_mac(Some(mac)), &[]).unwrap();
        assert_eq!(place.nic.name, name);
    }
    // A MAC that no owner has says nothing.
    let place = choose(&snapshot, &with_mac(Some(MacAddress([2; 6]))), &[]).unwrap();
    assert_eq!(place.nic.name, "eth0");
}
