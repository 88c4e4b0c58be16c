//! What Azure does not let through, as nftables rules of the fabric with a named counter for each offence.
//!
//! Azure delivers a frame only if it carries the NIC's MAC address and one of the NIC's ipconfigs; all else is dropped in silence.
//! Here it is dropped and counted, so that a test can ask for zero. `leaked` is not an offence in Azure, only the end of the
//! packet: a pod's address on a packet that starts a conversation out of range means that it was not masqueraded.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::Error;
use crate::address_plan::{FABRIC_MAC, INSIDE, Nic, WIRESERVER};

/// What the fabric counted against one VM, in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// Frames whose source MAC was not the NIC's; dropped.
    pub mac: u64,
    /// ARP frames whose sender MAC was not the NIC's, or sender address no ipconfig of it; dropped. Probes (0.0.0.0) are allowed.
    pub arp: u64,
    /// IPv4 frames whose source was no ipconfig of the NIC; dropped.
    pub ip: u64,
    /// IPv6 frames with a source other than unspecified or link-local; dropped, as all IPv6 is.
    pub ip6: u64,
    /// ARP requests for the NIC's own ipconfigs. Answered, and no offence, but a sign that the node does not answer for its pods.
    pub own_arp: u64,
    /// IPv4 packets with a secondary address as source that go out of the VMs' range, in a frame with a VLAN tag or without: replies of
    /// connections that came in, or leaks. No offence, and counted whatever becomes of the frame.
    pub outside: u64,
    /// Frames with more than one VLAN tag. No offence, and counted likewise: what is inside is not looked at.
    pub stacked: u64,
    /// IPv4 packets for one of the NIC's own ipconfigs. Delivered to where they came from, and no offence, but a node that sends them
    /// does not know its pods' addresses, and the packet goes to and fro until its time to live ends.
    pub returned: u64,
    /// Unicast frames to another MAC than the fabric's. Dropped, and no offence, but they had no business on the wire.
    pub misdirected: u64,
}

impl Verdicts {
    /// All frames that pretended to come from somebody else.
    pub fn spoofed(&self) -> u64 {
        self.mac + self.arp + self.ip + self.ip6
    }
}

/// The name of the counter of packets that left the range with a pod's address.
const LEAKED: &str = "leaked";

/// The filter at the fabric's end of a VM's link, with a chain and counters of its own.
pub fn filter(link: &str, nic: &Nic) -> String {
    let mac = nic.mac;
    let ipconfigs = elements(nic.ipconfigs());
    let never_from_pods = never_from_pods(link, nic);
    let counters = [
        "mac",
        "arp",
        "ip",
        "ip6",
        "own_arp",
        "outside",
        "stacked",
        "returned",
        "misdirected",
    ]
    .map(|offence| format!("  counter {link}.{offence} {{\n  }}\n"))
    .concat();
    format!(
        "table netdev fabric {{
{counters}
  set {link}.ipconfigs {{
    type ipv4_addr
    elements = {{ {ipconfigs} }}
  }}
  set {link}.frontends {{
    type ipv4_addr
  }}
  chain {link} {{
    type filter hook ingress device {link} priority 0; policy drop;
{never_from_pods}    ether saddr != {mac} counter name {link}.mac drop
    ether daddr != {FABRIC_MAC} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 counter name {link}.misdirected drop
    ether type arp arp saddr ether != {mac} counter name {link}.arp drop
    ether type arp arp saddr ip != 0.0.0.0 arp saddr ip != @{link}.ipconfigs counter name {link}.arp drop
    ether type arp arp operation request arp daddr ip @{link}.ipconfigs counter name {link}.own_arp accept
    ether type arp accept
    ether type ip ip saddr 0.0.0.0 drop
    ether type ip ip daddr @{link}.ipconfigs counter name {link}.returned
    ether type ip ip saddr @{link}.frontends accept
    ether type ip ip saddr != @{link}.ipconfigs counter name {link}.ip drop
    ether type ip accept
    meta protocol ip6 ip6 saddr != {{ ::, fe80::/10 }} counter name {link}.ip6 drop
  }}
}}
"
    )
}

/// Lets a NIC behind a load balancer answer with the load balancer's address.
pub fn allow_frontend(link: &str, frontend: Ipv4Addr) -> String {
    format!("add element netdev fabric {link}.frontends {{ {frontend} }}\n")
}

/// Lets another address be an ipconfig of a NIC in place of one.
pub fn exchange(link: &str, former: Ipv4Addr, new: Ipv4Addr) -> String {
    let set = format!("element netdev fabric {link}.ipconfigs");
    format!("add {set} {{ {new} }}\ndelete {set} {{ {former} }}\n")
}

/// The rules that count what no pod may send, in frames of any source. The kernel has taken the first tag out of the frame when they are asked.
fn never_from_pods(link: &str, nic: &Nic) -> String {
    let stacked = format!("    meta protocol {{ 8021q, 8021ad }} counter name {link}.stacked\n");
    if nic.pool.is_empty() {
        return stacked;
    }
    let secondary = elements(nic.pool.iter().map(|&address| u32::from(address)));
    let length = INSIDE.prefix_len();
    let inside = u32::from(INSIDE.network()) >> (32 - length);
    let wireserver = u32::from(WIRESERVER);
    // Bytes and not names of fields, for which nft would ask that the frame has no tag.
    format!(
        "{stacked}    meta protocol ip @nh,96,32 {{ {secondary} }} @nh,128,{length} != {inside} @nh,128,32 != {wireserver} counter name {link}.outside\n"
    )
}

/// Counts what pods send out of `inside` with their own address, except replies of connections that came in. Nothing is dropped, so
/// that the far side can report the source it saw.
pub fn leak_detector<'a>(nics: impl IntoIterator<Item = &'a Nic>, inside: Ipv4Net) -> String {
    let pods = elements(nics.into_iter().flat_map(|nic| nic.pool.iter().copied()));
    // A packet that belongs to no connection has no direction; from a pod to out of range it is a leak as well.
    let rules = [
        "ct state invalid",
        "ct direction original ct state != invalid",
    ]
    .map(|condition| {
        format!("    ip saddr @pods ip daddr != @inside {condition} counter name {LEAKED}\n")
    })
    .concat();
    let chains = ["forward", "input"]
        .map(|hook| format!("  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;\n{rules}  }}\n"))
        .concat();
    // A pool may be empty, and a set without elements must be written without the line.
    let pods = if pods.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {pods} }}")
    };
    format!(
        "table ip leaks {{
  counter {LEAKED} {{
  }}
  set pods {{
    type ipv4_addr
    {pods}
  }}
  set inside {{
    type ipv4_addr
    flags interval
    elements = {{ {inside}, {WIRESERVER} }}
  }}
{chains}}}
"
    )
}

/// The counters of one link out of what `nft -j list counters` printed.
pub fn verdicts(listing: &str, link: &str) -> Result<Verdicts, Error> {
    let count = |offence: &str| packets(listing, &format!("{link}.{offence}"));
    Ok(Verdicts {
        mac: count("mac")?,
        arp: count("arp")?,
        ip: count("ip")?,
        ip6: count("ip6")?,
        own_arp: count("own_arp")?,
        outside: count("outside")?,
        stacked: count("stacked")?,
        returned: count("returned")?,
        misdirected: count("misdirected")?,
    })
}

/// How many packets [`leak_detector`] counted, out of the same listing.
pub fn leaked(listing: &str) -> Result<u64, Error> {
    packets(listing, LEAKED)
}

fn packets(listing: &str, counter: &str) -> Result<u64, Error> {
    let unreadable = |source: std::io::Error| Error::Setup {
        what: format!("read counter {counter} of the fabric"),
        source,
    };
    let listing: Value = serde_json::from_str(listing).map_err(|error| unreadable(error.into()))?;
    let entries = listing["nftables"].as_array().into_iter().flatten();
    entries
        .map(|entry| &entry["counter"])
        .find(|entry| entry["name"] == counter)
        .and_then(|entry| entry["packets"].as_u64())
        .ok_or_else(|| unreadable(std::io::ErrorKind::NotFound.into()))
}

fn elements(addresses: impl Iterator<Item = impl ToString>) -> String {
    addresses
        .map(|address| address.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
