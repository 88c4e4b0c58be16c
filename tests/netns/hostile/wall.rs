//! What may come out of a pod, by its headers.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::address_plan::{FABRIC_MAC, GATEWAY, INTERNET, Mac, PEERED, WIRESERVER};
use azure_vnet_testbed::field::{Field, Seen, Sender, Tier, key};
use azure_vnet_testbed::frame::{BROADCAST, Frame, PORT, udp};

/// Of IEEE 802.1D: bridges keep to themselves what goes to 01:80:c2:00:00:00 to 0f.
const LINK_LOCAL: [u8; 6] = [0, 1, 2, 3, 0x0e, 0x0f];

#[test]
fn every_header_is_judged() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        let cases = cases(&field);
        println!("{tier:?}: {} cases", cases.len());
        let deviating: Vec<String> = cases
            .into_iter()
            .filter_map(|(name, key, frame, expected)| {
                let seen = field.seen(&field.pod, &key, &frame, expected);
                (seen != expected).then(|| format!("{name}: {seen:?} instead of {expected:?}"))
            })
            .collect();
        assert!(deviating.is_empty(), "{tier:?}: {deviating:#?}");
        assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{tier:?}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier:?}");
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

/// What is not seen is not there: a port without a wall sends other frames, and they are seen.
#[test]
fn what_no_wall_stops_is_seen() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        let stranger = &field.stranger;
        let (own, nobody) = (stranger.address, Ipv4Addr::UNSPECIFIED);
        for (kind, seen) in [(0x0800, own), (0x8847, nobody), (0x88cc, nobody)] {
            let key = key();
            let frame = Frame::ipv4(stranger.mac, udp(own, field.vm.nic.primary, &key)).kind(kind);
            let expected = Seen::by_router(seen);
            let seen = field.seen(stranger, &key, &frame, expected);
            assert_eq!(seen, expected, "{tier:?}: {kind:x}");
        }
        let key = key();
        let packet = udp(own, field.vm.nic.primary, &key);
        let tagged = Frame::ipv4(stranger.mac, packet).tagged(0x8100, 0);
        let expected = Seen::by_router(own);
        let seen = field.seen(stranger, &key, &tagged, expected);
        assert_eq!(seen, expected, "{tier:?}: a tag");
    }
}

/// Nor does the node itself take what it should not.
#[test]
fn what_is_for_the_node_is_judged_as_well() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
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
            assert_eq!(wait(true), Some(pod.address), "{tier:?}: to {to}");
        }
        for source in [INTERNET[2], field.neighbour.address, PEERED] {
            send(source, FABRIC_MAC);
            assert_eq!(wait(false), None, "{tier:?}: from {source}");
        }
        loopback(&field);
        for low in LINK_LOCAL {
            send(INTERNET[2], Mac([0x01, 0x80, 0xc2, 0, 0, low]));
            assert_eq!(wait(false), None, "{tier:?}: to link-local group {low:x}");
        }
    }
}

/// portmap has the kernel route it (`route_localnet`).
fn loopback(field: &Field<'_>) {
    let (pod, tier) = (&field.pod, field.tier);
    field.run("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT));
    let socket = field.vm.namespace().run(bind).unwrap().unwrap();
    let arrives = |from: &Sender, milliseconds| {
        let limit = Some(Duration::from_millis(milliseconds));
        socket.set_read_timeout(limit).unwrap();
        from.send(&Frame::ipv4(
            from.mac,
            udp(from.address, Ipv4Addr::LOCALHOST, &key()),
        ));
        field.fence(pod, &mut Vec::new());
        socket.recv(&mut [0; 64]).is_ok()
    };
    // So it would be without a wall.
    assert!(arrives(&field.stranger, 3000), "{tier:?}: a stranger");
    assert!(!arrives(pod, 50), "{tier:?}: a pod");
}
