//! The journal of the move of a NIC's addresses and routes to its bridge, and back: written before
//! the first change, so that whoever comes next knows what was meant, and what the node had.
//!
//! It lives in `/run`: a reboot puts the node's network back, and the journal must go with it. Where
//! `/run` survives one, the journal of another boot counts as none.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rtnetlink::packet_core::{Emitable, Parseable};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;
use serde::{Deserialize, Serialize};

use super::NodeError;
use crate::netlink::address;
use crate::netlink::link::Link;
use crate::state;

const DIRECTORY: &str = "/run/azure-vnet";
const PREFIX: &str = "node-";
const SUFFIX: &str = ".json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What happened to the network of one NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: Version,
    /// The boot that this is true of (`/proc/sys/kernel/random/boot_id`).
    #[serde(default)]
    boot: String,
    /// How far the move got.
    pub state: State,
    /// Name of the bridge.
    pub bridge: String,
    /// Index of the bridge; 0 before it was made.
    pub bridge_index: u32,
    /// Name of the NIC.
    pub master: String,
    /// Index of the NIC.
    pub master_index: u32,
    /// Gateway of the IPv4 default route.
    pub gateway: Option<Ipv4Addr>,
    /// The node's addresses, as rtnetlink messages in hexadecimal.
    addresses: Vec<String>,
    /// The node's routes through the NIC or the bridge, likewise.
    routes: Vec<String>,
    /// The NIC before the first change.
    #[serde(default)]
    pub before: Option<Before>,
}

/// What the NIC was before the first change, as far as the kernel does not say it any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// There was a bridge of that name already.
    pub bridge: bool,
    /// The NIC was a port of it: somebody else put it there.
    pub port: bool,
    /// It was up.
    pub up: bool,
    /// Its addresses, as rtnetlink messages in hexadecimal.
    addresses: Vec<String>,
}

impl Before {
    /// What `nic` with its `addresses` is, where `bridge` is what has the name of the bridge.
    pub fn new(nic: &Link, bridge: Option<&Link>, addresses: &[AddressMessage]) -> Self {
        Self {
            bridge: bridge.is_some(),
            port: bridge.is_some_and(|bridge| nic.master == Some(bridge.index)),
            up: nic.is_up(),
            addresses: addresses.iter().map(encode).collect(),
        }
    }

    /// The address with the label that it had then.
    pub fn labelled(&self, address: AddressMessage) -> AddressMessage {
        let then = self.addresses.iter().filter_map(|text| decode(text));
        let mut then = then.filter(|then: &AddressMessage| address::same(then, &address));
        match then.next() {
            Some(then) => address::labelled_as(address, &then),
            None => address,
        }
    }
}

/// How far a move got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Begun; whatever is on the NIC still has to move.
    Moving,
    /// Complete.
    Done,
    /// Taken back; whatever is on the bridge still has to move to the NIC.
    Leaving,
}

/// The version of the format. A journal of another version is not read: the kernel's own state is
/// enough to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Version;

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        1
    }
}

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, Self::Error> {
        match version {
            1 => Ok(Self),
            other => Err(format!("version {other} is not known")),
        }
    }
}

impl Journal {
    /// The journal of a move that begins.
    pub fn new(bridge: &str, master: &str, master_index: u32) -> Self {
        Self {
            version: Version,
            boot: boot(),
            state: State::Moving,
            bridge: bridge.to_owned(),
            bridge_index: 0,
            master: master.to_owned(),
            master_index,
            gateway: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            before: None,
        }
    }

    /// True when nothing is left to move.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Records what the node has.
    pub fn record(&mut self, addresses: &[AddressMessage], routes: &[RouteMessage]) {
        self.addresses = addresses.iter().map(encode).collect();
        self.routes = routes.iter().map(encode).collect();
    }

    /// The recorded addresses.
    pub fn addresses(&self) -> Vec<AddressMessage> {
        self.addresses
            .iter()
            .filter_map(|text| decode(text))
            .collect()
    }

    /// The recorded routes.
    pub fn routes(&self) -> Vec<RouteMessage> {
        self.routes.iter().filter_map(|text| decode(text)).collect()
    }

    /// Writes the journal so that a crash leaves the old one or the new one, nothing between.
    pub fn write(&self) -> Result<(), NodeError> {
        let path = path_of(&self.bridge);
        replace(&path, self).map_err(|source| failed("write", &path, source))
    }

    /// Removes the journal: the node's network is as if we had never been there.
    pub fn remove(&self) -> Result<(), NodeError> {
        let path = path_of(&self.bridge);
        state::remove_file(&path).map_err(|error| failed("remove", &path, error))
    }
}

/// All journals of this node. One that cannot be read counts as lost, with a warning: the kernel
/// holds what is needed to go on.
pub fn all() -> Vec<Journal> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| is_journal(path))
        .collect();
    paths.sort();
    paths.iter().filter_map(|path| read(path)).collect()
}

fn is_journal(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
}

fn read(path: &Path) -> Option<Journal> {
    let journal = fs::read(path).map(|bytes| serde_json::from_slice(&bytes));
    let problem = match journal {
        Ok(Ok(journal)) if is_of_this_boot(&journal) => return Some(journal),
        Ok(Ok(_)) => "it is of another boot".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!("the journal {} is ignored: {problem}", path.display());
    None
}

fn is_of_this_boot(journal: &Journal) -> bool {
    journal.boot == boot()
}

/// Names the boot; nothing where the kernel does not say it, which is then true of all journals.
fn boot() -> String {
    let id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    id.trim().to_owned()
}

fn replace(path: &Path, journal: &Journal) -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let draft = path.with_extension("new");
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(&serde_json::to_vec_pretty(journal)?)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&draft, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&draft);
    }
    renamed.and_then(|()| File::open(DIRECTORY)?.sync_all())
}

fn path_of(bridge: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{PREFIX}{bridge}{SUFFIX}"))
}

/// The error of a file that the node's network needs.
pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> NodeError {
    NodeError::Journal {
        operation,
        path: path.display().to_string(),
        source,
    }
}

fn encode(message: &impl Emitable) -> String {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn decode<T: Parseable<[u8]>>(text: &str) -> Option<T> {
    let bytes: Option<Vec<u8>> = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect();
    T::parse(&bytes?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use rtnetlink::packet_route::AddressFamily;
    use rtnetlink::packet_route::address::AddressAttribute;
    use rtnetlink::packet_route::route::RouteAttribute;

    #[test]
    fn messages_survive_the_file() {
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        address.header.prefix_len = 24;
        address.attributes = vec![
            AddressAttribute::Local([10, 0, 0, 4].into()),
            AddressAttribute::Label("eth0:1".to_owned()),
        ];
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.attributes = vec![RouteAttribute::Oif(3), RouteAttribute::Table(1000)];
        let mut journal = Journal::new("azure0", "eth0", 3);
        journal.record(&[address.clone()], &[route.clone()]);
        let text = serde_json::to_string(&journal).unwrap();
        let again: Journal = serde_json::from_str(&text).unwrap();
        assert_eq!(again, journal);
        assert_eq!(again.addresses(), [address]);
        assert_eq!(again.routes(), [route]);
    }

    #[test]
    fn another_version_is_not_read() {
        let text = serde_json::to_string(&Journal::new("azure0", "eth0", 3)).unwrap();
        let later = text.replace("\"version\":1", "\"version\":2");
        assert_ne!(text, later);
        assert!(serde_json::from_str::<Journal>(&later).is_err());
    }
}
