#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::netlink::link::LinkKind;
use rtnetlink::packet_route::link::LinkFlags;

fn link(index: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mac: "00:0d:3a:00:00:04".parse().ok(),
        mtu: 3900,
        kind,
        master: None,
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

fn node() -> Node {
    let nic = link(2, "eth0", LinkKind::Hardware);
    Node {
        mac: nic.mac.unwrap(),
        primary: [10, 0, 0, 4].into(),
        nic,
        bridge: link(7, "azure0", LinkKind::Bridge),
    }
}

fn address(address: &str, gateway: Option<&str>) -> PodAddress {
    PodAddress {
        address: address.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
    }
}

fn route(to: &str, via: Option<&str>) -> PodRoute {
    PodRoute {
        to: to.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
    }
}

fn plan(addresses: &[PodAddress], routes: &[PodRoute]) -> Plan {
    let attachment = Attachment {
        host_veth: "azv0123456789a",
        ifname: "eth0",
        addresses,
        routes,
    };
    Plan::new(&attachment, &node()).unwrap()
}

fn said(plan: &Plan) -> Vec<String> {
    let say = |route: &NewRoute| {
        let via = route
            .via
            .map(|via| format!(" via {via}"))
            .unwrap_or_default();
        let onlink = if route.onlink { " onlink" } else { "" };
        format!("{}{via}{onlink}", route.to)
    };
    plan.routes.iter().map(say).collect()
}

#[test]
fn one_address_with_its_gateway() {
    let plan = plan(&[address("10.0.0.7/24", Some("10.0.0.1"))], &[]);
    assert_eq!(
        plan,
        Plan {
            veth: Veth {
                host_name: "azv0123456789a".to_owned(),
                host_mac: "0e:58:0a:00:00:07".parse().unwrap(),
                pod_name: "eth0".to_owned(),
                pod_mac: "0a:58:0a:00:00:07".parse().unwrap(),
                bridge: 7,
                bridge_name: "azure0".to_owned(),
                mtu: 3900,
            },
            addresses: vec!["10.0.0.7/24".parse().unwrap()],
            routes: vec![NewRoute {
                to: "0.0.0.0/0".parse().unwrap(),
                via: Some([10, 0, 0, 1].into()),
                onlink: false,
                metric: 0,
            }],
            sysctls: vec![Sysctl {
                path: "net/ipv6/conf/eth0/accept_ra".to_owned(),
                value: "0".to_owned(),
            }],
        }
    );
}

#[test]
fn a_default_route_said_twice_is_made_once() {
    let routes = [
        route("0.0.0.0/0", Some("10.0.0.1")),
        route("168.63.129.16/32", None),
        route("192.168.1.9/24", Some("10.0.0.9")),
    ];
    let plan = plan(&[address("10.0.0.7/24", Some("10.0.0.1"))], &routes);
    assert_eq!(
        said(&plan),
        [
            "0.0.0.0/0 via 10.0.0.1",
            "168.63.129.16/32 via 10.0.0.1",
            "192.168.1.0/24 via 10.0.0.9"
        ]
    );
}

#[test]
fn a_gateway_outside_the_prefix_is_on_the_link() {
    let plan = plan(&[address("10.0.0.7/32", Some("169.254.1.1"))], &[]);
    assert_eq!(said(&plan), ["0.0.0.0/0 via 169.254.1.1 onlink"]);
}

#[test]
fn a_second_family_has_its_own_routes_and_the_same_mac() {
    let addresses = [
        address("fd00::7/64", Some("fe80::1234:5678:9abc")),
        address("10.0.0.7/24", Some("10.0.0.1")),
    ];
    let plan = plan(&addresses, &[]);
    assert_eq!(
        said(&plan),
        [
            "::/0 via fe80::1234:5678:9abc onlink",
            "0.0.0.0/0 via 10.0.0.1"
        ]
    );
    assert_eq!(plan.veth.pod_mac.to_string(), "0a:58:0a:00:00:07");
}

#[test]
fn no_gateway_no_default_route_and_no_address_no_plan() {
    assert!(plan(&[address("10.0.0.7/24", None)], &[]).routes.is_empty());
    let nothing = Attachment {
        host_veth: "azv0123456789a",
        ifname: "eth0",
        addresses: &[],
        routes: &[],
    };
    assert!(Plan::new(&nothing, &node()).is_err());
}

/// A DEL without state reads the address from the veth that is left.
#[test]
fn address_can_be_read_from_the_hosts_mac() {
    let address = Ipv4Addr::new(10, 240, 0, 35);
    assert_eq!(address_behind(mac(HOST_MAC, address.into())), Some(address));
    assert_eq!(address_behind(mac(POD_MAC, address.into())), None);
}
