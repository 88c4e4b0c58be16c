//! A node as the original plugin leaves it, made by hand with the commands that it gives.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use azure_vnet::legacy;
use azure_vnet::netns::NetNs;
use azure_vnet::node::{ensure, leave};

use crate::lab::{NIC_MAC, command, ip, lab, namespace, netlink, plain_node, run, wanted};

const STATE: &str = "/var/run/azure-vnet.json";

/// What tells the original's versions apart, as far as it matters.
#[derive(Debug, Clone, Copy)]
enum Version {
    /// `azveth` and characters of the container's ID; the ID itself is not in the file.
    V1_0,
    /// `azv` and a hash; the container's ID is in the file.
    V1_4,
}

struct Pod {
    id: &'static str,
    namespace: &'static str,
    address: &'static str,
    mac: &'static str,
    mac_in_base64: &'static str,
}

const PODS: [Pod; 2] = [
    Pod {
        id: "4a71c0ffee5b7a4c9d10",
        namespace: "one",
        address: "10.0.0.5",
        mac: "aa:bb:cc:00:00:05",
        mac_in_base64: "qrvMAAAF",
    },
    Pod {
        id: "4a71c0aa11223344aabb",
        namespace: "two",
        address: "10.0.0.6",
        mac: "aa:bb:cc:00:00:06",
        mac_in_base64: "qrvMAAAG",
    },
];

impl Pod {
    fn host_veth(&self, version: Version) -> String {
        match version {
            Version::V1_0 => format!("azveth{}", &self.id[..7]),
            Version::V1_4 => format!("azv{}a", &self.id[..10].replace("ff", "00")),
        }
    }

    fn make(&self, version: Version) {
        let Self {
            namespace: name,
            address,
            mac,
            ..
        } = self;
        let veth = self.host_veth(version);
        namespace(name);
        ip(&format!(
            "link add {veth} type veth peer name eth0 netns {name} address {mac}"
        ));
        ip(&format!("link set {veth} up"));
        ip(&format!("link set {veth} master azure0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
        ip(&format!("-n {name} route add default via 10.0.0.1"));
        ip(&format!(
            "neigh add {address} lladdr {mac} dev azure0 nud permanent"
        ));
        ebtables(&format!(
            "-A PREROUTING -p ARP --arp-op Request --arp-ip-dst {address} -j arpreply --arpreply-mac {mac} --arpreply-target DROP"
        ));
        ebtables(&format!(
            "-A PREROUTING -p IPv4 -i eth0 --ip-dst {address} -j dnat --to-dst {mac} --dnat-target ACCEPT"
        ));
        // The fabric delivers frames for a pod to the NIC's MAC.
        ip(&format!(
            "-n fabric neigh add {address} lladdr {NIC_MAC} dev port nud permanent"
        ));
    }

    fn endpoint(&self, version: Version) -> (String, serde_json::Value) {
        let mut endpoint = serde_json::json!({
            "Id": format!("{}-eth0", &self.id[..8]), "SandboxKey": "", "IfName": "eth0",
            "HostIfName": self.host_veth(version), "MacAddress": self.mac_in_base64,
            "IPAddresses": [{ "IP": self.address, "Mask": "////AA==" }], "Gateways": ["10.0.0.1"],
            "VlanID": 0, "EnableSnatOnHost": false,
        });
        if matches!(version, Version::V1_4) {
            endpoint["ContainerID"] = self.id.into();
            endpoint["PODName"] = self.namespace.into();
        }
        (format!("{}-eth0", &self.id[..8]), endpoint)
    }
}

fn ebtables(arguments: &str) -> String {
    command("ebtables", &format!("-t nat {arguments}"))
}

/// The bridge and the NIC's rules, as the original makes them.
fn original(version: Version) {
    plain_node(1500);
    ip("link add azure0 type bridge");
    ip("addr del 10.0.0.4/24 dev eth0");
    ip("link set eth0 down");
    ip("link set eth0 master azure0");
    ip("link set eth0 up");
    ip("link set azure0 up");
    ebtables(&format!(
        "-A POSTROUTING -s unicast -o eth0 -j snat --to-src {NIC_MAC} --snat-arp --snat-target ACCEPT"
    ));
    ebtables(&format!(
        "-A PREROUTING -p ARP --arp-op Request --arp-ip-dst 10.0.0.4 -j arpreply --arpreply-mac {NIC_MAC} --arpreply-target DROP"
    ));
    ebtables(
        "-A PREROUTING -p ARP -i eth0 --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT",
    );
    ip("addr add 10.0.0.4/24 dev azure0");
    ip("route add default via 10.0.0.1 dev azure0");
    for pod in PODS {
        pod.make(version);
    }
    let endpoints: serde_json::Map<_, _> = match version {
        // Both containers' IDs begin with the same characters, so the older file holds only one of them.
        Version::V1_0 => PODS[..1].iter().map(|pod| pod.endpoint(version)).collect(),
        Version::V1_4 => PODS
            .iter()
            .map(|pod| {
                let (name, endpoint) = pod.endpoint(version);
                (name + pod.namespace, endpoint)
            })
            .collect(),
    };
    let file = serde_json::json!({ "Network": {
        "Version": "v1.4.20", "TimeStamp": "2020-01-01T00:00:00Z",
        "ExternalInterfaces": { "eth0": {
            "Name": "eth0", "Subnets": ["10.0.0.0/24"], "BridgeName": "azure0", "DNSInfo": {},
            "MacAddress": "AA06AAAE", "IPAddresses": [{ "IP": "10.0.0.4", "Mask": "////AA==" }],
            "Routes": null, "IPv4Gateway": "0.0.0.0", "IPv6Gateway": "::",
            "Networks": { "azure": {
                "Id": "azure", "Mode": "bridge", "VlanId": 0, "Endpoints": endpoints, "DNS": {},
            } },
        } },
    } });
    std::fs::write(STATE, serde_json::to_string_pretty(&file).unwrap()).unwrap();
}

/// Listens, also right after another listener: a program that another test starts at this moment holds that
/// one's descriptor until it is executed.
fn listen(address: &str) -> TcpListener {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            listener => return listener.unwrap(),
        }
    }
}

/// A connection from the fabric to the pod, and back.
fn works(pod: &Pod) {
    let netns = NetNs::open(format!("/run/netns/{}", pod.namespace)).unwrap();
    let fabric = NetNs::open("/run/netns/fabric").unwrap();
    let address = format!("{}:80", pod.address);
    let listener = netns.run_in(|| listen(&address)).unwrap();
    let mut out = fabric
        .run_in(|| TcpStream::connect(&address))
        .unwrap()
        .unwrap();
    out.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    listener.accept().unwrap().0.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
fn its_bridge_is_adopted_and_its_pods_live_on_and_leave_whole() {
    for version in [Version::V1_0, Version::V1_4] {
        lab(move || {
            original(version);
            PODS.iter().for_each(works);
            let node = run(async { ensure(&netlink(), &wanted()).await }).unwrap();
            assert_eq!((&*node.bridge.name, &*node.master.name), ("azure0", "eth0"));
            assert_eq!(node.bridge.mac.unwrap().to_string(), NIC_MAC);
            PODS.iter().for_each(works);

            let [leaving, staying] = &PODS;
            let endpoints = legacy::endpoints("azure");
            let is_meant = |it: &&legacy::Endpoint| it.is(leaving.id, "eth0");
            let endpoint = endpoints.iter().find(is_meant).unwrap();
            for _ in 0..2 {
                let failures = run(async { legacy::remove(&netlink(), endpoint).await });
                assert!(failures.is_empty(), "{failures:?}");
            }
            let rules = ebtables("-L");
            for remains in [
                ip("link"),
                ip("neigh"),
                rules,
                std::fs::read_to_string(STATE).unwrap(),
            ] {
                for trace in [&leaving.host_veth(version), leaving.address, leaving.mac] {
                    assert!(!remains.contains(trace), "{version:?}, {trace}: {remains}");
                }
            }
            assert!(
                ebtables("-L").contains("--ip-dst 10.0.0.6"),
                "{}",
                ebtables("-L")
            );
            works(staying);
        });
    }
}

#[test]
fn an_endpoint_is_known_by_the_whole_id_and_the_interface() {
    lab(|| {
        original(Version::V1_4);
        let endpoints = legacy::endpoints("azure");
        assert_eq!(endpoints.len(), 2);
        let found =
            |id: &str, ifname: &str| endpoints.iter().filter(|it| it.is(id, ifname)).count();
        assert_eq!(found(PODS[0].id, "eth0"), 1);
        assert_eq!(found(PODS[0].id, "eth1"), 0);
        assert_eq!(found("4a71c0ff", "eth0"), 0);
        assert!(legacy::endpoints("another").is_empty());
    });
}

#[test]
fn teardown_takes_its_bridge_and_its_rules_away() {
    lab(|| {
        original(Version::V1_4);
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        for endpoint in legacy::endpoints("azure") {
            let failures = run(async { legacy::remove(&netlink(), &endpoint).await });
            assert!(failures.is_empty(), "{failures:?}");
        }
        legacy::remove_network("azure0").unwrap();
        assert!(run(async { leave(&netlink(), "azure0", false).await }).unwrap());
        assert!(ip("addr show eth0").contains("10.0.0.4/24"));
        assert!(ip("route show default").contains("via 10.0.0.1 dev eth0"));
        assert!(!ip("link").contains("azure0"));
        assert!(!ebtables("-L").contains("-j "), "{}", ebtables("-L"));
        assert!(legacy::networks().is_empty());
    });
}

#[test]
fn a_file_that_is_none_is_no_state() {
    lab(|| {
        plain_node(1500);
        for text in [
            "",
            "{",
            "[]",
            "{\"Network\": 7}",
            "{\"Network\":{\"ExternalInterfaces\":{\"eth0\":{\"BridgeName\":{}}}}}",
        ] {
            std::fs::write(STATE, text).unwrap();
            assert!(legacy::networks().is_empty(), "{text}");
            assert!(legacy::endpoints("azure").is_empty(), "{text}");
        }
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
    });
}
