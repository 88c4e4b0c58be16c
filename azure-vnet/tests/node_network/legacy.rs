//! A node as the original plugin leaves it, made by hand with the commands that it gives.

use azure_vnet::del::detach_legacy;
use azure_vnet::legacy;
use azure_vnet::live;
use azure_vnet::netns::NetNs;
use azure_vnet::node::{self, leave, missing};
use azure_vnet::takeover::{self, Step};

use crate::lab::{
    NIC_MAC, addresses_are_settled, all_but_ours, assert_same, but_for_settings, command, ip, lab,
    mend, namespace, netlink, plain_node, run, without_detection,
};
use crate::pods::{Pod as Attached, all_talk, fabric, pod, settle, talk};
use crate::takeover::stop_after;

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
        ip(&format!("-n {name} link set lo up"));
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
    }

    /// It and the fabric reach each other.
    #[track_caller]
    fn works(&self) {
        let netns = NetNs::open(format!("/run/netns/{}", self.namespace)).unwrap();
        talk(&fabric(), &netns, self.address);
        talk(&netns, &fabric(), "10.0.0.1");
    }

    fn attached(&self, version: Version) -> Attached {
        Attached {
            netns: NetNs::open(format!("/run/netns/{}", self.namespace)).unwrap(),
            address: self.address,
            host_veth: self.host_veth(version),
        }
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

/// The bridge and the NIC's rules, as the original makes them. Gives what there was before.
fn original(version: Version) -> Vec<String> {
    plain_node(1500);
    addresses_are_settled();
    let before = all_but_ours();
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
        Version::V1_0 => PODS.iter().map(|pod| pod.endpoint(version)).collect(),
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
    before
}

/// Without what the original does not put back: the address has no broadcast address, the default route no source.
fn comparable(lines: Vec<String>) -> Vec<String> {
    let mut lines = but_for_settings(lines);
    lines.retain(|line| !line.contains("inet 10.0.0.4") && !line.contains("10.0.0.255"));
    lines.retain(|line| !line.contains("unicast default via 10.0.0.1"));
    lines
}

#[track_caller]
fn is_taken_over(before: &[String], version: Version, when: &str) {
    addresses_are_settled();
    assert_same(
        &comparable(all_but_ours()),
        &comparable(before.to_vec()),
        when,
    );
    assert!(ip("addr show eth0").contains("inet 10.0.0.4/24"), "{when}");
    assert!(
        ip("route show default").contains("via 10.0.0.1 dev eth0"),
        "{when}"
    );
    assert_eq!(ip("addr show azure0").matches("inet").count(), 1, "{when}");
    let rules = ebtables("-L");
    assert!(
        !rules.contains("snat") && !rules.contains("10.0.0.4"),
        "{when}: {rules}"
    );
    assert!(!rules.contains("--arp-op Reply"), "{when}: {rules}");
    let (missing, remembered) = (run(async { missing(&netlink()).await }), node::remembered());
    assert!(
        missing.as_ref().is_ok_and(Vec::is_empty),
        "{when}: {missing:?}"
    );
    assert_eq!(
        remembered,
        [("azure0".to_owned(), "eth0".to_owned())],
        "{when}"
    );
    let mut pods = live::pods("azure0").unwrap();
    pods.sort_by_key(|pod| pod.address);
    assert_eq!(pods.len(), PODS.len(), "{when}");
    for (found, pod) in pods.iter().zip(&PODS) {
        assert_eq!(found.address.to_string(), pod.address, "{when}");
        assert_eq!(found.mac.to_string(), pod.mac, "{when}");
        assert_eq!(found.host_veth, pod.host_veth(version), "{when}");
    }
}

#[test]
fn its_node_is_taken_over_and_its_pods_live_on_and_leave_whole() {
    for version in [Version::V1_0, Version::V1_4] {
        lab(move || {
            let before = original(version);
            PODS.iter().for_each(Pod::works);
            let node = settle();
            assert_eq!((&*node.bridge.name, &*node.nic.name), ("azure0", "eth0"));
            is_taken_over(&before, version, "after the takeover");
            PODS.iter().for_each(Pod::works);
            // Beside them a pod of this version.
            let new = pod(&node, "new", "10.0.0.9");
            let [leaving, staying] = PODS.map(|it| it.attached(version));
            for known in ["one", "two"] {
                ip(&format!("-n {known} neigh flush all"));
            }
            all_talk("10.0.0.4", &[&leaving, &staying, &new]);

            let endpoints = legacy::endpoints("azure");
            let is_meant = |it: &&legacy::Endpoint| it.is(PODS[0].id, "eth0");
            let endpoint = endpoints.iter().find(is_meant).unwrap();
            for _ in 0..2 {
                run(async {
                    let host = netlink();
                    let failures = detach_legacy(&host, endpoint).await;
                    failures.into_result().unwrap();
                    mend(&host).await.unwrap();
                });
            }
            for remains in [
                ip("link"),
                ip("neigh"),
                ip("route show table all"),
                ebtables("-L"),
                command("bridge", "fdb"),
                std::fs::read_to_string(STATE).unwrap(),
            ] {
                for trace in [&leaving.host_veth, leaving.address, PODS[0].mac] {
                    assert!(!remains.contains(trace), "{version:?}, {trace}: {remains}");
                }
            }
            let rules = ebtables("-L");
            assert!(rules.contains("--ip-dst 10.0.0.6"), "{rules}");
            all_talk("10.0.0.4", &[&staying, &new]);
        });
    }
}

/// By an ADD, or by what else comes first.
#[test]
fn its_takeover_is_continued_after_every_step() {
    for steps in 0..=Step::ALL.len() {
        lab(move || {
            without_detection();
            let before = original(Version::V1_4);
            assert_eq!(stop_after(steps), 1);
            let when = format!("stopped after {steps} steps");
            if steps % 2 == 0 {
                settle();
            } else {
                run(async { takeover::complete(&netlink()).await }).unwrap();
            }
            run(async { mend(&netlink()).await }).unwrap();
            is_taken_over(&before, Version::V1_4, &when);
            PODS.iter().for_each(Pod::works);
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
        let before = original(Version::V1_4);
        settle();
        for endpoint in legacy::endpoints("azure") {
            let failures = run(async { legacy::remove(&netlink(), &endpoint).await });
            assert!(failures.is_empty(), "{failures:?}");
        }
        legacy::remove_network("azure0").unwrap();
        assert!(run(async { leave(&netlink(), "azure0", false).await }).unwrap());
        addresses_are_settled();
        assert_same(
            &comparable(all_but_ours()),
            &comparable(before),
            "afterwards",
        );
        assert!(ip("addr show eth0").contains("10.0.0.4/24"));
        assert!(ip("route show default").contains("via 10.0.0.1 dev eth0"));
        assert!(!ip("link").contains("azure0"));
        assert!(!ebtables("-L").contains("-j "), "{}", ebtables("-L"));
        assert_eq!(ip("route show table all proto 97"), "");
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
        settle();
    });
}
