//! Packets for an address of the pool that no pod has: no pod's fault, and no way round the wall.

use std::net::{Ipv4Addr, UdpSocket};

use azure_vnet_testbed::field::{Field, Seen, Tier, key};
use azure_vnet_testbed::frame::PORT;

/// They stay on the node and are counted, but by iptables, whose chains of others may come before or after ours.
#[test]
fn what_comes_for_a_free_address_is_dropped_and_counted() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        let free = field.vm.nic.pool[20];
        let internet = azure.internet.address();
        // That is where they come by.
        let kept = Seen::NOWHERE.and_fabric(internet);
        let before = azure.fabric.verdicts(0).unwrap();
        let arrives = |expected| {
            let key = key();
            let send = || {
                let socket = azure.internet.namespace();
                let socket = socket.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
                let socket = socket.unwrap().unwrap();
                socket.send_to(&key, (free, PORT)).unwrap();
            };
            let seen = field.seen_of(&key, send, expected);
            assert_eq!(seen, expected, "{tier:?}");
        };
        for _ in 0..3 {
            arrives(kept);
        }
        let counts = tier != Tier::Iptables;
        if counts {
            assert_eq!(field.passed("free_address"), 3, "{tier:?}");
        }
        let after = azure.fabric.verdicts(0).unwrap();
        assert_eq!(after.spoofed(), before.spoofed(), "{tier:?}");
        assert_eq!(after.returned, before.returned, "{tier:?}");
        // Somebody has a use for it: a load balancer on this node.
        let pod = field.neighbour.address;
        field.run(&format!(
            "iptables -t nat -A PREROUTING -d {free} -j DNAT --to-destination {pod}"
        ));
        arrives(kept.and_neighbour(internet));
        if tier == Tier::Nft {
            assert_eq!(field.passed("free_address"), 3, "{tier:?}");
        }
    }
}
