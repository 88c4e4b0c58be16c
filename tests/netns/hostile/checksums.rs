//! A checksum that the kernel is to finish (`PACKET_VNET_HDR`), in a place that is not the checksum's.

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::{INTERNET, PEERED};
use azure_vnet_testbed::field::{Field, Seen, Tier, key};
use azure_vnet_testbed::frame::{Frame, udp};
use azure_vnet_testbed::offload::{Offload, switch};
use azure_vnet_testbed::packet_socket::{offloading_socket, vnet_header};
use socket2::Socket;

/// Behind the headers of Ethernet and IPv4.
const TRANSPORT: u16 = 14 + 20;
/// Of a UDP header.
const CHECKSUM: u16 = TRANSPORT + 6;

/// Identification, time to live and protocol, both addresses, both ports, and the length.
const ELSEWHERE: [u16; 9] = [
    20,
    22,
    26,
    28,
    30,
    32,
    TRANSPORT,
    TRANSPORT + 2,
    TRANSPORT + 4,
];

#[test]
fn the_kernel_writes_over_nothing() {
    for tier in [Tier::Tcx, Tier::ClsBpf] {
        for is_fast in [false, true] {
            let azure = tier.azure();
            let field = Field::with(&azure, tier, &tier.list(is_fast));
            let socket = socket_of(&field);
            for by_nic in [true, false] {
                let case = format!("{tier:?}, fast {is_fast}, by the NIC {by_nic}");
                let switched = field
                    .vm
                    .namespace()
                    .run(|| switch("eth0", Offload::Transmit, by_nic));
                switched.unwrap().unwrap();
                if is_fast {
                    make_fast(&azure, &field);
                }
                let before = field.dropped("partial_checksum");
                for place in ELSEWHERE {
                    for destination in [INTERNET[0], PEERED, field.neighbour.address] {
                        let key = key();
                        let packet = udp(field.pod.address, destination, &key);
                        let frame = with_checksum_at(place, &Frame::ipv4(field.pod.mac, packet));
                        let send = || assert!(socket.send(&frame).is_ok());
                        let seen = field.seen_of(&key, send, Seen::NOWHERE);
                        assert_eq!(seen, Seen::NOWHERE, "{case}: {place} to {destination}");
                    }
                }
                let sent = 3 * ELSEWHERE.len() as u64;
                assert_eq!(field.dropped("partial_checksum") - before, sent, "{case}");
                in_its_place(&field, &socket, is_fast, &case);
            }
            assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0, "{tier:?}");
            assert_eq!(azure.fabric.leaked().unwrap(), 0, "{tier:?}");
        }
    }
}

/// The pod's own stack has the kernel do it, so most packets are such; those of a tunnel in the packet that it carries.
fn in_its_place(field: &Field<'_>, socket: &Socket, is_fast: bool, case: &str) {
    let own = field.pod.address;
    let router = (!is_fast).then_some(own);
    for place in [CHECKSUM, CHECKSUM + 2, CHECKSUM + 4] {
        let key = key();
        let packet = udp(own, INTERNET[0], &[b"tunnel", &key[..]].concat());
        let frame = with_checksum_at(place, &Frame::ipv4(field.pod.mac, packet));
        let expected = Seen {
            router,
            ..Seen::NOWHERE.and_fabric(field.vm.nic.primary)
        };
        let send = || assert!(socket.send(&frame).is_ok());
        let seen = field.seen_of(&key, send, expected);
        // By the router at times, also a fast flow's: once a second.
        assert_eq!(Seen { router, ..seen }, expected, "{case}");
    }
}

fn socket_of(field: &Field<'_>) -> Socket {
    let socket = field.pods[0].namespace().run(|| offloading_socket("eth0"));
    socket.unwrap().unwrap()
}

/// The frame, and a header that has the kernel write its checksum there.
fn with_checksum_at(place: u16, frame: &Frame) -> Vec<u8> {
    // The kernel takes no start before the end of an IPv4 header that were at the beginning of the frame.
    let start = place.clamp(20, TRANSPORT);
    [
        &vnet_header(Some((start, place - start)))[..],
        &frame.bytes(),
    ]
    .concat()
}

/// The flow of all [`udp`] packets to the internet goes the fast way from now on, for a second.
fn make_fast(azure: &Azure, field: &Field<'_>) {
    let own = field.pod.address;
    let fast = Seen::NOWHERE.and_fabric(field.vm.nic.primary);
    let slow = Seen {
        router: Some(own),
        ..fast
    };
    let send = |expected| {
        let key = key();
        let frame = Frame::ipv4(field.pod.mac, udp(own, INTERNET[0], &key));
        field.seen(&field.pod, &key, &frame, expected)
    };
    let is_fast = (0..5).any(|_| {
        send(slow);
        send(fast) == fast
    });
    assert!(is_fast);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}
