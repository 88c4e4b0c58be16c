//! `azure-vnet flows`.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use aya::Pod as Plain;
use aya::maps::{HashMap, Map, MapData};
use azure_vnet_abi::{ABI_VERSION, Be16, Be32, Flow, FlowKey, FlowKind, Mac, Share, maps};
use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::pod::Pod;
use rustix::net::netdevice::name_to_index;

use crate::golden::assert_golden;
use crate::scene::{connect, json_of, pods, printed, run, transcript};

#[test]
fn in_every_form() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let [web, db] = pods(&azure, tier);
        let _open = [
            connect(&azure, &web, 20000, (INTERNET[0], 8443)),
            connect(&azure, &web, 20001, (INTERNET[0], 8443)),
            connect(&azure, &db, 20002, (INTERNET[0], 8443)),
            connect(&azure, &db, 20003, (INTERNET[1], 8443)),
        ];
        drop(connect(&azure, &db, 20004, (INTERNET[2], 9000)));
        let web_address = web.address.to_string();
        let commands: [&[&str]; 10] = [
            &["flows"],
            &["flows", "--pod", "web"],
            &["flows", "--pod", "default/db", "--state", "established"],
            &["flows", "--pod", &web_address],
            &["flows", "--to", "203.0.113.11"],
            &["flows", "--to", "198.51.100.0/24", "--proto", "tcp"],
            &["flows", "--port", "9000"],
            &["flows", "--proto", "udp"],
            &["flows", "--count"],
            &["flows", "--top", "2"],
        ];
        assert_golden(&format!("flows-{tier}.txt"), &transcript(vm, &commands));
        let commands: [&[&str]; 3] = [
            &["flows", "--to", "203.0.113.11", "--json"],
            &["flows", "--count", "--json"],
            &["flows", "--top", "1", "--json"],
        ];
        assert_golden(&format!("flows-{tier}.json"), &transcript(vm, &commands));
    }
}

#[test]
fn a_pod_that_nobody_knows_is_an_error() {
    let azure = Azure::builder().build().unwrap();
    let _pods = pods(&azure, "ebpf");
    let output = run(&azure.vms[0], &["flows", "--pod", "nobody"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.contains("\"nobody\""),
        "{output:?}"
    );
}

/// A table as full as it gets is read whole, and counted right; a pod that goes takes its own flows with it and nobody else's.
#[test]
fn a_full_table() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let [web, db] = pods(&azure, "ebpf");
    let flows = azure_vnet_abi::MAX_FLOWS / 2;
    let owners = [&web, &db].map(|pod| (pod.address, link(pod)));
    vm.namespace()
        .run(|| fill(owners, vm.nic.primary, flows))
        .unwrap();
    assert_eq!(
        printed(vm, 0, &["flows", "--count", "--state", "active"]),
        format!("{flows}\n")
    );
    let top = json_of(vm, 0, &["flows", "--top", "1"]);
    assert_eq!(top["destinations"][0]["flows"], flows / 16);
    for (pod, left) in [(web, flows / 16), (db, 0)] {
        pod.delete().unwrap();
        let count = printed(vm, 0, &["flows", "--count"]);
        assert_eq!(count, format!("{left}\n"));
    }
}

/// The index of a pod's link on the node.
fn link(pod: &Pod<'_>) -> u32 {
    let name = pod.result["interfaces"][1]["name"].as_str().unwrap();
    let index = || name_to_index(UdpSocket::bind("127.0.0.1:0").unwrap(), name);
    pod.vm.namespace().run(index).unwrap().unwrap()
}

fn map<K: Plain, V: Plain>(name: &str) -> HashMap<MapData, K, V> {
    let path = format!("/sys/fs/bpf/azure-vnet/v{ABI_VERSION}/azure0/maps/{name}");
    let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    map.try_into().unwrap()
}

/// As the programs fill it: UDP flows to 16 destinations, both entries of each, and what each pod has of them; those to the first
/// destination are the other pod's.
fn fill([pod, other]: [(Ipv4Addr, u32); 2], node: Ipv4Addr, flows: u32) {
    let mut shares = map::<Be32, Share>(maps::SHARES);
    let of_other = flows / 16;
    for ((address, _), flows) in [(pod, flows - of_other), (other, of_other)] {
        let share = Share::new(flows.into());
        shares.insert(Be32::from(address), share, 0).unwrap();
    }
    let mut map = map::<FlowKey, Flow>(maps::FLOWS);
    let now = azure_vnet::datapath::view::jiffies();
    for number in 0..flows {
        let (pod, link) = if number % 16 == 0 { other } else { pod };
        let entry = |kind, address, port| {
            Flow::new(kind, address, port, link, Mac::default(), now, u32::MAX / 4)
        };
        let remote = Be32::from(Ipv4Addr::new(
            203,
            0,
            113,
            u8::try_from(number % 16).unwrap(),
        ));
        let port = Be16::from_host(u16::try_from(number / 16).unwrap() + 1024);
        let key = FlowKey::new(17, pod.into(), port, remote, Be16::from_host(53));
        let sent = FlowKey::new(17, node.into(), port, remote, Be16::from_host(53));
        map.insert(key, entry(FlowKind::MASQUERADE, node.into(), port), 0)
            .unwrap();
        map.insert(
            sent.reversed(),
            entry(FlowKind::UNMASQUERADE, pod.into(), port),
            0,
        )
        .unwrap();
    }
}

/// It prints again until it is stopped.
#[test]
fn watching_goes_on() {
    let azure = Azure::builder().build().unwrap();
    let _pods = pods(&azure, "ebpf");
    let plugin = format!("{}/azure-vnet", azure_vnet_testbed::PLUGIN_DIR);
    // `head` ends with the second document, and the command with its reader.
    let script = format!("{plugin} flows --json --watch 1 | head -n 2");
    let shell = azure.vms[0].program("sh").unwrap();
    let text = shell
        .args(["-c", &script])
        .limit(Duration::from_secs(30))
        .checked()
        .unwrap();
    assert_eq!(text, "{\"flows\":[]}\n{\"flows\":[]}\n");
}
