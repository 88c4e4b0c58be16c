//! The bridge: a link whose ports are the pods' and nothing else, and the pods' router.
//!
//! To a pod it is what Azure's fabric is: it has the fabric's MAC, and whatever address a pod asks for, that MAC is the
//! answer. What a pod sends goes up to the node's IP stack and is routed.

use std::path::Path;

use azure_vnet_abi::Mac;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::AddressMessage;

use super::{NodeError, record};
use crate::names;
use crate::netlink::link::{self, Link, NewBridge};
use crate::netlink::{MacAddress, Netlink, NetlinkError, address, gone_is_fine};
use crate::sysctl::Sysctl;

/// What Azure's fabric answers every ARP request with.
pub const ROUTER_MAC: MacAddress = MacAddress(Mac::FABRIC.0);

/// When the last IPv4 address of a link goes, the kernel flushes all its routes and neighbours (`inetdev_destroy`). So that
/// nobody who adds an address and removes it takes the pods off the network, there is one that stays. Of scope host: the
/// kernel never chooses it as a source.
const PLACEHOLDER: &str = "169.254.73.1/32";

/// Settings of the bridge under `/proc/sys/net`, and why.
const SETTINGS: [(&str, &str); 5] = [
    // A pod's ARP request is answered for whatever this node would route elsewhere, ...
    ("ipv4/conf/{}/proxy_arp", "1"),
    // ... for another pod of the same bridge as well, ...
    ("ipv4/conf/{}/proxy_arp_pvlan", "1"),
    // ... and at once, not after a random time of up to 0.8 s.
    ("ipv4/neigh/{}/proxy_delay", "0"),
    // Pods of one bridge talk by way of the router on purpose.
    ("ipv4/conf/{}/send_redirects", "0"),
    // A pod's router advertisement is none for the node.
    ("ipv6/conf/{}/accept_ra", "0"),
];

/// Makes the bridge, or what is missing of it. The caller holds the node's lock.
pub async fn ensure(netlink: &Netlink, name: &str, nic: &Link) -> Result<(), NodeError> {
    let new = NewBridge {
        name,
        mac: ROUTER_MAC,
        mtu: nic.mtu,
    };
    match netlink.run(link::create_bridge(&new)).await {
        Err(error) if !error.is_exists() => return Err(error.into()),
        _ => {}
    }
    let bridge = netlink.link(name).await?.filter(Link::is_bridge);
    let bridge = bridge.ok_or_else(|| NodeError::NotABridge {
        name: name.to_owned(),
    })?;
    let index = bridge.index;
    let mut requests = Vec::new();
    if !bridge.is_marked() {
        requests.push(link::mark(index, name));
    }
    if !bridge.is_router {
        requests.push(link::stop_stp(index, name));
    }
    requests.push(link::make_router(index, name, has_ipv6()));
    if bridge.mac != Some(ROUTER_MAC) {
        requests.push(link::set_mac(index, name, ROUTER_MAC));
    }
    if bridge.mtu != nic.mtu {
        requests.push(link::set_mtu(index, name, nic.mtu));
    }
    netlink.run_all(requests).await?;
    for setting in settings(name) {
        setting.set()?;
    }
    super::settings::without_redirects()?;
    keep_routes(netlink, &bridge).await?;
    if !bridge.is_up() {
        netlink.run(link::set_up(index, name)).await?;
    }
    Ok(())
}

/// Gives the bridge the address that keeps its routes.
pub async fn keep_routes(netlink: &Netlink, bridge: &Link) -> Result<(), NodeError> {
    let add = address::add_host(bridge.index, &bridge.name, placeholder());
    match netlink.run(add).await {
        Err(error) if !error.is_exists() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Takes every address away from the bridge but the one that keeps its routes: what a bridge of v0.1.0 has left is the link-local
/// one that the kernel has made.
pub async fn remove_other_addresses(netlink: &Netlink, bridge: &Link) -> Result<(), NetlinkError> {
    let addresses = netlink.addresses_on(bridge).await?;
    for entry in addresses.iter().filter(|it| !is_placeholder(it)) {
        gone_is_fine(netlink.run(address::delete(entry, &bridge.name)).await)?;
    }
    Ok(())
}

/// What of the bridge is not as [`ensure`] would leave it, one sentence each.
pub fn defects(bridge: &Link, nic: &Link, addresses: &[AddressMessage]) -> Vec<String> {
    let name = &bridge.name;
    let mut defects = Vec::new();
    let mut unless = |holds: bool, what: String| {
        if !holds {
            defects.push(what);
        }
    };
    unless(bridge.is_bridge(), format!("{name} is not a bridge"));
    unless(bridge.is_up(), format!("the bridge {name} is down"));
    unless(
        bridge.mac == Some(ROUTER_MAC),
        format!("{name} does not have the MAC {ROUTER_MAC}"),
    );
    unless(
        bridge.mtu == nic.mtu,
        format!(
            "{name} has the MTU {}, and {} has {}",
            bridge.mtu, nic.name, nic.mtu
        ),
    );
    unless(
        bridge.is_router && bridge.is_marked(),
        format!("{name} does not have the settings of a bridge of azure-vnet"),
    );
    unless(
        addresses.iter().any(is_placeholder),
        format!("{name} does not have the address {PLACEHOLDER}"),
    );
    unless(
        bridge.is_proxy,
        format!(
            "of {name}, net.ipv4.conf's proxy_arp or proxy_arp_pvlan is not 1, or send_redirects is not 0"
        ),
    );
    defects
}

/// Whether an address of a bridge is the one that keeps its routes.
pub fn is_placeholder(address: &AddressMessage) -> bool {
    address::ipv4_net(address) == Some(placeholder())
}

/// Fails if the bridge connects anything but pods.
pub async fn refuse_other_ports(netlink: &Netlink, name: &str) -> Result<(), NodeError> {
    let Some(bridge) = netlink.link(name).await?.filter(Link::is_bridge) else {
        return Ok(());
    };
    let mut ports = netlink.ports_of(&bridge).await?.into_iter();
    match ports.find(|port| !names::is_pods(&port.name)) {
        Some(port) => Err(NodeError::InUse {
            bridge: bridge.name,
            port: port.name,
        }),
        None => Ok(()),
    }
}

/// Deletes the bridge if it is ours, and every route and rule that was made for it, also where somebody has deleted it
/// already. Says whether it was there.
pub async fn remove(netlink: &Netlink, name: &str) -> Result<bool, NodeError> {
    let bridge = netlink.link(name).await?;
    let bridge = bridge.filter(|link| link.is_bridge() && link.is_marked());
    let index = bridge.as_ref().map(|bridge| bridge.index);
    super::way_out::remove(netlink, index, is_last(name)).await?;
    super::repair::remove_routes(netlink, index, is_last(name)).await?;
    if bridge.is_some() {
        gone_is_fine(netlink.run(link::delete(name)).await)?;
    }
    Ok(bridge.is_some())
}

/// No other bridge needs what is there for all.
fn is_last(name: &str) -> bool {
    record::all().iter().all(|it| it.bridge == name)
}

/// Whether this kernel has IPv6. `/proc/sys/net/ipv6` would say so too, but the kernel keeps the entries of
/// all network namespaces under that one name and walks over them: a quarter of a millisecond beside 200 pods.
pub fn has_ipv6() -> bool {
    Path::new("/proc/self/net/if_inet6").exists()
}

fn placeholder() -> Ipv4Net {
    Ipv4Net::new_assert([169, 254, 73, 1].into(), 32)
}

fn settings(name: &str) -> impl Iterator<Item = Sysctl> {
    SETTINGS.iter().map(move |(path, value)| Sysctl {
        path: format!("net/{}", path.replace("{}", name)),
        value: (*value).to_owned(),
    })
}
