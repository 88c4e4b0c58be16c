//! The state of the original plugin (Azure/azure-container-networking, v1.0 to v1.4), read so that a
//! node that it set up is taken over with its pods: its bridge is adopted, and a DEL of a pod that it
//! attached removes what it made.
//!
//! Its file is a tree of Go structs; what is needed of it is looked for by name, in any order and
//! whatever else is there. A file that cannot be read counts as none.

mod ebtables;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use azure_vnet_cni::json;
use serde_json::Value;

use crate::lock;
use crate::netlink::link::{self, Link};
use crate::netlink::{MacAddress, Netlink, NetlinkError, gone_is_fine, neighbour};
use crate::state;

pub use ebtables::EbtablesError;

/// Where it keeps what it knows of networks; gone with a reboot.
const STATE: &str = "/var/run/azure-vnet.json";

/// Bytes; 250 pods take some 200 KB.
const LARGEST: u64 = 16 << 20;

/// Held while its file is changed.
const LOCK: &str = "/run/azure-vnet/legacy.lock";

/// Where in it the NICs are.
const INTERFACES: [&str; 2] = ["Network", "ExternalInterfaces"];

/// What its veths' names begin with in all versions. No other link is ever deleted.
const VETHS: &str = "azv";

/// How many characters of the container's ID are in its name for an endpoint.
const ID_CHARACTERS: usize = 8;

/// A bridge that the original made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the NIC.
    pub nic: String,
    /// The address that it answers ARP requests for, the first of the NIC.
    address: Option<IpAddr>,
    /// MAC of the NIC.
    mac: Option<MacAddress>,
}

/// A pod that the original attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its veth on the node.
    pub host_veth: String,
    /// The bridge that is a port of.
    pub bridge: String,
    /// Its container, if that was written down.
    container_id: Option<String>,
    /// The interface's name in the container.
    ifname: String,
    /// The NIC of the bridge.
    nic: String,
    /// Its MAC.
    mac: Option<MacAddress>,
    /// Its addresses.
    addresses: Vec<IpAddr>,
    /// Names it in the file: NIC, network, endpoint.
    key: [String; 3],
}

/// What of an endpoint could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// The kernel refused.
    #[error("cannot remove what the original azure-vnet made")]
    Netlink(#[from] NetlinkError),
    /// Its frame rules are still there.
    #[error("cannot remove the ebtables rules of the original azure-vnet")]
    Ebtables(#[from] EbtablesError),
    /// Other calls are changing its file.
    #[error("cannot change {STATE}")]
    Lock(#[from] lock::Error),
    /// Its file still names the pod.
    #[error("cannot write {STATE}")]
    File(#[source] io::Error),
}

/// The bridges that the original made.
pub fn networks() -> Vec<Network> {
    let Some(file) = read() else {
        return Vec::new();
    };
    let networks = interfaces(&file).filter_map(|(nic, interface)| {
        Some(Network {
            bridge: text(interface, "BridgeName")?,
            nic: nic.clone(),
            address: first_address(interface),
            mac: mac(interface),
        })
    });
    networks.collect()
}

impl Network {
    /// Whether it is the bridge of this name with the NIC of this name in it.
    pub fn is(&self, bridge: &str, nic: &str) -> bool {
        self.bridge == bridge && self.nic == nic
    }
}

impl Endpoint {
    /// Its first IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
    }

    /// Whether it is the interface of this container. Older versions did not write the container's ID
    /// down, but its first characters are in the endpoint's name.
    pub fn is(&self, container_id: &str, ifname: &str) -> bool {
        if let Some(id) = &self.container_id {
            return id == container_id && self.ifname == ifname;
        }
        let short: String = container_id.chars().take(ID_CHARACTERS).collect();
        let [.., name] = &self.key;
        *name == format!("{short}-{ifname}")
    }
}

/// The pods that the original attached to a network.
pub fn endpoints(network: &str) -> Vec<Endpoint> {
    let mut found = all_endpoints();
    found.retain(|endpoint| endpoint.key[1] == network);
    found
}

/// The pods that the original connected to a bridge.
pub fn endpoints_on(bridge: &str) -> Vec<Endpoint> {
    let mut found = all_endpoints();
    found.retain(|endpoint| endpoint.bridge == bridge);
    found
}

fn all_endpoints() -> Vec<Endpoint> {
    let Some(file) = read() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (nic, interface) in interfaces(&file) {
        for (network, value) in interface["Networks"].as_object().into_iter().flatten() {
            for (key, endpoint) in value["Endpoints"].as_object().into_iter().flatten() {
                let key = [nic, network, key].map(String::clone);
                found.extend(self::endpoint(interface, endpoint, key));
            }
        }
    }
    found
}

fn endpoint(interface: &Value, endpoint: &Value, key: [String; 3]) -> Option<Endpoint> {
    Some(Endpoint {
        host_veth: text(endpoint, "HostIfName").filter(|name| name.starts_with(VETHS))?,
        bridge: text(interface, "BridgeName")?,
        container_id: text(endpoint, "ContainerID"),
        ifname: text(endpoint, "IfName")?,
        nic: key[0].clone(),
        mac: mac(endpoint),
        addresses: addresses(endpoint),
        key,
    })
}

/// Removes what the original made for a pod: veth, neighbours, frame rules, and the file's entry, in
/// this order, so that a call that was killed finds the rest. Nothing stops it half-way.
pub async fn remove(host: &Netlink, endpoint: &Endpoint) -> Vec<LegacyError> {
    let mut failures: Vec<LegacyError> = Vec::new();
    let deleted = host.run(link::delete(&endpoint.host_veth)).await;
    failures.extend(gone_is_fine(deleted).err().map(Into::into));
    match host.link(&endpoint.bridge).await {
        Ok(bridge) => failures.extend(forget_neighbours(host, bridge, endpoint).await),
        Err(error) => failures.push(error.into()),
    }
    if let Some(mac) = endpoint.mac {
        for address in &endpoint.addresses {
            let removed = ebtables::remove_pod(&endpoint.nic, *address, mac);
            failures.extend(removed.err().map(Into::into));
        }
    }
    if failures.is_empty() {
        failures.extend(forget(endpoint).err());
    }
    failures
}

/// Address and MAC of the pod behind a link that the original made.
pub fn pod_behind(host_veth: &str) -> Option<(Ipv4Addr, MacAddress)> {
    let mut endpoints = all_endpoints().into_iter();
    let endpoint = endpoints.find(|it| it.host_veth == host_veth)?;
    Some((endpoint.ipv4()?, endpoint.mac?))
}

/// Removes the frame rules that the original made for the NIC of `bridge`. What the file says of its pods is still needed.
pub fn forget_nic(bridge: &str) -> Result<(), LegacyError> {
    for network in networks().into_iter().filter(|it| it.bridge == bridge) {
        if let Some(mac) = network.mac {
            ebtables::remove_nic(&network.nic, network.address, mac)?;
        }
    }
    Ok(())
}

/// Removes what the original made for the NIC of `bridge`: its frame rules, and the file's entry.
pub fn remove_network(bridge: &str) -> Result<(), LegacyError> {
    forget_nic(bridge)?;
    for network in networks().into_iter().filter(|it| it.bridge == bridge) {
        remove_key(&INTERFACES, &network.nic)?;
    }
    Ok(())
}

async fn forget_neighbours(
    host: &Netlink,
    bridge: Option<Link>,
    endpoint: &Endpoint,
) -> Vec<LegacyError> {
    let Some(bridge) = bridge else {
        return Vec::new();
    };
    let requests = endpoint
        .addresses
        .iter()
        .map(|ip| neighbour::delete(bridge.index, &bridge.name, *ip));
    let outcomes = host.run_each(requests).await;
    let failed = outcomes.into_iter().filter_map(|it| gone_is_fine(it).err());
    failed.map(Into::into).collect()
}

fn forget(endpoint: &Endpoint) -> Result<(), LegacyError> {
    let [nic, network, key] = &endpoint.key;
    remove_key(
        &[
            INTERFACES[0],
            INTERFACES[1],
            nic,
            "Networks",
            network,
            "Endpoints",
        ],
        key,
    )
}

/// Removes a key of the object at `path` of the file, whose other contents stay: whoever goes back to
/// the original finds what is true.
fn remove_key(path: &[&str], key: &str) -> Result<(), LegacyError> {
    let _lock = lock::acquire(Path::new(LOCK))?;
    let Some(mut file) = read() else {
        return Ok(());
    };
    let object = path
        .iter()
        .try_fold(&mut file, |value, key| value.get_mut(key));
    if let Some(object) = object.and_then(Value::as_object_mut) {
        object.remove(key);
    }
    state::write_json(Path::new(STATE), &file).map_err(LegacyError::File)
}

fn read() -> Option<Value> {
    let bytes = azure_vnet_files::read(Path::new(STATE), LARGEST).ok()?;
    let file = json::from_slice(&bytes);
    file.inspect_err(|error| tracing::warn!("{STATE} of the original is ignored: {error}"))
        .ok()
}

fn interfaces(file: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let [outer, inner] = INTERFACES;
    file[outer][inner].as_object().into_iter().flatten()
}

fn text(object: &Value, key: &str) -> Option<String> {
    let text = object[key].as_str().filter(|text| !text.is_empty());
    text.map(str::to_owned)
}

/// `[{"IP": "10.0.0.5", "Mask": "////AA=="}]`
fn addresses(object: &Value) -> Vec<IpAddr> {
    let addresses = object["IPAddresses"].as_array().into_iter().flatten();
    addresses
        .filter_map(|address| address["IP"].as_str()?.parse().ok())
        .collect()
}

fn first_address(interface: &Value) -> Option<IpAddr> {
    let mut addresses = addresses(interface).into_iter();
    addresses.find(IpAddr::is_ipv4)
}

/// Six bytes, which Go writes in base64.
fn mac(object: &Value) -> Option<MacAddress> {
    let text = object["MacAddress"].as_str()?;
    let digits: Option<Vec<u8>> = text.bytes().map(digit).collect();
    let digits: [u8; 8] = digits?.try_into().ok()?;
    let bits = digits
        .iter()
        .fold(0_u64, |bits, digit| bits << 6 | u64::from(*digit));
    let [_, _, bytes @ ..] = bits.to_be_bytes();
    Some(MacAddress(bytes))
}

fn digit(character: u8) -> Option<u8> {
    Some(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_six_bytes_in_base64() {
        let mac = |text: &str| mac(&serde_json::json!({ "MacAddress": text }));
        assert_eq!(mac("AA06AAAE"), Some(MacAddress([0, 0x0d, 0x3a, 0, 0, 4])));
        assert_eq!(
            mac("/+7dzLuq"),
            Some(MacAddress([0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa]))
        );
        for bad in ["", "AA06AAA", "AA06AAAEA", "AA06AA==", "00:0d:3a"] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
