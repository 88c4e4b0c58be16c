//! The journal in which v0.1 wrote down what it moved to the bridge, and in which a takeover writes down that it has begun:
//! whoever comes next knows what was meant, and what the node had. It is at the place of the record that takes its place
//! in the end. The journal of another boot counts as none.

use std::net::Ipv4Addr;
use std::path::Path;

use azure_vnet_cni::json;
use rtnetlink::packet_core::{Emitable, Parseable};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;
use serde::{Deserialize, Serialize};

use crate::legacy;
use crate::netlink::address;
use crate::node::{NodeError, record};
use crate::state;

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
            boot: record::boot(),
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

    /// Somebody else had put the NIC into the bridge before v0.1 came: it is theirs, and stays as it is. The NIC of new pods is the
    /// bridge itself.
    pub fn is_of_others(&self) -> bool {
        self.before
            .as_ref()
            .is_some_and(|before| before.bridge && before.port)
            && !legacy::networks()
                .iter()
                .any(|it| it.is(&self.bridge, &self.master))
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

    /// Writes the journal.
    pub fn write(&self) -> Result<(), NodeError> {
        let path = record::path_of(&self.bridge);
        state::write_json(&path, self).map_err(|source| NodeError::file("write", &path, source))
    }
}

/// All journals of this node and this boot. One that cannot be read counts as lost, and one of a later version is a record.
pub fn all() -> Vec<Journal> {
    let files = record::files();
    files.iter().filter_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Option<Journal> {
    // v0.1.0 wrote it with whatever mode the runtime's umask left: without it the node's addresses would have to be guessed.
    let bytes = azure_vnet_files::read(path, state::LARGEST).ok()?;
    let journal: Journal = json::from_slice(&bytes).ok()?;
    (journal.boot == record::boot()).then_some(journal)
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
