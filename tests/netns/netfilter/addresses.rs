//! What becomes of addresses when the node routes a packet.

use std::net::Ipv4Addr;

use azure_vnet_testbed::address_plan::{INTERNET, PEERED};
use azure_vnet_testbed::namespace::Namespace;

use super::Way;
use super::field::{CLOSED, Field, Seen, azure, key, run};
use super::frame::{Frame, PORT, RST, SYN, tcp, udp};

#[test]
fn what_connection_tracking_cannot_place_stays_in_the_ranges() {
    for way in Way::WALLED {
        let azure = azure(way);
        let field = Field::new(&azure);
        let (pod, node) = (&field.pod, field.vm.nic.primary);
        let own = pod.address;
        let seen = Seen::by_router(own);
        for (name, destination, port, flags, expected) in [
            (
                "begins out of range",
                INTERNET[0],
                4100,
                SYN,
                seen.and_fabric(node),
            ),
            ("resets nothing out of range", INTERNET[0], 4200, RST, seen),
            (
                "resets nothing in range",
                PEERED,
                4200,
                RST,
                seen.and_fabric(own),
            ),
        ] {
            let key = key();
            let packet = tcp(own, destination, port, flags, &key);
            let frame = Frame::ipv4(pod.mac, packet);
            let seen = field.seen(pod, &key, &frame, expected);
            assert_eq!(seen, expected, "{way:?}: {name}");
        }
        let port = PORT.to_string();
        field.run(&format!(
            "iptables -t raw -A PREROUTING -p udp --dport {port} -j NOTRACK"
        ));
        for (name, destination, expected) in [
            ("untracked out of range", INTERNET[0], seen),
            ("untracked in range", PEERED, seen.and_fabric(own)),
        ] {
            let key = key();
            let frame = Frame::ipv4(pod.mac, udp(own, destination, &key));
            let seen = field.seen(pod, &key, &frame, expected);
            assert_eq!(seen, expected, "{way:?}: {name}");
        }
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{way:?}");
    }
}

/// And it is counted.
#[test]
fn what_a_rule_closes_does_not_leave() {
    for way in Way::WALLED {
        let azure = azure(way);
        let field = Field::new(&azure);
        let pod = &field.pod;
        let expected = Seen::by_router(pod.address);
        let counted = || {
            if way == Way::Nft {
                let text = field.run("nft list chain ip azure-vnet-azure0 closed");
                return number_after(&text, "packets ");
            }
            let text = field.run("iptables -nvxL AZV-azure0-OWN");
            let rule = text.lines().find(|line| line.contains(&CLOSED.to_string()));
            number_after(rule.unwrap().trim(), "")
        };
        let before = counted();
        for _ in 0..3 {
            let key = key();
            let frame = Frame::ipv4(pod.mac, udp(pod.address, CLOSED, &key));
            let seen = field.seen(pod, &key, &frame, expected);
            assert_eq!(seen, expected, "{way:?}");
        }
        assert_eq!(counted() - before, 3, "{way:?}");
    }
}

/// What others route over the node is none of our business, be it for a pod, in the ranges or out of them.
#[test]
fn what_does_not_come_from_the_bridge_passes() {
    const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
    for way in [Way::Nft, Way::Iptables, Way::IptablesAlone] {
        let azure = azure(way);
        let field = Field::new(&azure);
        let container = Namespace::network().unwrap();
        let peer = container.net_path();
        for line in [
            format!("ip link add docker0 type veth peer name eth0 netns {peer}"),
            "ip address add 172.17.0.1/16 dev docker0".into(),
            "ip link set docker0 up".into(),
        ] {
            field.run(&line);
        }
        for line in [
            "ip link set eth0 up",
            "ip address add 172.17.0.2/16 dev eth0",
            "ip route add default via 172.17.0.1",
        ] {
            run(&container, line);
        }
        let node = field.vm.nic.primary;
        field.run(&format!(
            "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -o eth0 -j SNAT --to-source {node}"
        ));
        for (destination, expected) in [
            (
                field.neighbour.address,
                Seen::NOWHERE.and_neighbour(CONTAINER),
            ),
            (PEERED, Seen::NOWHERE.and_fabric(node)),
            (INTERNET[0], Seen::NOWHERE.and_fabric(node)),
        ] {
            let key = key();
            let socket = container.run(|| std::net::UdpSocket::bind((CONTAINER, 0)));
            let socket = socket.unwrap().unwrap();
            let send = || {
                socket.send_to(&key, (destination, PORT)).unwrap();
            };
            let seen = field.seen_of(&key, send, expected);
            assert_eq!(seen, expected, "{way:?}: to {destination}");
        }
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{way:?}");
    }
}

fn number_after(text: &str, before: &str) -> u64 {
    let rest = &text[text.find(before).unwrap() + before.len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
