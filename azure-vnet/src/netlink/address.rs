//! Addresses of links. They are handled as the kernel's whole messages, so that a copy on another
//! link keeps scope, label, broadcast, metric, protocol, flags and lifetimes.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::Link;
use super::{Label, Netlink, NetlinkError, Request};

/// The longest label the kernel keeps (`IFNAMSIZ` less the final zero).
const LABEL_BYTES: usize = 15;

impl Netlink {
    /// All IPv4 addresses of the namespace.
    pub async fn ipv4_addresses(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        let mut wanted = AddressMessage::default();
        wanted.header.family = AddressFamily::Inet;
        self.listed_addresses(wanted, "the addresses".to_owned())
            .await
    }

    /// The same, as link index and address with its prefix length, in the kernel's order: the primary address of a link first.
    pub async fn ipv4_nets(&self) -> Result<Vec<(u32, Ipv4Net)>, NetlinkError> {
        let addresses = self.ipv4_addresses().await?;
        let nets = addresses
            .iter()
            .filter_map(|entry| Some((entry.header.index, ipv4_net(entry)?)));
        Ok(nets.collect())
    }

    /// The addresses of one link, of both families. The others are not walked over: a node has a link for each pod.
    pub async fn addresses_on(&self, link: &Link) -> Result<Vec<AddressMessage>, NetlinkError> {
        let mut wanted = AddressMessage::default();
        wanted.header.index = link.index;
        let subject = format!("the addresses of {}", link.name);
        let mut listed = self.listed_addresses(wanted, subject).await?;
        listed.retain(|address| address.header.index == link.index);
        Ok(listed)
    }

    async fn listed_addresses(
        &self,
        wanted: AddressMessage,
        subject: String,
    ) -> Result<Vec<AddressMessage>, NetlinkError> {
        let label = Label {
            operation: "list",
            subject,
        };
        let entries = self
            .dump(RouteNetlinkMessage::GetAddress(wanted), label)
            .await?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| match entry {
                RouteNetlinkMessage::NewAddress(address) => Some(address),
                _ => None,
            })
            .collect())
    }
}

/// Adds an address to a link that does not have it yet (`EEXIST` otherwise).
pub fn add(link: u32, name: &str, address: IpNet) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix_len();
    message.header.index = link;
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    match address {
        IpNet::V4(v4) if v4.prefix_len() < 31 => message
            .attributes
            .push(AddressAttribute::Broadcast(v4.broadcast())),
        IpNet::V4(_) => {}
        // The address is ours alone by IPAM's word: no need to wait for duplicate detection.
        IpNet::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
    }
    let subject = format!("{address} on {name}");
    let message = RouteNetlinkMessage::NewAddress(message);
    Request::new("add the address", subject, message).flags(NLM_F_CREATE | NLM_F_EXCL)
}

/// Adds an address that is for this node alone: the kernel makes no network of it and never sends from it.
pub fn add_host(link: u32, name: &str, address: Ipv4Net) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Host;
    message.header.index = link;
    message.attributes = vec![
        AddressAttribute::Local(address.addr().into()),
        AddressAttribute::Address(address.addr().into()),
    ];
    let subject = format!("{address} on {name}");
    let message = RouteNetlinkMessage::NewAddress(message);
    Request::new("add the address", subject, message).flags(NLM_F_CREATE | NLM_F_EXCL)
}

/// Puts a copy of an address of the link called `from` on `to`; one that is there already takes over the lifetimes.
pub fn copy(address: &AddressMessage, from: &str, to: &Link) -> impl Iterator<Item = Request> {
    let copy = moved(address, from, to);
    let wanted = flags(&copy);
    // The node answers for an IPv6 address already, and detection would take it away for a second:
    // the copy comes without, and in a second step gets the flags of the original.
    let first = match copy.header.family {
        AddressFamily::Inet6 if !wanted.contains(AddressFlags::Nodad) => Some(put(
            with_flags(copy.clone(), wanted | AddressFlags::Nodad),
            to,
        )),
        _ => None,
    };
    first.into_iter().chain([put(copy, to)])
}

fn put(address: AddressMessage, to: &Link) -> Request {
    let subject = format!("{} on {}", text(&address), to.name);
    let message = RouteNetlinkMessage::NewAddress(address);
    Request::new("add the address", subject, message).flags(NLM_F_CREATE | NLM_F_REPLACE)
}

/// Deletes an address from the link it was read from.
pub fn delete(address: &AddressMessage, name: &str) -> Request {
    let mut message = AddressMessage::default();
    message.header = address.header.clone();
    message.attributes = address
        .attributes
        .iter()
        .filter(|attribute| {
            matches!(
                attribute,
                AddressAttribute::Local(_) | AddressAttribute::Address(_)
            )
        })
        .cloned()
        .collect();
    let subject = format!("{} from {name}", text(address));
    let message = RouteNetlinkMessage::DelAddress(message);
    // No flags: NLM_F_EXCL, which some set here, is NLM_F_BULK since kernel 5.19 and refused.
    Request::new("delete the address", subject, message)
}

/// The interface address: the local end where the address has a peer.
pub fn ip(address: &AddressMessage) -> Option<IpAddr> {
    let local = address
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
    // IPv6 addresses without a peer have IFA_ADDRESS only.
    local.or_else(|| {
        address
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })
    })
}

/// The IPv4 interface address with its prefix length; `None` for IPv6.
pub fn ipv4_net(address: &AddressMessage) -> Option<Ipv4Net> {
    match ip(address)? {
        IpAddr::V4(v4) => Ipv4Net::new(v4, address.header.prefix_len).ok(),
        IpAddr::V6(_) => None,
    }
}

/// Whether an address belongs to the node rather than to the link: all of IPv4, and IPv6 of a
/// wider scope than the link (each link makes its own link-local address).
pub fn is_movable(address: &AddressMessage) -> bool {
    match address.header.family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => {
            matches!(
                address.header.scope,
                AddressScope::Universe | AddressScope::Site
            ) && !flags(address).contains(AddressFlags::Dadfailed)
        }
        _ => false,
    }
}

/// The message that makes a copy of `address` on `to`.
fn moved(address: &AddressMessage, from: &str, to: &Link) -> AddressMessage {
    // What the rest of the bits say, the kernel works out itself (secondary, permanent,
    // deprecated) or no longer holds (tentative).
    let keep = flags(address)
        & (AddressFlags::Nodad
            | AddressFlags::Homeaddress
            | AddressFlags::Managetempaddr
            | AddressFlags::Noprefixroute
            | AddressFlags::Mcautojoin);
    let mut message = with_flags(address.clone(), keep);
    message.header.index = to.index;
    for attribute in &mut message.attributes {
        if let AddressAttribute::Label(label) = attribute {
            *label = relabelled(label, from, &to.name);
        }
    }
    message
}

fn with_flags(mut address: AddressMessage, flags: AddressFlags) -> AddressMessage {
    address.header.flags = AddressHeaderFlags::from_bits_truncate(low_byte(flags));
    address
        .attributes
        .retain(|attribute| !matches!(attribute, AddressAttribute::Flags(_)));
    address.attributes.push(AddressAttribute::Flags(flags));
    address
}

/// The address with the label of `other`: one that did not fit the name of a link it was moved to
/// is known only from before.
pub fn labelled_as(mut address: AddressMessage, other: &AddressMessage) -> AddressMessage {
    let is_label = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Label(_));
    address.attributes.retain(|attribute| !is_label(attribute));
    let label = other
        .attributes
        .iter()
        .find(|attribute| is_label(attribute));
    address.attributes.extend(label.cloned());
    address
}

/// True when both are the same address with the same prefix, on whatever link.
pub fn same(a: &AddressMessage, b: &AddressMessage) -> bool {
    ip(a) == ip(b) && a.header.prefix_len == b.header.prefix_len
}

/// `eth0:1` on eth0 is `azure0:1` on azure0; a label that does not fit becomes the name.
fn relabelled(label: &str, from: &str, to: &str) -> String {
    match label.strip_prefix(from) {
        Some(rest) if to.len() + rest.len() <= LABEL_BYTES => format!("{to}{rest}"),
        Some(_) => to.to_owned(),
        None => label.to_owned(),
    }
}

fn flags(address: &AddressMessage) -> AddressFlags {
    address
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        })
        .unwrap_or_else(|| AddressFlags::from_bits_retain(address.header.flags.bits().into()))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the header has room for the low eight flags only; all are in IFA_FLAGS"
)]
fn low_byte(flags: AddressFlags) -> u8 {
    flags.bits() as u8
}

fn text(address: &AddressMessage) -> String {
    ip(address).map_or_else(
        || "an address".to_owned(),
        |ip| format!("{ip}/{}", address.header.prefix_len),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_device() {
        assert_eq!(relabelled("eth0", "eth0", "azure0"), "azure0");
        assert_eq!(relabelled("eth0:1", "eth0", "azure0"), "azure0:1");
        assert_eq!(relabelled("eth0:secondary", "eth0", "azure0"), "azure0");
        assert_eq!(relabelled("floating", "eth0", "azure0"), "floating");
    }
}
