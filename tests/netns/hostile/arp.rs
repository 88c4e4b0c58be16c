//! What a pod may ask and say by ARP: it asks with its own address, and the router answers for everybody.

use std::net::Ipv4Addr;

use azure_vnet_testbed::address_plan::{FABRIC_MAC, GATEWAY, INTERNET, Mac};
use azure_vnet_testbed::field::{Field, Sender, Tier};
use azure_vnet_testbed::frame::{BROADCAST, ETH_P_ARP, Frame, NOBODY, arp, is_arp, source_of};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// What becomes of an ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It does not come to the router.
    Dropped,
    /// It does, and nobody answers.
    Heard,
    /// The router answers, with its own MAC.
    Answered,
}

#[test]
fn a_pod_asks_and_says_nothing() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        let (pod, other) = (&field.pod, &field.neighbour);
        let own = pod.address;
        for (name, to, operation, source, asked, expected) in cases(&field) {
            let fate = fate(&field, pod, to, (operation, source, asked));
            assert_eq!(fate, expected, "{tier:?}: {name}");
        }
        let packet = arp(REQUEST, (pod.mac, own), (NOBODY, GATEWAY));
        let frame = Frame::ipv4(pod.mac, packet).to(BROADCAST).kind(ETH_P_ARP);
        let (heard, answers) = field.arp(pod, &frame.tagged(0x8100, 0));
        assert!(heard.is_empty() && answers.is_empty(), "{tier:?}: tagged");
        let of_group = Mac([0xd3, 0, 0, 0, 0, 1]);
        let packet = arp(REQUEST, (of_group, own), (NOBODY, GATEWAY));
        let frame = Frame::ipv4(pod.mac, packet).to(BROADCAST).kind(ETH_P_ARP);
        let (heard, answers) = field.arp(pod, &frame);
        assert!(
            heard.is_empty() && answers.is_empty(),
            "{tier:?}: a group asks"
        );
        let at_other = other.tap.frames().unwrap();
        assert!(!at_other.iter().any(|it| is_arp(it)), "{tier:?}: all hear");
        if tier.is_ebpf() {
            // A port that is nobody's has no program.
            continue;
        }
        let stranger = &field.stranger;
        let as_pod = (REQUEST, own, other.address);
        assert_eq!(
            fate(&field, stranger, BROADCAST, as_pod),
            Fate::Dropped,
            "{tier:?}: a stranger as a pod"
        );
    }
}

type Case = (&'static str, Mac, u8, Ipv4Addr, Ipv4Addr, Fate);

fn cases(field: &Field<'_>) -> Vec<Case> {
    use Fate::{Answered, Dropped, Heard};
    let (pod, other) = (&field.pod, &field.neighbour);
    let (own, node, nic) = (pod.address, field.vm.nic.primary, field.vm.nic.mac);
    let nobody = Ipv4Addr::UNSPECIFIED;
    let group = Mac([0x01, 0, 0x5e, 0, 0, 1]);
    // The programs answer themselves; behind rules it is the kernel that does, and that does not mind.
    let gratuitous = if field.tier.is_ebpf() { Dropped } else { Heard };
    vec![
        (
            "for the gateway",
            BROADCAST,
            REQUEST,
            own,
            GATEWAY,
            Answered,
        ),
        (
            "for a pod",
            BROADCAST,
            REQUEST,
            own,
            other.address,
            Answered,
        ),
        (
            "for the internet",
            BROADCAST,
            REQUEST,
            own,
            INTERNET[0],
            Answered,
        ),
        ("for the node", BROADCAST, REQUEST, own, node, Answered),
        (
            "by a pod's MAC",
            other.mac,
            REQUEST,
            own,
            other.address,
            Answered,
        ),
        ("by the NIC's MAC", nic, REQUEST, own, node, Answered),
        (
            "by the router's MAC",
            FABRIC_MAC,
            REQUEST,
            own,
            GATEWAY,
            Answered,
        ),
        (
            "as another pod",
            BROADCAST,
            REQUEST,
            other.address,
            GATEWAY,
            Dropped,
        ),
        (
            "as the gateway",
            BROADCAST,
            REQUEST,
            GATEWAY,
            other.address,
            Dropped,
        ),
        (
            "as the node",
            BROADCAST,
            REQUEST,
            node,
            other.address,
            Dropped,
        ),
        (
            "a reply as itself",
            BROADCAST,
            REPLY,
            own,
            other.address,
            Dropped,
        ),
        (
            "a reply as another",
            FABRIC_MAC,
            REPLY,
            other.address,
            GATEWAY,
            Dropped,
        ),
        ("gratuitous", BROADCAST, REQUEST, own, own, gratuitous),
        ("a probe", BROADCAST, REQUEST, nobody, own, Dropped),
        ("to a group", group, REQUEST, own, GATEWAY, Dropped),
    ]
}

fn fate(
    field: &Field<'_>,
    from: &Sender,
    to: Mac,
    (operation, source, asked): (u8, Ipv4Addr, Ipv4Addr),
) -> Fate {
    let packet = arp(operation, (from.mac, source), (NOBODY, asked));
    let frame = Frame::ipv4(from.mac, packet).to(to).kind(ETH_P_ARP);
    let (heard, answers) = field.arp(from, &frame);
    let answer = answers.iter().find(|frame| source_of(frame) == Some(asked));
    if let Some(answer) = answer {
        assert_eq!(answer[22..28], FABRIC_MAC.0, "who answers for {asked}");
        return Fate::Answered;
    }
    if heard.iter().any(|frame| source_of(frame) == Some(source)) {
        Fate::Heard
    } else {
        Fate::Dropped
    }
}
