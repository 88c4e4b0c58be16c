//! What becomes of addresses when the node routes a packet.

use std::net::Ipv4Addr;

use azure_vnet_testbed::address_plan::{INTERNET, PEERED};
use azure_vnet_testbed::field::{CLOSED, Field, Seen, Tier, key, run};
use azure_vnet_testbed::frame::{Frame, PORT, RST, SYN, tcp, udp};
use azure_vnet_testbed::namespace::Namespace;

#[test]
fn what_connection_tracking_cannot_place_stays_in_the_ranges() {
    for tier in Tier::RULES {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
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
            assert_eq!(seen, expected, "{tier:?}: {name}");
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
            assert_eq!(seen, expected, "{tier:?}: {name}");
        }
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier:?}");
    }
}

/// And it is counted.
#[test]
fn what_a_rule_closes_does_not_leave() {
    for tier in Tier::RULES {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        let pod = &field.pod;
        let expected = Seen::by_router(pod.address);
        let counted = || {
            if tier == Tier::Nft {
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
            assert_eq!(seen, expected, "{tier:?}");
        }
        assert_eq!(counted() - before, 3, "{tier:?}");
    }
}

/// What others route over the node is none of our business, be it for a pod, in the ranges or out of them.
#[test]
fn what_does_not_come_from_the_bridge_passes() {
    const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
    for tier in [Tier::Nft, Tier::Iptables, Tier::IptablesAlone] {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
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
            assert_eq!(seen, expected, "{tier:?}: to {destination}");
        }
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{tier:?}");
    }
}

fn number_after(text: &str, before: &str) -> u64 {
    let rest = &text[text.find(before).unwrap() + before.len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
