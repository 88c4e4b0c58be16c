//! What may come out of a pod, by its headers.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::address_plan::{FABRIC_MAC, GATEWAY, INTERNET, Mac, PEERED, WIRESERVER};

use super::Way;
use super::field::{Field, Seen, azure, key};
use super::frame::{BROADCAST, Frame, PORT, udp};

/// Of IEEE 802.1D: bridges keep to themselves what goes to 01:80:c2:00:00:00 to 0f.
const LINK_LOCAL: [u8; 6] = [0, 1, 2, 3, 0x0e, 0x0f];

#[test]
fn every_header_is_judged() {
    for way in Way::WALLED {
        let azure = azure(way);
        let field = Field::new(&azure);
        let cases = cases(&field);
        println!("{way:?}: {} cases", cases.len());
        let deviating: Vec<String> = cases
            .into_iter()
            .filter_map(|(name, key, frame, expected)| {
                let seen = field.seen(&field.pod, &key, &frame, expected);
                (seen != expected).then(|| format!("{name}: {seen:?} instead of {expected:?}"))
            })
            .collect();
        assert!(deviating.is_empty(), "{way:?}: {deviating:#?}");
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{way:?}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{way:?}");
    }
}

type Case = (String, Vec<u8>, Frame, Seen);

/// Cases of what the first pod sends.
struct Cases<'a> {
    field: &'a Field<'a>,
    all: Vec<Case>,
}

impl Cases<'_> {
    fn case(
        &mut self,
        name: &str,
        (source, destination): (Ipv4Addr, Ipv4Addr),
        change: impl Fn(Frame) -> Frame,
        expected: Seen,
    ) {
        let key = key();
        let frame = Frame::ipv4(self.field.pod.mac, udp(source, destination, &key));
        self.all
            .push((name.to_owned(), key, change(frame), expected));
    }

    fn of_sources(&mut self) {
        let vm = self.field.vm;
        let neighbour = self.field.neighbour.address;
        for (name, source) in [
            ("the other pod's", neighbour),
            ("the node's", vm.nic.primary),
            ("the wireserver's", WIRESERVER),
            ("a free one", vm.nic.pool[20]),
            ("nobody's", Ipv4Addr::UNSPECIFIED),
            ("the gateway's", GATEWAY),
        ] {
            for destination in [PEERED, INTERNET[0], neighbour] {
                let name = format!("from {name} address to {destination}");
                self.case(&name, (source, destination), same, Seen::NOWHERE);
            }
        }
    }

    /// Whatever MAC it goes to, it goes to the router.
    fn of_macs(&mut self) {
        let Field {
            vm, pod, neighbour, ..
        } = self.field;
        let (own, nic) = (pod.address, vm.nic.mac);
        let kept = Seen::by_router(own).and_fabric(own);
        let delivered = Seen::by_router(own).and_neighbour(own);
        let translated = Seen::by_router(own).and_fabric(vm.nic.primary);
        let (inside, outside) = ((own, PEERED), (own, INTERNET[0]));
        let to_pod = (own, neighbour.address);
        let learnt = neighbour.mac;
        self.case("in range", inside, same, kept);
        self.case("out of range", outside, same, translated);
        self.case("to a pod", to_pod, same, delivered);
        self.case("to a pod by its MAC", to_pod, to(learnt), delivered);
        self.case("in range by the MAC of a pod", inside, to(learnt), kept);
        self.case("in range by the NIC's MAC", inside, to(nic), kept);
        let unknown = Mac([2, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa]);
        self.case("out by an unknown MAC", outside, to(unknown), translated);
        for (name, mac) in [
            ("the fabric's", FABRIC_MAC),
            ("the NIC's", nic),
            ("a group's", Mac([0x0b, 0x58, 0x0a, 0, 0, 5])),
        ] {
            let from = move |frame: Frame| frame.from(mac);
            self.case(&format!("from {name} MAC"), inside, from, Seen::NOWHERE);
        }
    }

    fn of_groups(&mut self) {
        let own = self.field.pod.address;
        let (inside, routers) = ((own, PEERED), (own, Ipv4Addr::new(224, 0, 0, 5)));
        let heard = Seen::by_router(own);
        let (group, nowhere) = (Mac([0x01, 0, 0x5e, 0, 0, 5]), Seen::NOWHERE);
        self.case("in a broadcast frame", inside, to(BROADCAST), nowhere);
        self.case("in a multicast frame", routers, to(group), nowhere);
        self.case("to a group by the router's MAC", routers, same, heard);
        let loopback = (own, Ipv4Addr::LOCALHOST);
        self.case("to the loopback network", loopback, same, nowhere);
        for low in LINK_LOCAL {
            let group = to(Mac([0x01, 0x80, 0xc2, 0, 0, low]));
            self.case(&format!("to group {low:x}"), inside, group, nowhere);
        }
    }

    fn of_types(&mut self) {
        let own = (self.field.pod.address, PEERED);
        let free = (self.field.vm.nic.pool[20], PEERED);
        for kind in [0x8100, 0x88a8] {
            for number in [0, 5] {
                let tagged = move |frame: Frame| frame.tagged(kind, number);
                for (whose, addresses) in [("another", free), ("its own", own)] {
                    let name = format!("tag {kind:x} with number {number}, {whose} address");
                    self.case(&name, addresses, tagged, Seen::NOWHERE);
                }
            }
        }
        let twice = |frame: Frame| frame.tagged(0x8100, 0).tagged(0x8100, 0);
        self.case("two tags", free, twice, Seen::NOWHERE);
        let mixed = |frame: Frame| frame.tagged(0x8100, 0).tagged(0x88a8, 0);
        self.case("two kinds of tags", own, mixed, Seen::NOWHERE);
        // IPv6, MPLS, PPPoE, LLDP, AVB, and a length of 802.3.
        for kind in [0x86dd, 0x8847, 0x8863, 0x88cc, 0x22f0, 0x0040] {
            let other = move |frame: Frame| frame.kind(kind);
            self.case(&format!("type {kind:x}"), own, other, Seen::NOWHERE);
        }
    }
}

fn cases(field: &Field<'_>) -> Vec<Case> {
    let all = Vec::new();
    let mut cases = Cases { field, all };
    cases.of_macs();
    cases.of_sources();
    cases.of_groups();
    cases.of_types();
    cases.all
}

fn same(frame: Frame) -> Frame {
    frame
}

fn to(mac: Mac) -> impl Fn(Frame) -> Frame {
    move |frame| frame.to(mac)
}

/// Nor does the node itself take what it should not.
#[test]
fn what_is_for_the_node_is_judged_as_well() {
    for way in Way::WALLED {
        let azure = azure(way);
        let field = Field::new(&azure);
        let (pod, node) = (&field.pod, field.vm.nic.primary);
        let socket = field.vm.namespace().run(|| UdpSocket::bind((node, PORT)));
        let socket = socket.unwrap().unwrap();
        let wait = |for_some: bool| {
            let limit = if for_some { 3000 } else { 50 };
            socket
                .set_read_timeout(Some(Duration::from_millis(limit)))
                .unwrap();
            let received = socket.recv_from(&mut [0; 64]).ok()?;
            match received.1.ip() {
                std::net::IpAddr::V4(source) => Some(source),
                std::net::IpAddr::V6(_) => None,
            }
        };
        let send = |source: Ipv4Addr, to: Mac| {
            let packet = udp(source, node, &key());
            pod.send(&Frame::ipv4(pod.mac, packet).to(to));
            field.fence(pod, &mut Vec::new());
        };
        for to in [FABRIC_MAC, field.vm.nic.mac] {
            send(pod.address, to);
            assert_eq!(wait(true), Some(pod.address), "{way:?}: to {to}");
        }
        for source in [INTERNET[2], field.neighbour.address, PEERED] {
            send(source, FABRIC_MAC);
            assert_eq!(wait(false), None, "{way:?}: from {source}");
        }
        for low in LINK_LOCAL {
            send(INTERNET[2], Mac([0x01, 0x80, 0xc2, 0, 0, low]));
            assert_eq!(wait(false), None, "{way:?}: to link-local group {low:x}");
        }
    }
}

/// A port that is nobody's may not have the address of a pod, and sends nothing out of the ranges. What it may otherwise is the
/// node's to say.
#[test]
fn a_stranger_stays_in_the_ranges() {
    for way in Way::WALLED {
        let azure = azure(way);
        let field = Field::new(&azure);
        let (stranger, pod, neighbour) = (&field.stranger, &field.pod, &field.neighbour);
        let own = stranger.address;
        let seen = Seen::by_router(own);
        for (name, source, destination, expected) in [
            ("out of range", own, INTERNET[0], seen),
            ("closed", own, super::field::CLOSED, seen),
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
            assert_eq!(seen, expected, "{way:?}: {name}");
        }
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{way:?}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{way:?}");
    }
}

/// Without a wall a pod can have the address of another pod, and no other.
#[test]
fn without_ebtables_only_pods_send() {
    let azure = azure(Way::IptablesAlone);
    let field = Field::new(&azure);
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
    assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}
