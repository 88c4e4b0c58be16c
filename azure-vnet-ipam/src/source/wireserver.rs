//! The wireserver, Azure's host agent at 168.63.129.16: the VM's NICs as XML.
//!
//! The request and the document are those of Azure's own plugins; there is no public reference.
//! `MacAddress` may be `*`, which is any NIC.

use std::time::Duration;

use roxmltree::{Document, Node};

use super::{
    Error, Found,
    http::Question,
    listing::{self, Interface, Listed, ListedSubnet},
};

const PATH: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

/// Asks the wireserver at `base`; `limit` is for all attempts together.
pub(super) fn fetch(base: &str, limit: Duration) -> Result<Found, Error> {
    let question = Question {
        name: "the wireserver",
        url: format!("{base}{PATH}"),
        header: None,
    };
    let xml = question.ask(limit)?;
    parse(&xml).map_err(|problem| question.not("XML", problem))
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
