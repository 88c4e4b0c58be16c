//! What a pod's network consists of, worked out from the lease and the node alone: a pure function,
//! so that what ADD makes, what CHECK compares and what a test expects is one and the same.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::netlink::MacAddress;
use crate::netlink::link::Link;
use crate::netlink::route::NewRoute;
use crate::node::Node;
use crate::sysctl::Sysctl;

/// First bytes of the MAC in the pod: locally administered, the rest is its IPv4 address.
const POD_MAC: [u8; 2] = [0x0a, 0x58];
/// First bytes of the MAC on the node's end of the veth.
const HOST_MAC: [u8; 2] = [0x0e, 0x58];

/// What is to be attached.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// Name of the veth end on the node ([`crate::names::host_veth`]).
    pub host_veth: &'a str,
    /// Name of the interface in the pod (`CNI_IFNAME`).
    pub ifname: &'a str,
    /// The pod's addresses, the first of each family with its gateway. At least one.
    pub addresses: &'a [PodAddress],
    /// Routes beside the default routes, from IPAM.
    pub routes: &'a [PodRoute],
}

/// An address from IPAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddress {
    /// The address, with the prefix length of its subnet.
    pub address: IpNet,
    /// Gateway of the subnet; without one no default route is made for this family.
    pub gateway: Option<IpAddr>,
}

/// A route from IPAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodRoute {
    /// Destination.
    pub to: IpNet,
    /// Next hop; the gateway of the family when not given (SPEC 1.0.0, `routes`).
    pub via: Option<IpAddr>,
}

/// Everything that makes up one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The veth pair.
    pub veth: Veth,
    /// Addresses of the interface in the pod.
    pub addresses: Vec<IpNet>,
    /// Routes in the pod, in the order in which they can be added.
    pub routes: Vec<NewRoute>,
    /// Settings in the pod's namespace.
    pub sysctls: Vec<Sysctl>,
}

/// The veth pair of a pod. Its end in the pod is set up last; its end on the node is a port of the
/// bridge with a static forwarding entry for the pod's MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// Name of the end on the node.
    pub host_name: String,
    /// MAC of the end on the node.
    pub host_mac: MacAddress,
    /// Name of the end in the pod.
    pub pod_name: String,
    /// MAC of the end in the pod.
    pub pod_mac: MacAddress,
    /// Index of the bridge.
    pub bridge: u32,
    /// Name of the bridge.
    pub bridge_name: String,
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

/// The lease holds no address.
#[derive(Debug, thiserror::Error)]
#[error("the address manager gave no address for {ifname}")]
pub struct NoAddress {
    ifname: String,
}

impl Plan {
    /// Works out the attachment on this node.
    pub fn new(attachment: &Attachment<'_>, node: &Node) -> Result<Self, NoAddress> {
        let addresses = attachment.addresses;
        let first = addresses
            .iter()
            .find(|address| address.address.addr().is_ipv4())
            .or(addresses.first())
            .ok_or_else(|| NoAddress {
                ifname: attachment.ifname.to_owned(),
            })?;
        Ok(Self {
            veth: veth(attachment, &node.bridge, node.nic.mtu, first.address.addr()),
            addresses: addresses.iter().map(|address| address.address).collect(),
            routes: routes(attachment),
            sysctls: vec![
                // A router advertisement would give the pod routes that IPAM knows nothing of.
                Sysctl::of_interface("ipv6", attachment.ifname, "accept_ra", "0"),
            ],
        })
    }

    /// The same attachment with a MAC that somebody asked for in the pod.
    #[must_use]
    pub fn with_pod_mac(mut self, mac: MacAddress) -> Self {
        self.veth.pod_mac = mac;
        self
    }
}

/// The pod's IPv4 address, read from the MAC that a plan gave the veth end on the node: what a DEL
/// knows when all state is lost.
pub fn address_behind(host_mac: MacAddress) -> Option<Ipv4Addr> {
    match host_mac.0 {
        [first, second, a, b, c, d] if [first, second] == HOST_MAC => {
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

/// The other way round: whose MAC [`pod_mac`] makes this one, if anybody's.
pub fn address_of(pod_mac: MacAddress) -> Option<Ipv4Addr> {
    match pod_mac.0 {
        [first, second, a, b, c, d] if [first, second] == POD_MAC => {
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

/// The MAC that a plan gives the pod with this first address, where nobody asks for another.
pub fn pod_mac(address: Ipv4Addr) -> MacAddress {
    mac(POD_MAC, address.into())
}

fn veth(attachment: &Attachment<'_>, bridge: &Link, mtu: u32, first: IpAddr) -> Veth {
    Veth {
        host_name: attachment.host_veth.to_owned(),
        host_mac: mac(HOST_MAC, first),
        pod_name: attachment.ifname.to_owned(),
        pod_mac: mac(POD_MAC, first),
        bridge: bridge.index,
        bridge_name: bridge.name.clone(),
        mtu,
    }
}

/// The MAC that goes with a pod's address. It follows from the address, so that whoever has
/// resolved the address is still right when another pod has it, and so that the MAC stays when
/// udev or the bridge would otherwise make one up.
fn mac(prefix: [u8; 2], address: IpAddr) -> MacAddress {
    let tail: [u8; 4] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    let mut bytes = [0; 6];
    bytes[..2].copy_from_slice(&prefix);
    bytes[2..].copy_from_slice(&tail);
    MacAddress(bytes)
}

/// Default routes first, then the rest; what IPAM says twice is said once.
fn routes(attachment: &Attachment<'_>) -> Vec<NewRoute> {
    let defaults = attachment.addresses.iter().filter_map(|address| {
        Some(PodRoute {
            to: default_of(address.gateway?),
            via: address.gateway,
        })
    });
    let mut routes: Vec<NewRoute> = Vec::new();
    for route in defaults.chain(attachment.routes.iter().copied()) {
        let to = route.to.trunc();
        if routes.iter().all(|known| known.to != to) {
            routes.push(new_route(attachment, to, route.via));
        }
    }
    routes
}

fn new_route(attachment: &Attachment<'_>, to: IpNet, via: Option<IpAddr>) -> NewRoute {
    let is_v4 = to.addr().is_ipv4();
    let gateways = attachment.addresses.iter().filter_map(|a| a.gateway);
    let via = via.or_else(|| gateways.clone().find(|gateway| gateway.is_ipv4() == is_v4));
    let on_link = |gateway: &IpAddr| {
        attachment
            .addresses
            .iter()
            .any(|a| a.address.contains(gateway))
    };
    NewRoute {
        to,
        via,
        // With a /32 no address says that the gateway is on the link.
        onlink: via.is_some_and(|gateway| !on_link(&gateway)),
        metric: 0,
    }
}

fn default_of(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}

#[cfg(test)]
mod tests;
