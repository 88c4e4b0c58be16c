//! One file of ip-masq-agent: YAML or JSON, keys in any case.

use std::net::Ipv4Addr;
use std::path::Path;

use azure_vnet_cni::{foreign, json, keys};
use azure_vnet_files::ReadError;
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;

use super::Settings;

/// Bytes; a thousand ranges take some 20,000.
const LARGEST: u64 = 256 << 10;

/// Ranges that an error names.
const MOST_NAMED: usize = 20;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It cannot be read, is no regular file, or is too large.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Neither YAML nor JSON.
    #[error("neither YAML nor JSON: {0}")]
    Syntax(String),
    /// A value is not of its key's type.
    #[error("{0}")]
    Shape(String),
    /// Some of the ranges are none.
    #[error("nonMasqueradeCIDRs: {0}")]
    Ranges(String),
}

/// Keys that are looked at; others (`resyncInterval`, `masqLinkLocalIPv6`) have no meaning here.
#[derive(Default, Deserialize)]
struct Sent {
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Option<Vec<Option<String>>>,
    #[serde(rename = "masqLinkLocal")]
    masq_link_local: Option<bool>,
}

/// Reads a file. An empty one says: nothing is exempt.
pub fn read(path: &Path) -> Result<Settings, Reason> {
    // A `ConfigMap` is mounted as links to files.
    parse(&azure_vnet_files::read_text(path, LARGEST)?)
}

/// What the text of a file says.
///
/// # Errors
/// It is neither YAML nor JSON, or says what cannot be.
pub fn parse(text: &str) -> Result<Settings, Reason> {
    // The value of an empty document is null.
    let sent = match document(text)? {
        Value::Null => Sent::default(),
        value => keys::from_value(value)
            .map_err(|error| Reason::Shape(foreign::excerpt(&error.to_string()).into_owned()))?,
    };
    Ok(Settings {
        ranges: ranges(&sent.non_masquerade_cidrs.unwrap_or_default())?,
        link_local: sent.masq_link_local.unwrap_or(false),
    })
}

/// More than the file of anybody who knows what it is for; aliases may not make it longer than it is.
fn limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            max_nodes: json::MAX_VALUES,
            max_events: 2 * json::MAX_VALUES,
            max_documents: 1,
            max_anchors: 64,
            max_aliases: 64,
            max_recorded_anchor_events: 4096,
        },
    }
}

/// JSON first: nearly all of it is YAML, but YAML does not take tabs for indentation.
fn document(text: &str) -> Result<Value, Reason> {
    json::from_slice(text.as_bytes())
        .or_else(|_| serde_saphyr::from_str_with_options(text, limits()))
        .map_err(|error| {
            let text = error.to_string();
            Reason::Syntax(foreign::excerpt(text.lines().next().unwrap_or("")).into_owned())
        })
}

/// An empty entry (a lone `-`) says nothing, and pods' IPv6 leaves under no policy.
fn ranges(texts: &[Option<String>]) -> Result<Vec<Ipv4Net>, Reason> {
    let texts = texts.iter().flatten().map(|text| text.trim());
    let mut ranges = Vec::new();
    let mut wrong = Vec::new();
    for text in texts.filter(|text| !text.is_empty() && !text.contains(':')) {
        match range(text) {
            Ok(range) => ranges.push(range),
            Err(why) => wrong.push(why),
        }
    }
    if wrong.is_empty() {
        Ok(ranges)
    } else {
        let more = wrong.len().saturating_sub(MOST_NAMED);
        wrong.truncate(MOST_NAMED);
        if more > 0 {
            wrong.push(format!("and {more} more"));
        }
        Err(Reason::Ranges(wrong.join(", ")))
    }
}

/// A prefix; an address alone means itself.
pub fn range(text: &str) -> Result<Ipv4Net, String> {
    let range = text
        .parse::<Ipv4Net>()
        .or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from))
        .map_err(|_| {
            let text = foreign::excerpt(text);
            format!("\"{text}\" is not an IPv4 CIDR such as \"10.0.0.0/8\"")
        })?;
    if range == range.trunc() {
        Ok(range)
    } else {
        Err(format!(
            "\"{text}\" does not begin at its network address, {}",
            range.trunc()
        ))
    }
}
