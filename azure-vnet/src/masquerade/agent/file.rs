//! One file of ip-masq-agent: YAML or JSON, keys in any case.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use azure_vnet_cni::keys;
use ipnet::Ipv4Net;
use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::Value;

use super::Settings;

/// Bytes; a thousand ranges take some 20,000.
const LARGEST: u64 = 256 << 10;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A pipe, a device.
    #[error("not a regular file")]
    Kind,
    /// It is too large.
    #[error("larger than {} KiB", LARGEST >> 10)]
    Large,
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
    let text = text(path)?;
    // The value of an empty document is null.
    let sent = match document(&text)? {
        Value::Null => Sent::default(),
        value => keys::from_value(value).map_err(|error| Reason::Shape(error.to_string()))?,
    };
    Ok(Settings {
        ranges: ranges(&sent.non_masquerade_cidrs.unwrap_or_default())?,
        link_local: sent.masq_link_local.unwrap_or(false),
    })
}

/// A `ConfigMap` is mounted as links to files. Whatever else a name leads to must not make the call
/// wait, hence non-blocking.
fn text(path: &Path) -> Result<String, Reason> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Reason::Kind);
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(Reason::Large);
    }
    Ok(text)
}

/// JSON first: nearly all of it is YAML, but YAML does not take tabs for indentation.
fn document(text: &str) -> Result<Value, Reason> {
    serde_json::from_str(text)
        .or_else(|_| serde_saphyr::from_str(text))
        .map_err(|error| Reason::Syntax(error.to_string().lines().next().unwrap_or("").to_owned()))
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
        Err(Reason::Ranges(wrong.join(", ")))
    }
}

/// A prefix; an address alone means itself.
pub fn range(text: &str) -> Result<Ipv4Net, String> {
    let range = text
        .parse::<Ipv4Net>()
        .or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from))
        .map_err(|_| format!("\"{text}\" is not an IPv4 CIDR such as \"10.0.0.0/8\""))?;
    if range == range.trunc() {
        Ok(range)
    } else {
        Err(format!(
            "\"{text}\" does not begin at its network address, {}",
            range.trunc()
        ))
    }
}
