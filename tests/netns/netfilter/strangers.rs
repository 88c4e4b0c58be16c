//! What comes over the bridge from somebody who is no pod.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::address_plan::{INTERNET, PEERED};
use azure_vnet_testbed::field::{CLOSED, Field, Seen, Tier, key};
use azure_vnet_testbed::frame::{Frame, PORT, udp};

/// A port that is nobody's may not have the address of a pod, and sends nothing out of the ranges. What it may otherwise is the
/// node's to say.
#[test]
fn a_stranger_stays_in_the_ranges() {
    for tier in Tier::RULES {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        let (stranger, pod, neighbour) = (&field.stranger, &field.pod, &field.neighbour);
        let own = stranger.address;
        let seen = Seen::by_router(own);
        for (name, source, destination, expected) in [
            ("out of range", own, INTERNET[0], seen),
            ("closed", own, CLOSED, seen),
            ("in range", own, PEERED, seen.and_fabric(own)),
            ("to a pod", own, neighbour.address, seen.and_neighbour(own)),
            (
                "as a pod out of range",
                pod.address,
                INTERNET[0],
                Seen::NOWHERE,
            ),
            ("as a pod in range", pod.address, PEERED, Seen::NOWHERE),
            (
                "as a pod to a pod",
                pod.address,
                neighbour.address,
                Seen::NOWHERE,
            ),
        ] {
            let key = key();
            let frame = Frame::ipv4(stranger.mac, udp(source, destination, &key));
            let seen = field.seen(stranger, &key, &frame, expected);
            assert_eq!(seen, expected, "{tier:?}: {name}");
        }
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{tier:?}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier:?}");
    }
}

/// Without a wall a pod can have the address of another pod, and no other.
#[test]
fn without_ebtables_only_pods_send() {
    let tier = Tier::IptablesAlone;
    let azure = tier.azure();
    let field = Field::new(&azure, tier);
    let (pod, neighbour, node) = (&field.pod, &field.neighbour, field.vm.nic.primary);
    let seen = |source| Seen::by_router(source);
    for (name, from, source, destination, expected) in [
        (
            "in range",
            pod,
            pod.address,
            PEERED,
            seen(pod.address).and_fabric(pod.address),
        ),
        (
            "out of range",
            pod,
            pod.address,
            INTERNET[0],
            seen(pod.address).and_fabric(node),
        ),
        (
            "as a pod",
            pod,
            neighbour.address,
            INTERNET[0],
            seen(neighbour.address).and_fabric(node),
        ),
        (
            "with a free address in range",
            pod,
            field.vm.nic.pool[20],
            PEERED,
            seen(field.vm.nic.pool[20]),
        ),
        (
            "with a free address out of range",
            pod,
            field.vm.nic.pool[20],
            INTERNET[0],
            seen(field.vm.nic.pool[20]),
        ),
        (
            "a stranger in range",
            &field.stranger,
            field.stranger.address,
            PEERED,
            seen(field.stranger.address),
        ),
        (
            "a stranger out of range",
            &field.stranger,
            field.stranger.address,
            INTERNET[0],
            seen(field.stranger.address),
        ),
    ] {
        let key = key();
        let frame = Frame::ipv4(from.mac, udp(source, destination, &key));
        assert_eq!(field.seen(from, &key, &frame, expected), expected, "{name}");
    }
    let socket = field.vm.namespace().run(|| UdpSocket::bind((node, PORT)));
    let socket = socket.unwrap().unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    for (source, arrives) in [
        (pod.address, true),
        (field.vm.nic.pool[20], false),
        (INTERNET[2], false),
    ] {
        pod.send(&Frame::ipv4(pod.mac, udp(source, node, &key())));
        field.fence(pod, &mut Vec::new());
        assert_eq!(
            socket.recv_from(&mut [0; 64]).is_ok(),
            arrives,
            "{source} to the node"
        );
    }
    // portmap has the kernel route it.
    field.run("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT));
    let socket = field.vm.namespace().run(bind).unwrap().unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let loopback = udp(pod.address, Ipv4Addr::LOCALHOST, &key());
    pod.send(&Frame::ipv4(pod.mac, loopback));
    field.fence(pod, &mut Vec::new());
    assert!(
        socket.recv(&mut [0; 64]).is_err(),
        "a pod to the node's loopback"
    );
    assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}
