//! Rules by port, and the presets for the platform's addresses.

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_testbed::address_plan::{IMDS, INTERNET, WIRESERVER};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, exchange, imds, wireserver};
use serde_json::json;
use socket2::Type;

use super::{TIERS, list, udp};

const DNS: SocketAddrV4 = SocketAddrV4::new(WIRESERVER, 53);

fn seen(kind: Type, pod: &Pod<'_>, to: SocketAddrV4) -> Ipv4Addr {
    exchange::ask(kind, pod.namespace(), None, to).unwrap()
}

#[test]
fn presets_of_the_platform_addresses() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let add = |preset: &str| {
            let list = list(tier, &json!({ "preset": preset, "masqLinkLocal": false }));
            vm.add_pod(&list, &PodSpec::named(preset)).unwrap()
        };
        let wireserver = |pod: &Pod<'_>| {
            exchange::get_logged(pod.namespace(), WIRESERVER, wireserver::TARGET, || {
                azure.wireserver_log()
            })
        };
        let metadata = |pod: &Pod<'_>| {
            exchange::get_logged(pod.namespace(), IMDS, imds::TARGET, || azure.imds_log())
        };
        let node = vm.nic.primary;

        let pod = add("classic");
        assert_eq!(seen(Type::DGRAM, &pod, DNS), pod.address, "{tier}");
        assert_eq!(wireserver(&pod).unwrap(), pod.address, "{tier}");
        metadata(&pod).expect_err("the metadata service answers the node's address only");

        let pod = add("swift");
        assert_eq!(seen(Type::DGRAM, &pod, DNS), node, "{tier}");
        assert_eq!(seen(Type::STREAM, &pod, DNS), node, "{tier}");
        assert_eq!(wireserver(&pod).unwrap(), pod.address, "{tier}");
        assert_eq!(metadata(&pod).unwrap(), node, "{tier}");

        let pod = add("locked");
        assert_eq!(seen(Type::DGRAM, &pod, DNS), pod.address, "{tier}");
        wireserver(&pod).expect_err("the wireserver is closed to pods");

        let pod = add("none");
        assert_eq!(seen(Type::DGRAM, &pod, DNS), node, "{tier}");
    }
}

/// A health probe comes from a port that is closed to the pods' own connections, and is answered.
#[test]
fn what_came_in_from_a_closed_port_is_answered() {
    for tier in TIERS {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let rules = json!({"rules": [{"to": INTERNET[0], "action": "drop"}]});
        let pod = vm
            .add_pod(&list(tier, &rules), &PodSpec::named("web"))
            .unwrap();
        let service = pod
            .namespace()
            .run(|| std::net::UdpSocket::bind((pod.address, 0)));
        let service = service.unwrap().unwrap();
        service.set_read_timeout(Some(super::LIMIT)).unwrap();
        let (client, from) = udp(&azure.internet);
        // Nothing gets out,
        service.send_to(b"out", from).unwrap();
        // but what comes in gets its answer, and that is the first that arrives.
        client
            .send_to(b"in", service.local_addr().unwrap())
            .unwrap();
        let mut buffer = [0; 8];
        service.recv_from(&mut buffer).unwrap();
        service.send_to(b"reply", from).unwrap();
        let (length, peer) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"reply", "{tier}");
        assert_eq!(peer.ip(), pod.address, "{tier}");
        let report = SocketAddrV4::new(INTERNET[0], REPORT_PORT);
        exchange::ask(Type::STREAM, pod.namespace(), None, report).expect_err("closed");
    }
}
