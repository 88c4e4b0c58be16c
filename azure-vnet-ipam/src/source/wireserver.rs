//! The wireserver, Azure's host agent at 168.63.129.16: the VM's NICs as XML.
//!
//! The request and the document are those of Azure's own plugins; there is no public reference.
//! `MacAddress` may be `*`, which is any NIC.

use std::{
    io::{self, Read},
    time::Duration,
};

use roxmltree::{Document, Node};

use super::{
    Found,
    listing::{self, Interface, Listed, ListedSubnet},
};

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
    let interfaces: Vec<Interface> = elements(root, "Interface").map(interface).collect();
    Ok(listing::secondary(&interfaces, "the wireserver's list"))
}

fn interface(node: Node<'_, '_>) -> Interface {
    Interface {
        mac: text(node, "MacAddress"),
        primary: is_primary(node),
        subnets: elements(node, "IPSubnet").map(subnet).collect(),
    }
}

fn subnet(node: Node<'_, '_>) -> ListedSubnet {
    let addresses = elements(node, "IPAddress").map(|node| Listed {
        address: text(node, "Address"),
        primary: is_primary(node),
    });
    ListedSubnet {
        prefix: text(node, "Prefix"),
        addresses: addresses.collect(),
    }
}

fn text(node: Node<'_, '_>, attribute: &str) -> String {
    node.attribute(attribute).unwrap_or_default().to_owned()
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
