//! Links: what the plugin needs to know of them, and how it asks for them.

mod change;

use std::io;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

pub use change::{
    NewBridge, NewVeth, create_bridge, create_veth, delete, make_pod_port, make_router, mark,
    set_mac, set_master, set_mtu, set_up, stop_stp,
};

use super::{Label, MacAddress, Netlink, NetlinkError};

/// The index of the loopback link, the same in every namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// What a bridge of ours has written on it: it outlives the state in `/run`.
const MARK: &str = "azure-vnet";

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
    /// What somebody wrote on it (`ip link set … alias`).
    pub alias: Option<String>,
    /// Answers ARP for what the node routes, also for what is behind the same link, and sends no redirects
    /// (`proxy_arp`, `proxy_arp_pvlan`, `send_redirects`).
    pub is_proxy: bool,
    /// A bridge with the settings of [`make_router`].
    pub is_router: bool,
    /// A bridge port with the settings of [`make_pod_port`].
    pub is_pod_port: bool,
    /// The root queueing discipline (`IFLA_QDISC`).
    pub qdisc: String,
    /// The largest MTU that it may be given (`IFLA_MAX_MTU`).
    pub largest_mtu: u32,
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

    /// Made by this plugin, whatever became of the state since.
    pub fn is_marked(&self) -> bool {
        self.alias.as_deref() == Some(MARK)
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
            alias: None,
            is_proxy: false,
            is_router: false,
            is_pod_port: false,
            qdisc: String::new(),
            largest_mtu: 0,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddress),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::MaxMtu(mtu) => link.largest_mtu = mtu,
                LinkAttribute::Qdisc(kind) => link.qdisc = kind,
                LinkAttribute::IfAlias(text) => link.alias = Some(text),
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
                LinkAttribute::AfSpecUnspec(families) => link.is_proxy = is_proxy(&families),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = kind_of(&infos);
                    link.is_router = is_router(&infos);
                    link.is_pod_port = is_pod_port(&infos);
                }
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
        self.listed_links(LinkMessage::default(), "the links".to_owned())
            .await
    }

    /// The bridges of the namespace.
    pub async fn bridges(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut wanted = LinkMessage::default();
        let kind = LinkInfo::Kind(InfoKind::Bridge);
        wanted.attributes.push(LinkAttribute::LinkInfo(vec![kind]));
        let mut bridges = self.listed_links(wanted, "the bridges".to_owned()).await?;
        bridges.retain(Link::is_bridge);
        Ok(bridges)
    }

    /// The ports of a bridge.
    pub async fn ports_of(&self, bridge: &Link) -> Result<Vec<Link>, NetlinkError> {
        let mut wanted = LinkMessage::default();
        wanted
            .attributes
            .push(LinkAttribute::Controller(bridge.index));
        let subject = format!("the ports of {}", bridge.name);
        let mut ports = self.listed_links(wanted, subject).await?;
        ports.retain(|link| link.master == Some(bridge.index));
        Ok(ports)
    }

    async fn listed_links(
        &self,
        mut wanted: LinkMessage,
        subject: String,
    ) -> Result<Vec<Link>, NetlinkError> {
        let label = Label {
            operation: "list",
            subject,
        };
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

/// The index of a link of the calling thread's namespace, if there is one of that name. Costs less than [`Netlink::link`], and takes no
/// lock of the kernel's.
pub fn interface_index(name: &str) -> io::Result<Option<u32>> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    match name_to_index(socket, name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// [`interface_index`], with an error that says what was asked.
pub fn index_of(name: &str) -> Result<Option<u32>, NetlinkError> {
    interface_index(name).map_err(|cause| {
        let label = Label {
            operation: "read the index of the link",
            subject: name.to_owned(),
        };
        NetlinkError::failed(&label, cause)
    })
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

fn is_proxy(families: &[AfSpecUnspec]) -> bool {
    let mut settings = families.iter().filter_map(|family| match family {
        AfSpecUnspec::Inet(settings) => settings.iter().find_map(|setting| match setting {
            AfSpecInet::DevConf(settings) => Some(settings),
            _ => None,
        }),
        _ => None,
    });
    settings
        .next()
        .is_some_and(|it| (it.proxy_arp, it.proxy_arp_pvlan, it.send_redirects) == (1, 1, 0))
}

fn is_router(infos: &[LinkInfo]) -> bool {
    let mut settings = infos.iter().filter_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(settings)) => Some(settings),
        _ => None,
    });
    settings.next().is_some_and(|settings| {
        change::ROUTER
            .iter()
            .all(|wanted| settings.contains(wanted))
    })
}

fn is_pod_port(infos: &[LinkInfo]) -> bool {
    let mut settings = infos.iter().filter_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(settings)) => Some(settings),
        _ => None,
    });
    settings.next().is_some_and(|settings| {
        change::POD_PORT
            .iter()
            .all(|wanted| settings.contains(wanted))
    })
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
