//! What a pod keeps of its rate beside one that sends all it can. It prints, and asserts nothing of rates:
//! `cargo xtask test --stage hostile -- victim --ignored`.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::{FABRIC_MAC, INTERNET, Mac, PEERED};
use azure_vnet_testbed::field::{Field, Tier};
use azure_vnet_testbed::frame::{BROADCAST, ETH_P_ARP, ETH_P_IPV6, Frame, NOBODY, arp, ipv4, udp};
use azure_vnet_testbed::host::REPORT_PORT;

/// For how long each is measured.
const TIME: Duration = Duration::from_secs(2);
const UDP: u8 = 17;

type Sends<'a> = (&'static str, Box<dyn Fn(u32) -> Frame + Sync + 'a>);

#[test]
#[ignore = "a measurement: its figures are for people"]
fn a_victim_beside_the_worst_sender() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::with(&azure, tier, &tier.list(true));
        let alone = round_trips(&field);
        println!("{tier:?}: {alone} round trips a second alone");
        for (name, frame) in senders(&field) {
            let stop = AtomicBool::new(false);
            let beside = thread::scope(|scope| {
                scope.spawn(|| {
                    let mut number = 0_u32;
                    while !stop.load(Ordering::Relaxed) {
                        field.pod.send(&frame(number));
                        number = number.wrapping_add(1);
                    }
                    println!(
                        "  {name}: {} frames a second",
                        u64::from(number) / TIME.as_secs()
                    );
                });
                let beside = round_trips(&field);
                stop.store(true, Ordering::Relaxed);
                beside
            });
            assert!(beside > 0, "{tier:?}: {name}: nothing is left");
            println!(
                "  {name}: {beside} round trips a second, {} %",
                beside * 100 / alone
            );
        }
    }
}

fn senders<'a>(field: &'a Field<'_>) -> Vec<Sends<'a>> {
    let (own, mac) = (field.pod.address, field.pod.mac);
    let to = |to: Ipv4Addr| move |_| Frame::ipv4(mac, udp(own, to, b"flood"));
    vec![
        ("one flow out of range", Box::new(to(INTERNET[1]))),
        (
            "a flow for each packet",
            Box::new(move |number| {
                let [_, _, high, low] = number.to_be_bytes();
                let datagram = [
                    high, low, 0x13, 0x88, 0, 13, 0, 0, b'f', b'l', b'o', b'o', b'd',
                ];
                Frame::ipv4(mac, ipv4(own, INTERNET[1], UDP, &datagram))
            }),
        ),
        ("in range", Box::new(to(PEERED))),
        ("to the victim", Box::new(to(field.neighbour.address))),
        (
            "another's address",
            Box::new(move |_| Frame::ipv4(mac, udp(INTERNET[2], PEERED, b"flood"))),
        ),
        (
            "a MAC for each packet",
            Box::new(move |number| {
                let [a, b, c, d] = number.to_be_bytes();
                Frame::ipv4(Mac([2, 0xee, a, b, c, d]), udp(own, PEERED, b"flood"))
            }),
        ),
        (
            "ARP requests",
            Box::new(move |number| {
                let packet = arp(1, (mac, own), (NOBODY, number.into()));
                Frame::ipv4(mac, packet).to(BROADCAST).kind(ETH_P_ARP)
            }),
        ),
        (
            "IPv6",
            Box::new(move |_| {
                Frame::ipv4(mac, vec![0x60; 60])
                    .to(FABRIC_MAC)
                    .kind(ETH_P_IPV6)
            }),
        ),
    ]
}

/// Of the second pod with the internet, a second.
fn round_trips(field: &Field<'_>) -> u64 {
    let socket = field.pods[1].namespace().run(|| {
        let socket = UdpSocket::bind((field.neighbour.address, 0))?;
        socket.connect(SocketAddrV4::new(INTERNET[0], REPORT_PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok::<_, std::io::Error>(socket)
    });
    let socket = socket.unwrap().unwrap();
    let end = Instant::now() + TIME;
    let mut answers = 0;
    while Instant::now() < end {
        socket.send(b"?").unwrap();
        answers += u64::from(socket.recv(&mut [0; 64]).is_ok());
    }
    answers / TIME.as_secs()
}
