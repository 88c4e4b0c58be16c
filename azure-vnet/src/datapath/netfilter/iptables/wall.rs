//! What may come out of a pod, by ebtables: what `from_pod` lets pass in the other tier.
//!
//! A chain of addresses returns what it knows and drops the rest. A frame that goes to anybody but the router is the router's: a
//! pod of an older version may remember the MAC of a neighbour; `redirect` gives it the bridge's MAC and tells the bridge.
//! Tagged frames are neither IPv4 nor ARP to ebtables.

use azure_vnet_abi::Mac;

use super::layout::{List, own};
use crate::datapath::Uplink;
use crate::netlink::MacAddress;

/// What each pod has.
pub fn lists(bridge: &str) -> Vec<List> {
    let list = |set, chain: &str, rule: String| List {
        set,
        chain: own(bridge, chain),
        rule,
    };
    vec![
        list("ports", "IN", format!("-i {{}} -j {}", own(bridge, "POD"))),
        list("ports", "REST", "-i {} -j RETURN".into()),
        list("addresses", "FREE", "-p IPv4 --ip-src {} -j DROP".into()),
        list("addresses", "FREE", "-p ARP --arp-ip-src {} -j DROP".into()),
        list(
            "sources",
            "SRC",
            "-p IPv4 -i {} --ip-src {} -j RETURN".into(),
        ),
        list(
            "sources",
            "ASK",
            "-p ARP -i {} --arp-ip-src {} -j RETURN".into(),
        ),
    ]
}

/// The chains, with what stands behind what pods have.
pub fn chains(uplink: &Uplink) -> Vec<(String, Vec<String>)> {
    let (nic, router) = (uplink.mac, MacAddress(Mac::FABRIC.0));
    let own = |chain| own(&uplink.bridge, chain);
    let jump = |before: &str, chain| format!("{before}-j {}", own(chain));
    let drop = |what: &str| format!("{what}-j DROP");
    let to_the_router = format!("-d ! {router} -j redirect --redirect-target CONTINUE");
    vec![
        (own("IN"), vec![jump("", "REST")]),
        // Everybody else's frames, which may not have the address of a pod.
        (own("REST"), vec![jump("", "FREE")]),
        (own("FREE"), vec![]),
        (
            own("POD"),
            vec![
                drop(&format!("-s {nic} ")),
                drop(&format!("-s {router} ")),
                jump("-p IPv4 ", "IP"),
                jump("-p ARP ", "ARP"),
                jump("", "NONE"),
            ],
        ),
        (
            own("IP"),
            vec![
                jump("", "SRC"),
                drop("-p IPv4 --ip-dst 127.0.0.0/8 "),
                drop("-d Multicast "),
                to_the_router.clone(),
            ],
        ),
        (own("SRC"), vec![drop("")]),
        (
            own("ARP"),
            vec![
                drop("-p ARP --arp-op ! Request "),
                jump("", "ASK"),
                // The answer would go to all pods.
                drop("-p ARP --arp-mac-src Multicast "),
                "-d Broadcast -j RETURN".into(),
                drop("-d Multicast "),
                to_the_router,
            ],
        ),
        (own("ASK"), vec![drop("")]),
        (
            own("NONE"),
            vec![
                "-p IPv4 -j RETURN".into(),
                "-p ARP -j RETURN".into(),
                // Counted by themselves.
                drop("-p IPv6 "),
                drop("-p 802_1Q "),
                drop(""),
            ],
        ),
    ]
}
