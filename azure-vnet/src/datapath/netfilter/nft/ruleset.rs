//! The text of both tables.

use std::fmt;

use azure_vnet_abi::{Mac, Reason};

use super::super::elements::{Elements, SETS};
use super::{installed, policy, table};
use crate::datapath::Uplink;
use crate::netlink::MacAddress;

/// Both tables, made anew.
pub fn ruleset(uplink: &Uplink, elements: &Elements) -> String {
    format!(
        "{}{}{}",
        emptied(&table(&uplink.bridge)),
        Wall { uplink, elements },
        Masquerade { uplink, elements }
    )
}

/// Both tables gone. `add` before `delete` because deleting what is not there is an error.
pub fn emptied(table: &str) -> String {
    ["bridge", "ip"]
        .map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n"))
        .concat()
}

/// What may come out of a pod: what `from_pod` lets pass in the other tier. A port of this bridge is known by its
/// name, since `meta ibrname` is a module that a kernel may not have.
///
/// A frame that goes to anybody but the router is the router's: a pod of an older version may remember the MAC of a
/// neighbour. The bridge has read the address before this hook and calls the packet another's, so it has to be told twice.
///
/// The payload's own type is asked and not the packet's, which the kernel has freed of one VLAN tag. A group's MAC as the
/// source, or none, is dropped by the bridge itself.
///
/// A question is answered to the MAC in it: with a group's there, all pods would hear the answer.
///
/// A rule that drops counts, and says why in the words of the other tier's reasons.
struct Wall<'a> {
    uplink: &'a Uplink,
    elements: &'a Elements,
}

impl fmt::Display for Wall<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, elements } = self;
        let (table, nic, router) = (table(&uplink.bridge), uplink.mac, MacAddress(Mac::FABRIC.0));
        let [_, ports, sources, addresses] =
            SETS.map(|(_, set)| list(elements.in_set(set).map(installed::written)));
        let [
            spoofed_address,
            spoofed_mac,
            ipv6,
            tagged,
            ether_type,
            loopback,
            to_group,
            arp_ignored,
        ] = [
            Reason::SpoofedAddress,
            Reason::SpoofedMac,
            Reason::Ipv6,
            Reason::Tagged,
            Reason::EtherType,
            Reason::Loopback,
            Reason::ToGroup,
            Reason::ArpIgnored,
        ]
        .map(dropped);
        write!(
            formatter,
            r"table bridge {table} {{
    set ports {{
        type ifname
        {ports}
    }}
    set sources {{
        type ifname . ipv4_addr
        {sources}
    }}
    set addresses {{
        type ipv4_addr
        {addresses}
    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        iifname @ports goto pod
        ip saddr @addresses {spoofed_address}
        arp saddr ip @addresses {spoofed_address}
    }}
    chain pod {{
        ether saddr {{ {nic}, {router} }} {spoofed_mac}
        ether type vmap {{ ip : goto packet, arp : goto question }}
        ether type ip6 {ipv6}
        ether type {{ 0x8100, 0x88a8 }} {tagged}
        {ether_type}
    }}
    chain packet {{
        iifname . ip saddr != @sources {spoofed_address}
        ip daddr 127.0.0.0/8 {loopback}
        ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00 {to_group}
        ether daddr != {router} ether daddr set {router} meta pkttype set host
    }}
    chain question {{
        arp operation != request {arp_ignored}
        iifname . arp saddr ip != @sources {spoofed_address}
        arp saddr ether & 01:00:00:00:00:00 != 00:00:00:00:00:00 {spoofed_mac}
        ether daddr ff:ff:ff:ff:ff:ff accept
        ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00 {to_group}
        ether daddr != {router} ether daddr set {router} meta pkttype set host
    }}
}}
"
        )
    }
}

/// The addresses: the documented rule with a list of ranges, for the pods of this node only.
///
/// What a rule closes is closed to the flows that pods begin, from their next packet on. A packet that
/// connection tracking cannot place, or was told to leave alone, would pass the nat chain unseen and leave with the
/// pod's address, so it is dropped where it would leave the ranges. So is what comes over the bridge from nobody's
/// address: nothing would translate it.
///
/// What comes for an address of the pool that no pod has is dropped by a route. It is counted where a connection would begin, and nobody
/// has sent it elsewhere: what a `nat` chain of an earlier priority translates does not come to a later one. A route that drops
/// has no link, and the kernel's `fib type` does not tell it from others.
struct Masquerade<'a> {
    uplink: &'a Uplink,
    elements: &'a Elements,
}

impl fmt::Display for Masquerade<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, elements } = self;
        let Uplink {
            bridge, address, ..
        } = uplink;
        let (table, pods) = (table(bridge), list(elements.in_set("pods")));
        let policy = uplink.policy.compile();
        let free = Reason::FreeAddress.name();
        let (chains, destinations) = (policy::Chains(&policy), list(policy::destinations(&policy)));
        write!(
            formatter,
            r#"table ip {table} {{
    set pods {{
        type ipv4_addr
        {pods}
    }}
    map destinations {{
        type ipv4_addr : verdict
        flags interval
        {destinations}
    }}
    chain {closed} {{
        counter drop
    }}
{chains}    chain stranger {{
        iifname != "{bridge}" accept
        ip daddr @pods accept
        ip daddr vmap @destinations
        counter drop
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat + 1; policy accept;
        fib daddr type unicast fib daddr oif missing counter comment "{free}"
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ip saddr != @pods goto stranger
        ip daddr @pods accept
        ct direction reply accept
        ip daddr vmap @destinations
        ct state {{ invalid, untracked }} counter drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr != @pods accept
        ip daddr vmap @destinations
        snat to {address}
    }}
}}
"#,
            closed = policy::CLOSED
        )
    }
}

/// What is left of the rules for the connections that netfilter translates already: they live in connection tracking,
/// which goes on as long as a chain of type nat and an expression of kind `ct` ask for it. The rule does nothing else.
pub fn drained(table: &str) -> String {
    format!(
        "{}table ip {table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ct state established accept
    }}
}}
",
        emptied(table)
    )
}

/// Drops, counts, and says why.
fn dropped(reason: Reason) -> String {
    format!("counter drop comment \"{}\"", reason.name())
}

/// `elements = { … }`, or nothing: nft takes no empty list.
fn list<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    if items.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }}", items.join(", "))
    }
}
