//! The wireserver, Azure's host agent at 168.63.129.16: the VM's NICs as XML.
//!
//! The request and the document are those of Azure's own plugins; there is no public reference.
//! `MacAddress` (which may be `*`) is not looked at here: which host link a subnet belongs to is the network
//! plugin's question. IPv6 subnets are skipped: bridge mode is IPv4.

use std::{
    collections::BTreeSet,
    fmt::Display,
    io::{self, Read},
    net::Ipv4Addr,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use roxmltree::{Document, Node};

use super::Found;
use crate::pool::{Subnet, is_reserved};

const PATH: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

/// A NIC has at most 256 ipconfigs of some 60 bytes each.
const MAX_BYTES: u64 = 1 << 20;

/// Why the addresses of this VM are not known.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its meaning")]
pub enum Error {
    #[error(
        "no answer from the wireserver at {url} within {} s; is this an Azure VM, and may this process \
         connect to it?",
        limit.as_secs()
    )]
    Request {
        url: String,
        limit: Duration,
        #[source]
        cause: minreq::Error,
    },
    #[error("the wireserver at {url} answered with status {status}")]
    Status { url: String, status: u16 },
    #[error("reading the answer of the wireserver at {url} failed")]
    Read {
        url: String,
        #[source]
        cause: io::Error,
    },
    #[error("the answer of the wireserver at {url} is larger than {MAX_BYTES} bytes")]
    TooLarge { url: String },
    #[error("the answer of the wireserver at {url} is not the expected XML: {problem}")]
    Form { url: String, problem: String },
}

/// Asks the wireserver at `base`; `limit` is for connecting and reading together, in whole seconds.
pub(super) fn fetch(base: &str, limit: Duration) -> Result<Found, Error> {
    let url = format!("{base}{PATH}");
    let xml = get(&url, limit)?;
    parse(&xml).map_err(|problem| Error::Form { url, problem })
}

fn get(url: &str, limit: Duration) -> Result<String, Error> {
    let url = || url.to_owned();
    let response = minreq::get(url())
        .with_timeout(limit.as_secs())
        .with_follow_redirects(false)
        .send_lazy()
        .map_err(|cause| Error::Request {
            url: url(),
            limit,
            cause,
        })?;
    if response.status_code != 200 {
        return Err(Error::Status {
            url: url(),
            status: response.status_code,
        });
    }
    let mut xml = String::new();
    let mut body = response.take(MAX_BYTES + 1);
    body.read_to_string(&mut xml)
        .map_err(|cause| Error::Read { url: url(), cause })?;
    if body.limit() == 0 {
        return Err(Error::TooLarge { url: url() });
    }
    Ok(xml)
}

/// The secondary addresses in the document.
///
/// # Errors
/// What about it is not as expected.
pub fn parse(xml: &str) -> Result<Found, String> {
    let document = Document::parse(xml).map_err(|cause| cause.to_string())?;
    let root = document.root_element();
    if !root.has_tag_name("Interfaces") {
        let name = root.tag_name().name();
        return Err(format!("its root is <{name}>, not <Interfaces>"));
    }
    let mut reading = Reading {
        hosts_own: primary_addresses(root),
        ..Reading::default()
    };
    for interface in elements(root, "Interface") {
        let primary = is_primary(interface);
        for subnet in elements(interface, "IPSubnet") {
            reading.subnet(subnet, primary);
        }
    }
    Ok(reading.found)
}

/// The addresses of the VM itself. One may be primary on one NIC and, wrongly, listed on another.
fn primary_addresses(root: Node<'_, '_>) -> BTreeSet<Ipv4Addr> {
    root.descendants()
        .filter(|node| node.has_tag_name("IPAddress") && is_primary(*node))
        .filter_map(|node| node.attribute("Address")?.trim().parse().ok())
        .collect()
}

struct Reading {
    hosts_own: BTreeSet<Ipv4Addr>,
    seen: BTreeSet<Ipv4Addr>,
    found: Found,
}

impl Default for Reading {
    fn default() -> Self {
        Reading {
            hosts_own: BTreeSet::new(),
            seen: BTreeSet::new(),
            found: Found {
                subnets: Vec::new(),
                warnings: Vec::new(),
            },
        }
    }
}

impl Reading {
    fn subnet(&mut self, node: Node<'_, '_>, primary: bool) {
        let text = node.attribute("Prefix").unwrap_or_default().trim();
        let prefix = match text.parse::<IpNet>() {
            Ok(IpNet::V4(prefix)) => prefix.trunc(),
            Ok(IpNet::V6(_)) => return,
            Err(_) => return self.skip(format_args!("subnet {text:?}: not a prefix")),
        };
        let mut addresses = BTreeSet::new();
        for node in elements(node, "IPAddress") {
            if let Some(address) = self.address(node, prefix) {
                addresses.insert(address);
            }
        }
        self.add(Subnet {
            prefix,
            primary,
            addresses,
        });
    }

    /// The address, if pods may have it.
    fn address(&mut self, node: Node<'_, '_>, prefix: Ipv4Net) -> Option<Ipv4Addr> {
        let text = node.attribute("Address").unwrap_or_default().trim();
        let Ok(address) = text.parse::<Ipv4Addr>() else {
            self.skip(format_args!("{text:?} in {prefix}: not an IPv4 address"));
            return None;
        };
        if self.hosts_own.contains(&address) || !self.seen.insert(address) {
            return None;
        }
        if !prefix.contains(&address) {
            self.skip(format_args!("{address}: outside its subnet {prefix}"));
            return None;
        }
        if is_reserved(address, prefix) {
            self.skip(format_args!("{address}: reserved by Azure in {prefix}"));
            return None;
        }
        Some(address)
    }

    /// A NIC may list a subnet twice.
    fn add(&mut self, subnet: Subnet) {
        let mut subnets = self.found.subnets.iter_mut();
        let same =
            subnets.find(|known| known.prefix == subnet.prefix && known.primary == subnet.primary);
        match same {
            Some(known) => known.addresses.extend(subnet.addresses),
            None => self.found.subnets.push(subnet),
        }
    }

    fn skip(&mut self, what: impl Display) {
        self.found
            .warnings
            .push(format!("the wireserver's list has {what}; skipped"));
    }
}

fn elements<'a, 'input>(
    parent: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    parent
        .children()
        .filter(move |node| node.has_tag_name(name))
}

fn is_primary(node: Node<'_, '_>) -> bool {
    node.attribute("IsPrimary")
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
}

#[cfg(test)]
mod tests;
