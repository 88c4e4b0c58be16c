//! The wireserver, Azure's host agent at 168.63.129.16: the VM's NICs as XML.
//!
//! The request and the document are those of Azure's own plugins; there is no public reference.
//! `MacAddress` may be `*`, which is any NIC.
//!
//! The document is read by its tags, once from front to back, and nothing of it is kept but the list: no tree, no namespaces,
//! no entities of its own. What is more than a VM can have ends the reading.

use std::{borrow::Cow, time::Duration};

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};

use super::{
    Error, Found,
    http::Question,
    listing::{self, Interface, Listed, ListedSubnet},
};

const PATH: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

/// The list is four deep; others may put something around an address.
const MAX_DEPTH: usize = 16;
const MAX_ELEMENTS: usize = 1 << 15;
/// Of one element. Whether one is given twice is asked of each pair.
const MAX_ATTRIBUTES: usize = 32;

/// Asks the wireserver at `base`; `limit` is for all attempts together.
pub(super) fn fetch(base: &str, limit: Duration) -> Result<Found, Error> {
    let question = Question {
        name: "the wireserver",
        url: format!("{base}{PATH}"),
        header: None,
    };
    let xml = question.ask(limit)?;
    parse(&xml).map_err(|problem| question.not("XML", &problem))
}

/// The secondary addresses in the document.
///
/// # Errors
/// What about it is not as expected.
pub fn parse(xml: &str) -> Result<Found, String> {
    let interfaces = interfaces(xml)?;
    listing::secondary(&interfaces, "the wireserver's list")
}

/// Where the reading is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Document,
    Interfaces,
    Interface,
    Subnet,
    /// In an element that says nothing here, however deep.
    Other,
}

fn interfaces(xml: &str) -> Result<Vec<Interface>, String> {
    let mut reader = Reader::from_str(xml.trim_start_matches('\u{feff}'));
    let mut list = List::default();
    loop {
        match reader.read_event().map_err(|cause| cause.to_string())? {
            Event::Start(tag) => list.open(&tag)?,
            Event::Empty(tag) => {
                list.open(&tag)?;
                list.close();
            }
            Event::End(_) => list.close(),
            Event::DocType(_) => return Err("it has a DOCTYPE".to_owned()),
            Event::Text(text) if list.is_outside() && !text.trim().is_empty() => {
                return Err("it has text outside of its root".to_owned());
            }
            Event::CData(_) | Event::GeneralRef(_) if list.is_outside() => {
                return Err("it has text outside of its root".to_owned());
            }
            Event::Eof => return list.finish(),
            Event::Text(_)
            | Event::CData(_)
            | Event::GeneralRef(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_) => {}
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct List {
    interfaces: Vec<Interface>,
    /// The open elements, from the root.
    open: Vec<Within>,
    elements: usize,
}

impl List {
    fn is_outside(&self) -> bool {
        self.open.is_empty()
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), String> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(format!("it has more than {MAX_ELEMENTS} elements"));
        }
        if self.open.len() == MAX_DEPTH {
            return Err(format!("it is more than {MAX_DEPTH} elements deep"));
        }
        let within = self.open.last().copied().unwrap_or(Within::Document);
        let attributes = Attributes::read(tag)?;
        let name = tag.local_name();
        let next = match (within, name.as_ref()) {
            (Within::Document, "Interfaces") if self.elements == 1 => Within::Interfaces,
            (Within::Document, _) if self.elements > 1 => {
                return Err("it has more than one root".to_owned());
            }
            (Within::Document, other) => {
                return Err(format!("its root is <{other}>, not <Interfaces>"));
            }
            (Within::Interfaces, "Interface") => {
                self.interfaces.push(Interface {
                    mac: attributes.mac,
                    primary: attributes.is_primary,
                    subnets: Vec::new(),
                });
                Within::Interface
            }
            (Within::Interface, "IPSubnet") => {
                if let Some(nic) = self.interfaces.last_mut() {
                    nic.subnets.push(ListedSubnet {
                        prefix: attributes.prefix,
                        addresses: Vec::new(),
                    });
                }
                Within::Subnet
            }
            (Within::Subnet, "IPAddress") => {
                let nic = self.interfaces.last_mut();
                if let Some(subnet) = nic.and_then(|nic| nic.subnets.last_mut()) {
                    subnet.addresses.push(Listed {
                        address: attributes.address,
                        primary: attributes.is_primary,
                    });
                }
                Within::Other
            }
            _ => Within::Other,
        };
        self.open.push(next);
        Ok(())
    }

    fn close(&mut self) {
        self.open.pop();
    }

    fn finish(self) -> Result<Vec<Interface>, String> {
        if self.elements == 0 {
            return Err("it has no elements".to_owned());
        }
        if !self.is_outside() {
            return Err("it ends before its elements do".to_owned());
        }
        Ok(self.interfaces)
    }
}

/// The attributes that are looked at, of whichever element; empty where it has none.
#[derive(Default)]
struct Attributes {
    mac: String,
    prefix: String,
    address: String,
    is_primary: bool,
}

impl Attributes {
    fn read(tag: &BytesStart<'_>) -> Result<Self, String> {
        let mut attributes = Self::default();
        for (count, attribute) in tag.attributes().enumerate() {
            if count == MAX_ATTRIBUTES {
                let name = tag.local_name();
                return Err(format!(
                    "an element {:?} has more than {MAX_ATTRIBUTES} attributes",
                    name.as_ref()
                ));
            }
            let attribute = attribute.map_err(|cause| cause.to_string())?;
            // Without a resolver for entities: XML's own five are known, others are an error.
            let value = || -> Result<String, String> {
                let value = attribute.normalized_value(XmlVersion::Implicit1_0);
                value
                    .map(Cow::into_owned)
                    .map_err(|cause| cause.to_string())
            };
            match attribute.key.as_ref() {
                "MacAddress" => attributes.mac = value()?,
                "Prefix" => attributes.prefix = value()?,
                "Address" => attributes.address = value()?,
                "IsPrimary" => {
                    attributes.is_primary = value()?.trim().eq_ignore_ascii_case("true");
                }
                _ => {}
            }
        }
        Ok(attributes)
    }
}

#[cfg(test)]
mod tests;
