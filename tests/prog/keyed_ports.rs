//! Which port a flow gets follows from a secret: what a pod sees of its own ports tells nothing about another's (RFC 6056).

use std::collections::BTreeSet;

use azure_vnet_abi::{Secret, programs};

use crate::flows::Tuple;
use crate::harness::{Node, Verdict};
use crate::packet::{End, UDP, udp};
use crate::plan::{DATABASE, PORTS, Pod, REMOTE, WEB};

const REMOTE_END: End = (REMOTE, 53);
const ONE: Secret = Secret([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
const ANOTHER: Secret = Secret([0x0706_0504_0302_0101, 0x0f0e_0d0c_0b0a_0908]);

/// Begins a flow from a port outside the range; says which it got, and when it began.
fn begins(node: &Node, pod: &Pod, port: u16) -> (u16, u32) {
    let packet = udp((pod.address, port), REMOTE_END).of(pod).bytes();
    let (verdict, _) = node.run(programs::TO_UPLINK, &packet);
    assert_eq!(verdict, Verdict::Passes);
    let flow = node.flow(Tuple::udp((pod.address, port), REMOTE_END));
    (flow.port.to_host(), flow.last_seen)
}

/// The port that a flow is given that begins at `now`, if nobody has that.
fn expected(secret: Secret, pod: &Pod, port: u16, now: u32) -> u16 {
    let mut message = Vec::new();
    message.extend(pod.address.octets());
    message.extend(REMOTE_END.0.octets());
    message.extend(port.to_be_bytes());
    message.extend(REMOTE_END.1.to_be_bytes());
    message.extend([UDP, 0, 0, 0]);
    message.extend(now.to_ne_bytes());
    let place = siphash(secret, &message) & u64::from(u32::MAX);
    let size = u64::try_from(PORTS.len()).unwrap();
    PORTS.start() + u16::try_from(place % size).unwrap()
}

/// Sixty ports of one pod were enough to foretell every one of another's. Now each is a function of the secret alone, and
/// nothing in it is the kernel's linear generator.
#[test]
fn a_port_is_the_keyed_hash_of_its_flow_and_of_when_it_begins() {
    for secret in [ONE, ANOTHER] {
        let mut node = Node::new();
        node.set_secret(secret);
        let mut taken = BTreeSet::new();
        let mut foretold = 0;
        for turn in 0..60 {
            let pod = [WEB, DATABASE][turn % 2];
            let local = 1000 + u16::try_from(turn).unwrap();
            let (port, now) = begins(&node, &pod, local);
            let first = expected(secret, &pod, local, now);
            // Whoever was there before has pushed it on by a few.
            if !taken.contains(&first) {
                assert_eq!(port, first, "{local} at {now}");
                foretold += 1;
            }
            taken.insert(port);
        }
        assert!(foretold > 40, "{foretold} of 60 met no other flow");
    }
}

/// With the secret of one node nothing is foretold on another.
#[test]
fn another_secret_chooses_other_ports() {
    let mut node = Node::new();
    node.set_secret(ONE);
    let hits = (1000..1060)
        .filter(|local| {
            let (port, now) = begins(&node, &WEB, *local);
            port == expected(ANOTHER, &WEB, *local, now)
        })
        .count();
    // One in a thousand by chance.
    assert!(hits < 5, "{hits} of 60 ports follow from another secret");
}

/// SipHash-2-4 of a message of some bytes, as its paper has it.
fn siphash(Secret([first, second]): Secret, message: &[u8]) -> u64 {
    let mut v = [
        first ^ 0x736f_6d65_7073_6575,
        second ^ 0x646f_7261_6e64_6f6d,
        first ^ 0x6c79_6765_6e65_7261,
        second ^ 0x7465_6462_7974_6573,
    ];
    let mut padded = message.to_vec();
    padded.resize(message.len() / 8 * 8 + 7, 0);
    padded.push(u8::try_from(message.len() % 256).unwrap());
    for word in padded.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().unwrap());
        v[3] ^= word;
        (0..2).for_each(|_| sip_round(&mut v));
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| sip_round(&mut v));
    v.into_iter().fold(0, |sum, part| sum ^ part)
}

fn sip_round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// Appendix A of the paper.
#[test]
fn the_hash_is_the_one_of_the_paper() {
    let message: Vec<u8> = (0..15).collect();
    assert_eq!(siphash(ONE, &message), 0xa129_ca61_49be_45e5);
}
