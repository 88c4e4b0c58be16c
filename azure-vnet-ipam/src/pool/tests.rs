#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn subnet(prefix: &str, primary: bool, hosts: impl IntoIterator<Item = u8>) -> Subnet {
    let prefix = net(prefix);
    let [a, b, c, _] = prefix.network().octets();
    let addresses = hosts.into_iter().map(|d| Ipv4Addr::new(a, b, c, d));
    Subnet {
        prefix,
        nic: None,
        primary,
        addresses: addresses.collect(),
    }
}

fn pool(subnets: Vec<Subnet>) -> Pool {
    let mut pool = Pool::default();
    pool.refresh(subnets);
    pool
}

fn key(container: usize) -> Key {
    Key::new("azure", &format!("c{container}"), "eth0")
}

fn any() -> Wanted {
    Wanted::default()
}

fn particular(address: Ipv4Addr) -> Particular {
    let by = "ipam.ipAddress";
    Particular { address, by }
}

fn wanted_address(address: &str) -> Wanted {
    Wanted {
        address: Some(particular(ip(address))),
        ..any()
    }
}

#[test]
fn each_attachment_has_its_own_address() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=7)]);
    let keys = [
        Key::new("azure", "c1", "eth0"),
        Key::new("azure", "c1", "eth1"),
        Key::new("other", "c1", "eth0"),
    ];
    let addresses: BTreeSet<_> = keys
        .iter()
        .map(|key| pool.lease(key, &any()).unwrap().address)
        .collect();
    assert_eq!(addresses.len(), 3);
    assert!(pool.release(&keys[0]));
    assert!(pool.held(&keys[1], &any()).unwrap().is_some());
    assert!(pool.held(&keys[2], &any()).unwrap().is_some());
}

#[test]
fn a_repeated_add_gets_the_same_address() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=7)]);
    let first = pool.lease(&key(1), &any()).unwrap();
    assert_eq!(pool.lease(&key(1), &any()), Ok(first.clone()));
    let same = Wanted {
        address: Some(particular(first.address)),
        subnet: Some(first.subnet),
        ..any()
    };
    assert_eq!(pool.lease(&key(1), &same), Ok(first));
    assert!(matches!(
        pool.lease(&key(1), &wanted_address("10.0.0.7")),
        Err(Error::HoldsAnother { .. })
    ));
}

#[test]
fn the_address_free_for_longest_is_next() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=8)]);
    for container in 0..3 {
        pool.lease(&key(container), &any()).unwrap();
    }
    for container in [1, 0, 2] {
        assert!(pool.release(&key(container)));
    }
    let order: Vec<_> = (10..14)
        .map(|container| pool.lease(&key(container), &any()).unwrap().address)
        .collect();
    // .8 was never used; then in the order of their release.
    assert_eq!(
        order,
        ["10.0.0.8", "10.0.0.6", "10.0.0.5", "10.0.0.7"].map(ip)
    );
}

#[test]
fn releasing_the_unknown_is_nothing() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=5)]);
    let before = pool.clone();
    assert!(!pool.release(&key(1)));
    assert_eq!(pool, before);
}

#[test]
fn the_primary_nic_goes_first_then_the_fullest_pool() {
    let mut pool = pool(vec![
        subnet("10.1.0.0/24", false, 10..=11),
        subnet("10.2.0.0/24", false, 10..=12),
        subnet("10.0.0.0/24", true, 10..=10),
    ]);
    let order: Vec<_> = (0..6)
        .map(|container| pool.lease(&key(container), &any()).unwrap().subnet)
        .collect();
    assert_eq!(order[..2], [net("10.0.0.0/24"), net("10.2.0.0/24")]);
    assert_eq!(
        pool.lease(&key(9), &any()),
        Err(Error::Exhausted {
            total: 6,
            in_use: 6,
            gone: 0,
            of_node: 0,
            of_pods: 0,
            out_of_reach: None,
        })
    );
}

#[test]
fn a_wanted_subnet_is_the_only_one_used() {
    let mut pool = pool(vec![
        subnet("10.0.0.0/24", true, 10..=10),
        subnet("10.1.0.0/24", false, 10..=10),
    ]);
    let wanted = Wanted {
        subnet: Some(net("10.1.0.0/24")),
        ..any()
    };
    let lease = pool.lease(&key(1), &wanted).unwrap();
    assert_eq!(lease.address, ip("10.1.0.10"));
    assert!(matches!(
        pool.lease(&key(2), &wanted),
        Err(Error::Exhausted { total: 1, .. })
    ));
    let unknown = Wanted {
        subnet: Some(net("10.9.0.0/24")),
        ..any()
    };
    let error = pool.lease(&key(2), &unknown).unwrap_err().to_string();
    assert!(error.contains("10.9.0.0/24") && error.contains("10.0.0.0/24, 10.1.0.0/24"));
}

#[test]
fn a_wanted_address_or_a_clear_error() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=7)]);
    let lease = pool.lease(&key(1), &wanted_address("10.0.0.6")).unwrap();
    assert_eq!(lease.address_in_subnet(), net("10.0.0.6/24"));
    let error = pool.lease(&key(2), &wanted_address("10.0.0.6"));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("10.0.0.6") && error.contains("c1"),
        "{error}"
    );
    assert_eq!(
        pool.lease(&key(2), &wanted_address("10.0.0.9")),
        Err(Error::UnknownAddress {
            by: "ipam.ipAddress",
            wanted: ip("10.0.0.9")
        })
    );
}

#[test]
fn an_address_that_left_the_nic_stays_with_its_pod_and_is_not_reused() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=6)]);
    let lease = pool.lease(&key(1), &any()).unwrap();
    assert_eq!(lease.address, ip("10.0.0.5"));
    pool.refresh(vec![subnet("10.0.0.0/24", true, 6..=7)]);
    assert_eq!(pool.held(&key(1), &any()), Ok(Some(lease)));
    assert!(pool.release(&key(1)));
    let addresses: Vec<_> = (2..4)
        .map(|container| pool.lease(&key(container), &any()).unwrap().address)
        .collect();
    assert_eq!(addresses, [ip("10.0.0.6"), ip("10.0.0.7")]);
}

#[test]
fn without_addresses_the_error_says_what_to_do() {
    for subnets in [vec![], vec![subnet("10.0.0.0/24", true, [])]] {
        let error = pool(subnets).lease(&key(1), &any()).unwrap_err();
        assert_eq!(error, Error::Empty);
        assert!(error.to_string().contains("ipconfigs"));
    }
}

#[test]
fn what_azure_reserves() {
    let subnet = net("10.0.0.128/29");
    let reserved: Vec<u8> = (128..=135)
        .filter(|host| is_reserved(Ipv4Addr::new(10, 0, 0, *host), subnet))
        .collect();
    assert_eq!(reserved, [128, 129, 130, 131, 135]);
    assert_eq!(gateway(subnet), ip("10.0.0.129"));
    assert!(!is_reserved(ip("10.0.1.0"), net("10.0.0.0/22")));
}

#[test]
fn an_address_of_the_node_is_nobodys() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=7)]);
    let wanted = Wanted {
        observed: Observed {
            node: [ip("10.0.0.5"), ip("10.0.0.7"), ip("127.0.0.1")].into(),
            ..Observed::default()
        },
        ..any()
    };
    assert_eq!(
        pool.lease(&key(1), &wanted).unwrap().address,
        ip("10.0.0.6")
    );
    let error = pool.lease(&key(2), &wanted).unwrap_err();
    assert_eq!(
        error,
        Error::Exhausted {
            total: 3,
            in_use: 1,
            gone: 0,
            of_node: 2,
            of_pods: 0,
            out_of_reach: None,
        }
    );
    assert!(
        error
            .to_string()
            .contains("2 are configured on this node's own links")
    );
    let wanted = Wanted {
        address: Some(particular(ip("10.0.0.7"))),
        ..wanted
    };
    assert!(matches!(
        pool.lease(&key(2), &wanted),
        Err(Error::OnNode { .. })
    ));
}

#[test]
fn an_address_of_a_pod_nobody_recorded_is_not_given_again() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=7)]);
    let observed = Observed {
        pods: [ip("10.0.0.5"), ip("10.0.0.7")].into(),
        ..Observed::default()
    };
    let wanted = Wanted { observed, ..any() };
    let lease = pool.lease(&key(1), &wanted).unwrap();
    assert_eq!(lease.address, ip("10.0.0.6"));
    let error = pool.lease(&key(2), &wanted).unwrap_err().to_string();
    assert!(error.contains("2 by pods that are not recorded"), "{error}");
    let wanted = Wanted {
        address: Some(particular(ip("10.0.0.5"))),
        ..wanted
    };
    assert!(matches!(
        pool.lease(&key(2), &wanted),
        Err(Error::OnUnknownPod { .. })
    ));
}

fn of_nic(subnet: Subnet, mac: &str) -> Subnet {
    let nic = Some(mac.parse().unwrap());
    Subnet { nic, ..subnet }
}

fn wanted_nic(mac: &str) -> Wanted {
    let mac = mac.parse().unwrap();
    let name = "eth1".into();
    Wanted {
        master: Some(Master {
            name,
            mac,
            required: true,
        }),
        ..any()
    }
}

/// Also with both NICs in one subnet, where the subnet says nothing.
#[test]
fn a_wanted_nic_is_the_only_one_used() {
    let (first, second) = ("00:0d:3a:00:00:01", "00:0d:3a:00:00:02");
    let mut pool = pool(vec![
        of_nic(subnet("10.0.0.0/24", true, 5..=9), first),
        of_nic(subnet("10.0.0.0/24", false, 10..=10), second),
    ]);
    let lease = pool.lease(&key(1), &wanted_nic(second)).unwrap();
    assert_eq!(
        (lease.address, lease.nic),
        (ip("10.0.0.10"), second.parse().ok())
    );
    assert_eq!(pool.lease(&key(1), &any()), Ok(lease));
    assert!(matches!(
        pool.lease(&key(2), &wanted_nic(second)),
        Err(Error::Exhausted {
            total: 1,
            in_use: 1,
            ..
        })
    ));
    let lease = pool.lease(&key(2), &any()).unwrap();
    assert_eq!(lease.nic, first.parse().ok());
    let error = pool.held(&key(2), &wanted_nic(second)).unwrap_err();
    assert!(error.to_string().contains("eth1"), "{error}");
    let error = pool.lease(&key(3), &wanted_nic("00:0d:3a:00:00:09"));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("00:0d:3a:00:00:09") && error.contains(second),
        "{error}"
    );
}

/// Two NICs that Azure lists, of which the node has these links and these addresses.
fn of_two_nics(links: &[&str], own: &[&str], is_routed: bool) -> (Pool, Wanted) {
    let pool = pool(vec![
        of_nic(subnet("10.0.0.0/24", true, 5..=5), "00:0d:3a:00:00:01"),
        of_nic(subnet("10.1.0.0/24", false, 5..=6), "00:0d:3a:00:00:02"),
    ]);
    let observed = Observed {
        links: Some(links.iter().map(|mac| mac.parse().unwrap()).collect()),
        node: own.iter().map(|address| ip(address)).collect(),
        ..Observed::default()
    };
    let wanted = Wanted {
        is_routed,
        observed,
        ..any()
    };
    (pool, wanted)
}

/// Another VM's, as after an image was made of a machine that ran; or of a NIC that was taken out.
#[test]
fn addresses_of_a_nic_that_is_not_here_are_not_served() {
    let (mut pool, wanted) = of_two_nics(&["00:0d:3a:00:00:02"], &[], false);
    for container in 1..=2 {
        let lease = pool.lease(&key(container), &wanted).unwrap();
        assert_eq!(lease.subnet, net("10.1.0.0/24"));
    }
    let error = pool.lease(&key(3), &wanted).unwrap_err();
    assert!(error.may_pass());
    let error = error.to_string();
    assert!(
        error.contains("all 2 pod") && error.contains("00:0d:3a:00:00:01"),
        "{error}"
    );
    let report = pool.report(&wanted, 0);
    let counts = |it: &SubnetReport| (it.total, it.in_use, it.unusable, it.free);
    let counts: Vec<_> = report.subnets.iter().map(counts).collect();
    assert_eq!(counts, [(1, 0, 1, 0), (2, 2, 0, 0)]);

    let (mut pool, wanted) = of_two_nics(&["02:00:00:00:00:01"], &[], false);
    let error = pool.lease(&key(1), &wanted).unwrap_err();
    assert!(matches!(error, Error::OutOfReach(OutOfReach::NoNic { .. })));
    assert!(error.may_pass());
    assert_eq!(pool.addresses_of(|_| false).count(), 0);
}

/// The network plugin masquerades with the NIC's own address; another plugin may do without.
#[test]
fn addresses_of_a_nic_without_an_own_one_are_of_no_use_to_the_pair() {
    let links = ["00:0d:3a:00:00:01", "00:0d:3a:00:00:02"];
    let own = ["10.0.0.4", "127.0.0.1"];
    let (mut pool, wanted) = of_two_nics(&links, &own, true);
    assert_eq!(
        pool.lease(&key(1), &wanted).unwrap().address,
        ip("10.0.0.5")
    );
    let error = pool.lease(&key(2), &wanted).unwrap_err().to_string();
    assert!(
        error.contains("all 1 pod") && error.contains("no address of its own there"),
        "{error}"
    );
    let (mut pool, wanted) = of_two_nics(&links, &own, false);
    for container in 1..=3 {
        pool.lease(&key(container), &wanted).unwrap();
    }
}

/// More addresses are no help where those that there are do not come back.
#[test]
fn a_pool_full_of_dead_pods_is_no_reason_for_more_addresses() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=7)]);
    for container in 1..=3 {
        pool.lease(&key(container), &any()).unwrap();
    }
    let observed = Observed {
        gone: [key(1), key(3), key(9)].into(),
        ..Observed::default()
    };
    let wanted = Wanted { observed, ..any() };
    let error = pool.lease(&key(4), &wanted).unwrap_err().to_string();
    assert!(
        error.contains("2 of the attachments are of pods that are gone: `azure-vnet gc`"),
        "{error}"
    );
    assert!(!error.contains("add ipconfigs"), "{error}");
    let report = pool.report(&wanted, 0);
    assert_eq!(report.leases.iter().filter(|lease| lease.gone).count(), 2);
}

/// cloud-init gives the node every address of its NIC.
#[test]
fn what_the_node_has_itself_is_not_counted_as_free() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=9)]);
    pool.lease(&key(1), &any()).unwrap();
    let observed = Observed {
        node: ["10.0.0.4", "10.0.0.6", "10.0.0.7"].map(ip).into(),
        pods: ["10.0.0.5", "10.0.0.8"].map(ip).into(),
        ..Observed::default()
    };
    let wanted = Wanted { observed, ..any() };
    let report = pool.report(&wanted, 0);
    let it = &report.subnets[0];
    assert_eq!(
        (it.total, it.in_use, it.unusable, it.free),
        (5, 2, 2, 1),
        "{report:?}"
    );
    assert_eq!(report.on_node, ["10.0.0.6", "10.0.0.7"].map(ip));
}

/// A macvlan network on a link that Azure knows nothing of.
#[test]
fn a_master_of_another_plugin_need_not_be_a_nic() {
    let first = of_nic(subnet("10.0.0.0/24", true, 5..=5), "00:0d:3a:00:00:01");
    let mut pool = pool(vec![first]);
    let mut wanted = wanted_nic("02:00:00:00:00:01");
    if let Some(master) = &mut wanted.master {
        master.required = false;
    }
    assert!(pool.lease(&key(1), &wanted).is_ok());
    assert!(pool.held(&key(1), &wanted).unwrap().is_some());
}

#[test]
fn a_source_that_names_no_nic_serves_every_master() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=9)]);
    assert!(
        pool.lease(&key(1), &wanted_nic("00:0d:3a:00:00:01"))
            .is_ok()
    );
}

#[test]
fn only_dead_attachments_of_the_network_lose_their_address() {
    let mut pool = pool(vec![subnet("10.0.0.0/24", true, 5..=20)]);
    let [one, other_interface, dead, other_network] = [
        Key::new("azure", "c1", "eth0"),
        Key::new("azure", "c1", "eth1"),
        Key::new("azure", "c2", "eth0"),
        Key::new("other", "c2", "eth0"),
    ];
    for key in [&one, &other_interface, &dead, &other_network] {
        pool.lease(key, &any()).unwrap();
    }
    let valid = [one.clone(), Key::new("azure", "never", "eth0")].into();
    let released = pool.release_all_but("azure", &valid);
    let released: Vec<&Key> = released.iter().map(|lease| &lease.key).collect();
    assert_eq!(released, [&other_interface, &dead]);
    assert!(pool.of(&one).is_some() && pool.of(&other_network).is_some());
    assert_eq!(pool.release_all_but("azure", &valid), []);
    assert_eq!(pool.release_all_but("azure", &BTreeSet::new()).len(), 1);
    assert!(pool.of(&other_network).is_some());
    // The two given back together go back in their order.
    assert_eq!(pool.released[&ip("10.0.0.6")], 1);
    assert_eq!(pool.released[&ip("10.0.0.7")], 2);
}

/// Any sequence of ADD and DEL: no address twice, none lost.
#[test]
fn random_histories_keep_the_books() {
    let mut pool = pool(vec![
        subnet("10.0.0.0/24", true, 4..=20),
        subnet("10.1.0.0/24", false, 4..=20),
    ]);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..5_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = key(usize::from(random.to_le_bytes()[0]) % 50);
        if random & 0x100 == 0 {
            let free = 34 - pool.leases.len();
            let held = pool.held(&key, &any()).unwrap().is_some();
            assert_eq!(pool.lease(&key, &any()).is_ok(), held || free > 0);
        } else {
            pool.release(&key);
        }
        let distinct: BTreeSet<_> = pool.leases.iter().map(|lease| lease.address).collect();
        assert_eq!(distinct.len(), pool.leases.len());
    }
}

/// A record of v0.1.0 may have them.
#[test]
fn addresses_that_no_pod_can_have_are_forgotten() {
    let mut pool = pool(vec![
        subnet("127.0.0.0/8", true, [9]),
        subnet("10.0.0.0/0", true, [9]),
        subnet("10.0.0.0/24", true, [0, 9, 255]),
    ]);
    pool.forget_unfit();
    let left: Vec<Ipv4Addr> = pool.addresses().collect();
    assert_eq!(left, [ip("10.0.0.9")]);
}
