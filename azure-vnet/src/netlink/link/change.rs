//! The few kinds of change that the plugin makes to links.

use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};

use super::{MARK, at};
use crate::netlink::{MacAddress, Request};

/// A bridge to make.
#[derive(Debug, Clone)]
pub struct NewBridge<'a> {
    /// Name of the bridge.
    pub name: &'a str,
    /// Its MAC, set for good: without one a bridge takes over the lowest MAC of its ports.
    pub mac: MacAddress,
    /// MTU in bytes.
    pub mtu: u32,
}

/// A veth pair to make, one end here, the other in a pod's namespace under its final name.
#[derive(Debug, Clone)]
pub struct NewVeth<'a, N> {
    /// Name of the end on the node.
    pub host_name: &'a str,
    /// MAC of the end on the node.
    pub host_mac: MacAddress,
    /// Index of the bridge that the end on the node becomes a port of.
    pub bridge: u32,
    /// Name of the end in the pod.
    pub pod_name: &'a str,
    /// MAC of the end in the pod.
    pub pod_mac: MacAddress,
    /// The pod's namespace.
    pub pod_netns: &'a N,
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

/// What makes a bridge the router of its ports and nothing else: no STP, which would keep a new port silent for
/// seconds, no multicast snooping, for nothing is flooded, and its frames are not handed to netfilter: what is for
/// netfilter to see is routed. (Others may have it done for every bridge of the node, by `bridge-nf-call-iptables`.)
pub(super) const ROUTER: [InfoBridge; 6] = [
    InfoBridge::StpState(BridgeStpState::Disabled),
    InfoBridge::ForwardDelay(0),
    InfoBridge::MulticastSnooping(false),
    InfoBridge::NfCallIpTables(false),
    InfoBridge::NfCallIp6Tables(false),
    InfoBridge::NfCallArpTables(false),
];

/// The settings of a pod's port. A pod may reach itself by way of a Service: hairpin. Who is behind the port is known:
/// it learns nothing, and nothing is flooded, or one pod would hear and answer what is for another.
///
/// Frames to the addresses that bridges keep for themselves (01:80:c2:00:00:00 to :0f) would go to the node's IP stack past all rules,
/// as the port's own: they are handled as all others (`group_fwd_mask`; that of pause frames, the second bit, cannot be set).
pub(super) const POD_PORT: [InfoBridgePort; 6] = [
    InfoBridgePort::HairpinMode(true),
    InfoBridgePort::Learning(false),
    InfoBridgePort::UnicastFlood(false),
    InfoBridgePort::MulticastFlood(false),
    InfoBridgePort::BroadcastFlood(false),
    InfoBridgePort::GroupFwdMask(0xfffd),
];

/// Makes a bridge, down, in one message, as [`ROUTER`] says.
pub fn create_bridge(bridge: &NewBridge<'_>) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(bridge.name.to_owned()),
        LinkAttribute::Address(bridge.mac.0.to_vec()),
        LinkAttribute::Mtu(bridge.mtu),
        LinkAttribute::LinkInfo(router()),
    ];
    new_link("create the bridge", bridge.name, message)
}

/// Switches STP off. As long as a bridge has it on, the kernel refuses it the forward delay of [`make_router`].
pub fn stop_stp(index: u32, name: &str) -> Request {
    let mut message = at(index);
    let off = InfoBridge::StpState(BridgeStpState::Disabled);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![off])),
    ]));
    let message = RouteNetlinkMessage::NewLink(message);
    Request::new("switch off STP of the bridge", name, message)
}

/// Gives a bridge that is there the settings of [`create_bridge`], and sees to it that it makes itself no IPv6 address, which the
/// kernel does not take with the request that makes a link.
pub fn make_router(index: u32, name: &str, ipv6: bool) -> Request {
    let mut message = at(index);
    message.attributes.push(LinkAttribute::LinkInfo(router()));
    if ipv6 {
        message.attributes.push(no_ipv6_address());
    }
    let message = RouteNetlinkMessage::NewLink(message);
    Request::new("make a router of the bridge", name, message)
}

fn router() -> Vec<LinkInfo> {
    vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(ROUTER.to_vec())),
    ]
}

/// A kernel without IPv6 refuses the whole message if that is mentioned.
fn no_ipv6_address() -> LinkAttribute {
    let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![no_address])])
}

/// Makes a veth pair in one message: the host end a port of its bridge, the pod's end in the pod's
/// namespace, both down. Fails with `EEXIST` and makes nothing if either name is taken.
///
/// As long as the pod's end is down, a host end that is up is one that has lost its carrier: news for
/// which the kernel walks over every port and every IPv6 route, a third of a millisecond beside 200 pods.
pub fn create_veth<N: AsFd>(veth: &NewVeth<'_, N>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(veth.pod_name.to_owned()),
        LinkAttribute::Address(veth.pod_mac.0.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::NetNsFd(veth.pod_netns.as_fd().as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(veth.host_name.to_owned()),
        LinkAttribute::Address(veth.host_mac.0.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::Controller(veth.bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let subject = format!("{} with its peer {}", veth.host_name, veth.pod_name);
    new_link("create the veth", &subject, message)
}

/// Sets a link up. Only `IFF_UP` is touched: a request that names all flags clears multicast.
pub fn set_up(index: u32, name: &str) -> Request {
    let mut message = at(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    set("set up the link", name, message)
}

/// Writes on a link that it is ours ([`super::Link::is_marked`]). The kernel does not take an alias
/// with the request that makes a link.
pub fn mark(index: u32, name: &str) -> Request {
    let mut message = at(index);
    message
        .attributes
        .push(LinkAttribute::IfAlias(MARK.to_owned()));
    set("set the alias of the link", name, message)
}

/// Makes a link a port of the bridge `master`, or of none with 0. The link stays up.
pub fn set_master(index: u32, name: &str, master: u32) -> Request {
    let mut message = at(index);
    message.attributes.push(LinkAttribute::Controller(master));
    set("change the bridge of the link", name, message)
}

/// Sets the MAC of a link.
pub fn set_mac(index: u32, name: &str, mac: MacAddress) -> Request {
    let mut message = at(index);
    message
        .attributes
        .push(LinkAttribute::Address(mac.0.to_vec()));
    set("set the MAC of the link", name, message)
}

/// Sets the MTU of a link, in bytes.
pub fn set_mtu(index: u32, name: &str, mtu: u32) -> Request {
    let mut message = at(index);
    message.attributes.push(LinkAttribute::Mtu(mtu));
    set("set the MTU of the link", name, message)
}

/// Makes a bridge port a pod's ([`POD_PORT`]) and sets it up, before its link has a carrier. The port has no IPv6 address of its
/// own: the kernel would make one, with routes that every later change of a link walks over.
///
/// Port data is a matter of `RTM_NEWLINK`; without `NLM_F_CREATE` it only changes what is there.
pub fn make_pod_port(index: u32, name: &str, ipv6: bool) -> Request {
    let mut message = at(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(POD_PORT.to_vec())),
    ]));
    if ipv6 {
        message.attributes.push(no_ipv6_address());
    }
    let message = RouteNetlinkMessage::NewLink(message);
    Request::new("make a pod's of the bridge port", name, message)
}

/// Deletes a link by name, so that no look-up comes before it.
pub fn delete(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    let message = RouteNetlinkMessage::DelLink(message);
    Request::new("delete the link", name, message)
}

fn new_link(operation: &'static str, subject: &str, message: LinkMessage) -> Request {
    let message = RouteNetlinkMessage::NewLink(message);
    Request::new(operation, subject, message).flags(NLM_F_CREATE | NLM_F_EXCL)
}

fn set(operation: &'static str, name: &str, message: LinkMessage) -> Request {
    Request::new(operation, name, RouteNetlinkMessage::SetLink(message))
}
