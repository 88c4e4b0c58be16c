//! Does the fabric do what Azure's does, and drop and count what Azure drops?

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use azure_vnet_testbed::address_plan::{FABRIC_MAC, FRONTENDS, INTERNET, PEERED, WIRESERVER};
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::packet_socket::{Observer, packet_socket};
use azure_vnet_testbed::reporter::Reporter;
use azure_vnet_testbed::{Azure, Verdicts, Vm};
use serde_json::Value;
use socket2::Type;

use crate::{REPORT_OF_INTERNET, eventually, ip, know_gateway, send};

#[test]
fn fabric_answers_arp_for_every_address_with_its_mac() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let vm = &azure.vms[0];
    let nobody = Ipv4Addr::new(10, 0, 9, 9);
    for target in [
        nobody,
        azure.vms[1].nic.primary,
        azure.vms[1].nic.pool[0],
        vm.nic.pool[0],
    ] {
        send(vm.namespace(), vm.nic.primary, target);
        let neighbour = eventually(|| lladdr(vm, target));
        assert_eq!(neighbour, FABRIC_MAC.to_string(), "{target}");
    }
    // Only the last target is one of the NIC's own.
    let expected = Verdicts {
        own_arp: 1,
        returned: 1,
        ..Verdicts::default()
    };
    eventually(|| (azure.fabric.verdicts(0).unwrap() == expected).then_some(()));
}

#[test]
fn vm_reaches_everybody_and_everybody_sees_its_primary() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let vm = &azure.vms[1];
    for to in [INTERNET[0], INTERNET[2], PEERED, azure.on_prem.address()] {
        for protocol in [Type::STREAM, Type::DGRAM] {
            let seen = ask(
                protocol,
                vm.namespace(),
                None,
                SocketAddrV4::new(to, REPORT_PORT),
            )
            .unwrap();
            assert_eq!(seen, vm.nic.primary, "{to}");
        }
    }
    assert_eq!(azure.fabric.verdicts(1).unwrap(), Verdicts::default());
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

/// Each NIC is a wire of its own: its addresses are reached there, and are spoofed anywhere else.
#[test]
fn second_nic_has_its_own_addresses_and_filter() {
    let azure = Azure::builder().vms(2).second_nic(3).build().unwrap();
    let vm = &azure.vms[0];
    let second = vm.second_nic.clone().unwrap();
    let from = |rule: &str| {
        ip(vm, rule);
        let peer = SocketAddrV4::new(PEERED, REPORT_PORT);
        ask(Type::DGRAM, vm.namespace(), Some(second.primary), peer)
    };
    // As the VM would have it without a policy route: out of the first NIC.
    assert!(from("route flush cache").is_err());
    assert!(azure.fabric.verdicts(0).unwrap().spoofed() > 0);
    assert_eq!(
        azure.fabric.second_verdicts(0).unwrap(),
        Verdicts::default()
    );
    ip(vm, "route add default via 10.0.16.1 dev eth1 table 16");
    let seen = from(&format!("rule add from {} lookup 16", second.primary));
    assert_eq!(seen.unwrap(), second.primary);
    assert_eq!(
        azure.fabric.second_verdicts(0).unwrap(),
        Verdicts::default()
    );
}

#[test]
fn fabric_delivers_pool_addresses_to_the_nic() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let pod = vm.nic.pool[7];
    ip(vm, &format!("address add {pod}/32 dev lo"));
    let _reporter = Reporter::start(vm.namespace(), &[pod], REPORT_PORT).unwrap();
    let seen = ask(
        Type::STREAM,
        azure.internet.namespace(),
        None,
        SocketAddrV4::new(pod, REPORT_PORT),
    )
    .unwrap();
    assert_eq!(seen, azure.internet.address());
    assert_eq!(
        azure.fabric.leaked().unwrap(),
        0,
        "the reply of a connection that came in is no leak"
    );
}

/// What comes for a load balancer's address is delivered with it, and the VM may answer from there; from nowhere else.
#[test]
fn a_floating_address_is_that_of_one_nic() {
    let azure = Azure::builder().vms(2).build().unwrap();
    azure.balance(0, FRONTENDS[0]).unwrap();
    for vm in &azure.vms {
        ip(vm, &format!("address add {}/32 dev lo", FRONTENDS[0]));
        know_gateway(vm);
    }
    let [one, two] = [0, 1].map(|number| &azure.vms[number]);
    let _reporter = Reporter::start(one.namespace(), &[FRONTENDS[0]], REPORT_PORT).unwrap();
    let to = SocketAddrV4::new(FRONTENDS[0], REPORT_PORT);
    let seen = ask(Type::STREAM, azure.internet.namespace(), None, to).unwrap();
    assert_eq!(seen, azure.internet.address());
    assert_eq!(azure.fabric.verdicts(0).unwrap(), Verdicts::default());
    send(two.namespace(), FRONTENDS[0], INTERNET[0]);
    eventually(|| (azure.fabric.verdicts(1).unwrap().ip == 1).then_some(()));
}

/// Everything that reaches a VM is for its NIC's MAC, from the fabric's, whatever it is sent for and from.
#[test]
fn fabric_delivers_to_the_nics_mac() {
    let azure = Azure::builder().vms(2).build().unwrap();
    azure.balance(0, FRONTENDS[0]).unwrap();
    let vm = &azure.vms[0];
    let observer = vm.namespace().run(|| Observer::start("eth0"));
    let observer = observer.unwrap().unwrap();
    let targets = [vm.nic.primary, vm.nic.pool[0], FRONTENDS[0]];
    for target in targets {
        send(azure.internet.namespace(), INTERNET[0], target);
        send(azure.fabric.namespace(), WIRESERVER, target);
        send(azure.vms[1].namespace(), azure.vms[1].nic.primary, target);
    }
    let addresses = [vm.nic.mac.0, FABRIC_MAC.0].concat();
    let mut arrived = 0;
    eventually(|| {
        let frames = observer.frames().unwrap();
        let frames = frames.iter().map(|(_, frame)| frame);
        for frame in frames.filter(|frame| targets.iter().any(|to| frame[30..34] == to.octets())) {
            assert_eq!(frame[..12], addresses, "{frame:?}");
            arrived += 1;
        }
        (arrived == 9).then_some(())
    });
}

#[test]
fn frames_with_another_mac_are_dropped_and_counted() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    know_gateway(vm);
    ip(vm, "link set eth0 address 00:0d:3a:ff:ff:ff");
    assert!(ask(Type::DGRAM, vm.namespace(), None, REPORT_OF_INTERNET).is_err());
    let verdicts = azure.fabric.verdicts(0).unwrap();
    assert!(verdicts.mac >= 1, "{verdicts:?}");
    assert_eq!(verdicts.spoofed(), verdicts.mac, "{verdicts:?}");
}

#[test]
fn packets_from_an_address_the_nic_does_not_have_are_dropped_and_counted() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let vm = &azure.vms[0];
    know_gateway(vm);
    // One address that nobody has, and one that is another VM's.
    for (count, source) in [
        (1, Ipv4Addr::new(10, 0, 9, 9)),
        (2, azure.vms[1].nic.pool[0]),
    ] {
        ip(vm, &format!("address add {source}/32 dev lo"));
        send(vm.namespace(), source, INTERNET[0]);
        eventually(|| {
            (azure.fabric.verdicts(0).unwrap()
                == Verdicts {
                    ip: count,
                    ..Verdicts::default()
                })
            .then_some(())
        });
    }
}

#[test]
fn arp_from_an_address_the_nic_does_not_have_is_dropped_and_counted() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let stranger = Ipv4Addr::new(10, 0, 9, 9);
    ip(vm, &format!("address add {stranger}/32 dev eth0"));
    send(vm.namespace(), stranger, Ipv4Addr::new(10, 0, 3, 3));
    eventually(|| (azure.fabric.verdicts(0).unwrap().arp >= 1).then_some(()));
}

#[test]
fn global_ipv6_is_dropped_and_counted_and_link_local_only_dropped() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    // A new link-local address and a router solicitation have gone out by now, or will.
    ip(vm, "-6 address add fd00::1/64 dev eth0 nodad");
    ip(
        vm,
        &format!("-6 neighbour add fd00::2 lladdr {FABRIC_MAC} nud permanent dev eth0"),
    );
    let sent = vm
        .namespace()
        .run(|| {
            UdpSocket::bind("[fd00::1]:0")
                .unwrap()
                .send_to(b"x", "[fd00::2]:9")
        })
        .unwrap();
    sent.unwrap();
    eventually(|| (azure.fabric.verdicts(0).unwrap().ip6 >= 1).then_some(()));
    assert_eq!(azure.fabric.verdicts(0).unwrap().mac, 0);
}

#[test]
fn a_pool_address_that_leaves_the_range_is_a_leak() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let pod = vm.nic.pool[0];
    ip(vm, &format!("address add {pod}/32 dev lo"));
    for inside in [PEERED, WIRESERVER] {
        send(vm.namespace(), pod, inside);
    }
    send(vm.namespace(), pod, INTERNET[0]);
    eventually(|| (azure.fabric.leaked().unwrap() >= 1).then_some(()));
    assert_eq!(azure.fabric.leaked().unwrap(), 1);
    assert_eq!(azure.fabric.verdicts(0).unwrap().outside, 1);
}

/// Azure has no tags and drops them, so only a counter at the link can tell.
#[test]
fn a_pool_address_that_leaves_the_range_under_a_tag_is_counted() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let send = |tags: &[u8], destination: Ipv4Addr| {
        let mut frame = [FABRIC_MAC.0, vm.nic.mac.0].concat();
        frame.extend(tags);
        frame.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend(vm.nic.pool[0].octets());
        frame.extend(destination.octets());
        frame.extend([0; 20]);
        let socket = vm.namespace().run(|| packet_socket("eth0"));
        socket.unwrap().unwrap().send(&frame).unwrap();
    };
    let counted = |outside: u64, stacked: u64| {
        eventually(|| {
            let verdicts = azure.fabric.verdicts(0).unwrap();
            (verdicts
                == Verdicts {
                    outside,
                    stacked,
                    ..Verdicts::default()
                })
            .then_some(())
        });
    };
    for inside in [PEERED, WIRESERVER] {
        send(&[0x81, 0, 0, 5], inside);
    }
    send(&[0x81, 0, 0, 5], INTERNET[0]);
    counted(1, 0);
    send(&[0x88, 0xa8, 0, 5], INTERNET[0]);
    counted(2, 0);
    send(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], INTERNET[0]);
    counted(2, 1);
}

/// What the VM's kernel learnt by ARP.
fn lladdr(vm: &Vm, target: Ipv4Addr) -> Option<String> {
    let text = vm
        .program("ip")
        .unwrap()
        .args(["-j", "neighbour", "show", "to", &target.to_string()])
        .checked()
        .unwrap();
    let neighbours: Value = serde_json::from_str(&text).unwrap();
    neighbours[0]["lladdr"].as_str().map(str::to_owned)
}
