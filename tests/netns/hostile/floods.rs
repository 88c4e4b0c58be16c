//! What a pod floods does not grow, and does not come back.

use std::net::SocketAddrV4;
use std::thread::sleep;
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::{INTERNET, Mac, PEERED};
use azure_vnet_testbed::exchange;
use azure_vnet_testbed::field::{Field, Tier, key, run};
use azure_vnet_testbed::frame::{BROADCAST, Frame, udp};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::PodSpec;
use serde_json::Value;
use socket2::Type;

const LIMIT: Duration = Duration::from_secs(10);

/// How many MACs a pod sends from.
const MACS: u32 = 20_000;

#[test]
fn the_bridge_learns_no_mac() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        let table = || field.run("bridge fdb show br azure0").lines().count();
        let before = table();
        for number in 0..MACS {
            let [a, b, c, d] = number.to_be_bytes();
            let packet = udp(field.pod.address, PEERED, b"flood");
            field
                .pod
                .send(&Frame::ipv4(Mac([2, 0xee, a, b, c, d]), packet));
        }
        field.fence(&field.pod, &mut Vec::new());
        assert_eq!(table(), before, "{tier:?}");
        // The next pod comes, and both have their network.
        let next = field.vm.add_pod(&tier.list(false), &PodSpec::named("next"));
        let next = next.unwrap();
        let internet = SocketAddrV4::new(INTERNET[0], REPORT_PORT);
        for pod in [&next, &field.pods[1]] {
            let seen = exchange::ask(Type::STREAM, pod.namespace(), None, internet).unwrap();
            assert_eq!(seen, field.vm.nic.primary, "{tier:?}");
        }
    }
}

/// A pod that has a bridge of its own, which sends back whatever it is sent, also where that came from.
#[test]
fn no_frame_goes_round() {
    for tier in Tier::WALLED {
        let azure = tier.azure();
        let field = Field::new(&azure, tier);
        let inside = field.pods[0].namespace();
        for line in [
            "ip link add br0 type bridge",
            "ip link set br0 up",
            "ip link set eth0 master br0",
            "bridge link set dev eth0 hairpin on flood on learning off",
        ] {
            run(inside, line);
        }
        let nobody = Mac([2, 0xdd, 0, 0, 0, 1]);
        for to in [BROADCAST, nobody, Mac([0x01, 0, 0x5e, 0, 0, 5])] {
            for _ in 0..16 {
                let packet = udp(field.pod.address, PEERED, &key());
                field.pod.send(&Frame::ipv4(field.pod.mac, packet).to(to));
            }
        }
        let end = Instant::now() + LIMIT;
        let mut last = sent(inside);
        loop {
            sleep(Duration::from_millis(200));
            let now = sent(inside);
            if now == last {
                break;
            }
            assert!(Instant::now() < end, "{tier:?}: {last} frames, then {now}");
            last = now;
        }
        // Those above, and what a stack says by itself.
        assert!(last < 200, "{tier:?}: {last} frames");
        let heard = field.neighbour.tap.frames().unwrap();
        assert!(heard.is_empty(), "{tier:?}: {heard:02x?}");
    }
}

fn sent(inside: &Namespace) -> u64 {
    let text = run(inside, "ip -j -s link show eth0");
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}
