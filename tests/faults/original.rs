//! A VM that the original plugin has set up, with two pods: what its commands leave in the kernel, and its two files.

use std::net::Ipv4Addr;

use azure_vnet_testbed::address_plan::Nic;
use azure_vnet_testbed::connection::Connection;
use azure_vnet_testbed::namespace::Namespace;
use serde_json::{Value, json};

use crate::fixture::{Container, Node, Tier, sh};

const STATE: &str = "/var/run/azure-vnet.json";
const ADDRESSES: &str = "/var/run/azure-vnet-ipam.json";

/// aa:bb:cc:00:00:05 and 06, as Go writes them.
const MACS_IN_BASE64: [&str; 2] = ["qrvMAAAF", "qrvMAAAG"];

/// The pods of the original, which have the first addresses of the pool.
pub struct Original<'a> {
    pub pods: [Pod<'a>; 2],
    /// Index of its bridge.
    bridge: String,
}

/// A pod that it attached.
pub struct Pod<'a> {
    pub container: Container<'a>,
    pub address: Ipv4Addr,
    host_veth: String,
    mac: String,
    /// Open from before the upgrade.
    connection: Option<Connection>,
}

impl<'a> Original<'a> {
    /// Sets the VM up as the original does. On the tier of filters, the NIC has kept its address beside the bridge: that is what
    /// its versions before 1.4.45 come to on kernels from 5.19 on.
    pub fn new(node: &'a Node) -> Self {
        let nic = &node.vm().nic;
        let here = node.vm().namespace();
        make_bridge(here, nic, node.tier == Tier::ClsBpf);
        let pods = [0, 1].map(|number| Pod::new(node, number));
        node.vm().write_file(STATE, &state(nic, &pods)).unwrap();
        node.vm()
            .write_file(ADDRESSES, &addresses(nic, &pods))
            .unwrap();
        let mut original = Self {
            pods,
            bridge: node.sh("cat /sys/class/net/azure0/ifindex"),
        };
        for pod in &mut original.pods {
            let inside = pod.container.namespace();
            pod.connection = Some(Connection::open(inside, &node.azure().peered).unwrap());
        }
        original
    }

    /// Its bridge is there, and its pods have kept their connections.
    pub fn is_taken_over(&mut self, node: &Node, when: &str) -> Result<(), String> {
        let bridge = node.sh("cat /sys/class/net/azure0/ifindex");
        if bridge != self.bridge {
            let before = &self.bridge;
            return Err(format!("{when}: the bridge is {bridge:?}, was {before:?}"));
        }
        for pod in &mut self.pods {
            pod.lives(when)?;
        }
        Ok(())
    }

    /// DEL of each of its pods that lives.
    pub fn delete_pods(&mut self, node: &Node) -> Result<(), String> {
        let pods = self.pods.iter_mut();
        pods.filter(|pod| pod.connection.is_some())
            .try_for_each(|pod| pod.delete(node))
    }

    /// Fails if a new pod has the address of one of its pods that lives.
    pub fn keeps_addresses_from(&self, new: Ipv4Addr) -> Result<(), String> {
        match self.pods.iter().find(|pod| pod.address == new) {
            Some(pod) if pod.connection.is_some() => {
                Err(format!("{new} is that of {}", pod.container.id))
            }
            _ => Ok(()),
        }
    }
}

impl<'a> Pod<'a> {
    fn new(node: &'a Node, number: usize) -> Self {
        let pod = Self {
            container: node.container(),
            address: node.vm().nic.pool[number],
            host_veth: format!("azv0123456789{number}"),
            mac: format!("aa:bb:cc:00:00:0{}", number + 5),
            connection: None,
        };
        pod.attach(node.vm().namespace(), &node.vm().nic);
        pod
    }

    fn attach(&self, here: &Namespace, nic: &Nic) {
        let Self {
            address,
            host_veth,
            mac,
            ..
        } = self;
        let inside = self.container.namespace();
        batch(
            here,
            &format!(
                "link add {host_veth} type veth peer name eth0 netns {} address {mac}
                 link set {host_veth} up master azure0
                 neigh add {address} lladdr {mac} dev azure0 nud permanent",
                inside.net_path()
            ),
        );
        batch(
            inside,
            &format!(
                "link set lo up
                 link set eth0 up
                 addr add {address}/{} dev eth0
                 route add default via {}",
                nic.subnet.prefix_len(),
                nic.gateway()
            ),
        );
        frame_rules(here, &[arp_reply(*address, mac), delivery(*address, mac)]);
    }

    /// It has its connection still, unless it was deleted.
    fn lives(&mut self, when: &str) -> Result<(), String> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let alive = connection.is_alive();
        alive.map_err(|error| format!("{when}: {} of the original: {error}", self.container.id))
    }

    /// DEL, after which nothing is left of it.
    pub fn delete(&mut self, node: &Node) -> Result<(), String> {
        self.connection = None;
        let answer = self.container.del().silent();
        answer.map_err(|answer| format!("DEL of the original's pod: {answer}"))?;
        for place in [
            "ip link",
            "ip neigh show nud permanent",
            "ebtables -t nat -L",
            &format!("cat {STATE}"),
        ] {
            let remains = node.sh(place);
            for trace in [&self.host_veth, &format!("{} ", self.address), &self.mac] {
                if remains.contains(trace) {
                    return Err(format!("DEL of the original's pod left {trace}: {remains}"));
                }
            }
        }
        Ok(())
    }
}

/// Addresses and the default route are saved, the NIC goes down, becomes a port and is up again, and the bridge gets both. Whatever else
/// the DHCP client had set up is lost.
fn make_bridge(here: &Namespace, nic: &Nic, keeps_address: bool) {
    let (address, gateway) = (
        format!("{}/{}", nic.primary, nic.subnet.prefix_len()),
        nic.gateway(),
    );
    let taken = if keeps_address {
        String::new()
    } else {
        format!("addr del {address} dev eth0")
    };
    batch(
        here,
        &format!(
            "link add azure0 type bridge
             {taken}
             link set eth0 down
             link set eth0 master azure0
             link set eth0 up
             link set azure0 up
             link set eth0 type bridge_slave hairpin on
             addr add {address} dev azure0
             route add default via {gateway} dev azure0"
        ),
    );
    let mac = nic.mac.to_string();
    frame_rules(
        here,
        &[
            format!("POSTROUTING -s unicast -o eth0 -j snat --to-src {mac} --snat-arp --snat-target ACCEPT"),
            arp_reply(nic.primary, &mac),
            "PREROUTING -p ARP -i eth0 --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT".to_owned(),
        ],
    );
}

fn arp_reply(address: Ipv4Addr, mac: &str) -> String {
    format!(
        "PREROUTING -p ARP --arp-op Request --arp-ip-dst {address} -j arpreply --arpreply-mac {mac} --arpreply-target DROP"
    )
}

fn delivery(address: Ipv4Addr, mac: &str) -> String {
    format!(
        "PREROUTING -p IPv4 -i eth0 --ip-dst {address} -j dnat --to-dst {mac} --dnat-target ACCEPT"
    )
}

fn frame_rules(here: &Namespace, rules: &[String]) {
    for rule in rules {
        sh(here, &format!("ebtables -t nat -A {rule}"));
    }
}

fn batch(namespace: &Namespace, lines: &str) {
    let program = namespace.program("ip").unwrap().args(["-batch", "-"]);
    program.stdin(format!("{lines}\n")).checked().unwrap();
}

/// What the network plugin writes, in the shape of v1.1 to v1.4.
fn state(nic: &Nic, pods: &[Pod<'_>]) -> String {
    let endpoint = |(number, pod): (usize, &Pod<'_>)| {
        let endpoint = json!({
            "IfName": "eth0", "HostIfName": pod.host_veth, "ContainerID": pod.container.id,
            "MacAddress": MACS_IN_BASE64[number],
            "IPAddresses": [{ "IP": pod.address, "Mask": "///wAA==" }], "Gateways": [nic.gateway()],
        });
        (format!("{}-eth0", pod.container.id), endpoint)
    };
    let endpoints: serde_json::Map<_, _> = pods.iter().enumerate().map(endpoint).collect();
    let state = json!({ "Network": { "Version": "v1.4.20", "ExternalInterfaces": { "eth0": {
        "Name": "eth0", "BridgeName": "azure0", "MacAddress": "AA06AAAB",
        "IPAddresses": [{ "IP": nic.primary, "Mask": "///wAA==" }],
        "Networks": { "azure": { "Id": "azure", "Mode": "bridge", "Endpoints": endpoints } },
    } } } });
    format!("{state:#}")
}

/// What its IPAM plugin writes.
fn addresses(nic: &Nic, pods: &[Pod<'_>]) -> String {
    let entry = |address: &Ipv4Addr| {
        let owner = pods.iter().find(|pod| pod.address == *address);
        let id = owner.map_or("", |pod| &pod.container.id);
        let entry = json!({ "ID": id, "Addr": address, "InUse": owner.is_some() });
        (address.to_string(), entry)
    };
    let addresses: serde_json::Map<String, Value> = nic.pool.iter().map(entry).collect();
    let subnet = nic.subnet.to_string();
    let pool = json!({ "Id": subnet, "IfName": "eth0", "Gateway": nic.gateway(), "Addresses": addresses, "RefCount": 1 });
    let state = json!({ "IPAM": { "Version": "v1.4.20", "AddressSpaces": { "local": {
        "Id": "local", "Pools": { subnet.clone(): pool },
    } } } });
    format!("{state:#}")
}
