//! Links: reading them, and the few kinds of change the plugin makes to them.

use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use super::{Label, MacAddress, Netlink, NetlinkError, Request};

/// The index of the loopback link, the same in every namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// What the plugin needs to know of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Interface index within its namespace.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Ethernet address; none on links that are not Ethernet.
    pub mac: Option<MacAddress>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Driver kind as rtnetlink knows it.
    pub kind: LinkKind,
    /// Index of the bridge, bond or netvsc link that this link is a port of.
    pub master: Option<u32>,
    /// Index of the veth peer within the peer's own namespace.
    pub peer: Option<u32>,
    /// The kernel's id of the peer's namespace, when it is another one.
    pub peer_netns: Option<i32>,
    /// `IFF_*` flags.
    pub flags: LinkFlags,
}

/// Driver kind of a link (`IFLA_INFO_KIND`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkKind {
    /// No kind: hardware, as netvsc and SR-IOV virtual functions are.
    Hardware,
    /// A Linux bridge.
    Bridge,
    /// One end of a veth pair.
    Veth,
    /// Any other virtual link, by the kernel's name for it.
    Other(String),
}

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

impl Link {
    /// Administratively up.
    pub fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }

    /// The loopback link.
    pub fn is_loopback(&self) -> bool {
        self.flags.contains(LinkFlags::Loopback)
    }

    /// A Linux bridge.
    pub fn is_bridge(&self) -> bool {
        self.kind == LinkKind::Bridge
    }

    fn from_message(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            kind: LinkKind::Hardware,
            master: None,
            peer: None,
            peer_netns: None,
            flags: message.header.flags,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddress),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
                LinkAttribute::LinkInfo(infos) => link.kind = kind_of(&infos),
                _ => {}
            }
        }
        link
    }
}

impl Netlink {
    /// The link called `name`, or `None`.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut wanted = LinkMessage::default();
        wanted
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(wanted, name.to_owned()).await
    }

    /// The link with this index, or `None`.
    pub async fn link_at(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let wanted = at(index);
        self.one_link(wanted, format!("#{index}")).await
    }

    /// All links of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let label = Label {
            operation: "list",
            subject: "the links".to_owned(),
        };
        let mut wanted = LinkMessage::default();
        wanted.attributes.push(without_statistics());
        let entries = self
            .dump(RouteNetlinkMessage::GetLink(wanted), label)
            .await?;
        Ok(entries.into_iter().filter_map(as_link).collect())
    }

    async fn one_link(
        &self,
        mut wanted: LinkMessage,
        subject: String,
    ) -> Result<Option<Link>, NetlinkError> {
        let label = Label {
            operation: "read the link",
            subject,
        };
        wanted.attributes.push(without_statistics());
        let found = self
            .get(RouteNetlinkMessage::GetLink(wanted), label)
            .await?;
        Ok(found.and_then(as_link))
    }
}

/// Makes a bridge, down, in one message: no STP (a cloud fabric has no loops for it to find and
/// drops its frames), no forwarding delay, and bridged IPv4 through iptables, which Services need.
pub fn create_bridge(bridge: &NewBridge<'_>) -> Request {
    let settings = vec![
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::ForwardDelay(0),
        InfoBridge::NfCallIpTables(true),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(bridge.name.to_owned()),
        LinkAttribute::Address(bridge.mac.0.to_vec()),
        LinkAttribute::Mtu(bridge.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(settings)),
        ]),
    ];
    new_link("create the bridge", bridge.name, message)
}

/// Makes a veth pair in one message: the host end up and a port of its bridge, the pod's end down
/// in the pod's namespace. Fails with `EEXIST` and makes nothing if either name is taken.
pub fn create_veth<N: AsFd>(veth: &NewVeth<'_, N>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(veth.pod_name.to_owned()),
        LinkAttribute::Address(veth.pod_mac.0.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::NetNsFd(veth.pod_netns.as_fd().as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
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

/// Switches hairpin of a bridge port: whether a frame may leave by the port it came in by.
pub fn set_hairpin(index: u32, name: &str, on: bool) -> Request {
    let mut message = at(index);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(
            on,
        )])),
    ]));
    // Port data is a matter of RTM_NEWLINK; without NLM_F_CREATE it only changes what is there.
    let message = RouteNetlinkMessage::NewLink(message);
    Request::new("set hairpin of the bridge port", name, message)
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

fn at(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn as_link(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(message)),
        _ => None,
    }
}

fn kind_of(infos: &[LinkInfo]) -> LinkKind {
    infos
        .iter()
        .find_map(|info| match info {
            LinkInfo::Kind(InfoKind::Bridge) => Some(LinkKind::Bridge),
            LinkInfo::Kind(InfoKind::Veth) => Some(LinkKind::Veth),
            LinkInfo::Kind(kind) => Some(LinkKind::Other(kind.to_string())),
            _ => None,
        })
        // A port has link information of its master's kind without having a kind itself.
        .unwrap_or(LinkKind::Hardware)
}
