//! Router advertisements, and the IPv6 addresses and routes that the kernel made of them on the bridge of v0.1.0: they go back to
//! the NIC, and are renewed there.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use azure_vnet::netns::NetNs;
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::set_ipv6_multicast_hops;
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket};

use crate::lab::{ip, lab};
use crate::old::old_node;
use crate::pods::settle;

/// What the NIC's MAC makes of the prefix (EUI-64).
const ADDRESS: &str = "2001:db8:5:0:20d:3aff:fe00:4";
const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const LIMIT: Duration = Duration::from_secs(10);

/// A node of v0.1.0 whose router speaks IPv6. Its bridge has the settings of the NIC.
fn node() {
    old_node();
    ip("-n fabric addr add fe80::1/64 dev port nodad");
    ip("-n fabric addr add 2001:db8:5::1/64 dev port nodad");
    for link in ["eth0", "azure0"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"), "1").unwrap();
        until("the link's own address", || !tentative(link));
    }
}

/// The router advertises itself and the prefix, for so many seconds.
fn advertise(seconds: u32) {
    let fabric = NetNs::open("/run/netns/fabric").unwrap();
    fabric.run_in(|| send_advertisement(seconds)).unwrap();
}

/// RFC 4861, section 4.2 and 4.6.2. The kernel writes the checksum.
fn send_advertisement(seconds: u32) {
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(1800_u16.to_be_bytes());
    message.extend([0; 8]);
    // A prefix of 64 bits that is on the link, and to form addresses of.
    message.extend([3, 4, 64, 0xc0]);
    message.extend(seconds.to_be_bytes());
    message.extend(seconds.to_be_bytes());
    message.extend([0; 4]);
    message.extend(PREFIX.octets());
    let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
    set_ipv6_multicast_hops(&socket, 255).unwrap();
    let port = name_to_index(&socket, "port").unwrap();
    let at = |address| SocketAddr::from(SocketAddrV6::new(address, 0, 0, port));
    bind(&socket, &at(ROUTER)).unwrap();
    sendto(&socket, &message, SendFlags::empty(), &at(ALL_NODES)).unwrap();
}

fn until(what: &str, is_true: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_true() {
        assert!(Instant::now() < end, "{what}: {}", ip("-6 addr"));
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tentative(link: &str) -> bool {
    ip(&format!("-6 addr show dev {link} tentative")).contains("inet6")
}

fn has_address(link: &str) -> bool {
    ip(&format!("-6 addr show dev {link}")).contains(ADDRESS)
}

/// The link, and no other, has the address, and all that leads to the router leads over it.
#[track_caller]
fn is_on(link: &str) {
    until("detection of duplicates", || !tentative(link));
    let global = ip("-6 -o addr show scope global");
    assert_eq!(global.lines().count(), 1, "{global}");
    assert!(global.contains(&format!("{link} ")), "{global}");
    let routes = ip("-6 route");
    for line in routes.lines().filter(|line| !line.contains("fe80::/64")) {
        assert!(line.contains(&format!("dev {link} ")), "{routes}");
    }
    assert!(routes.contains("default via fe80::1"), "{routes}");
    is_connected();
}

/// The node is reachable by both protocols.
#[track_caller]
fn is_connected() {
    let fabric = NetNs::open("/run/netns/fabric").unwrap();
    for address in ["10.0.0.4", ADDRESS] {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let connected = fabric
            .run_in(|| TcpStream::connect_timeout(&to, LIMIT))
            .unwrap();
        connected.unwrap_or_else(|error| panic!("{to}: {error}"));
    }
}

fn seconds_left() -> u32 {
    let shown = ip("-6 -o addr show scope global");
    let seconds = shown
        .split("valid_lft ")
        .nth(1)
        .unwrap()
        .split("sec")
        .next();
    seconds
        .unwrap()
        .parse()
        .unwrap_or_else(|_| panic!("{shown}"))
}

#[test]
fn an_address_that_was_formed_on_the_bridge_is_renewed_on_the_nic() {
    lab(|| {
        node();
        advertise(3600);
        until("an address", || has_address("azure0"));
        is_on("azure0");
        settle();
        is_on("eth0");
        for _ in 0..3 {
            advertise(9000);
            until("renewal", || seconds_left() > 3600);
            is_on("eth0");
        }
        assert!(!ip("-6 addr show dev azure0").contains("inet6"));
    });
}

/// Temporary addresses (RFC 8981) are the kernel's to make; none is lost while a connection may have it.
#[test]
fn temporary_addresses_go_along() {
    lab(|| {
        node();
        for link in ["eth0", "azure0"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/use_tempaddr"), "2").unwrap();
        }
        advertise(3600);
        let addresses = |link: &str| -> Vec<String> {
            let shown = ip(&format!("-6 -o addr show dev {link} scope global"));
            let words = shown.lines().map(|line| line.split_whitespace().nth(3));
            words.map(|word| word.unwrap().to_owned()).collect()
        };
        until("two addresses", || addresses("azure0").len() == 2);
        until("detection of duplicates", || !tentative("azure0"));
        let before = addresses("azure0");
        settle();
        assert!(addresses("azure0").is_empty());
        let after = addresses("eth0");
        assert!(
            before.iter().all(|it| after.contains(it)),
            "{before:?}, {after:?}"
        );
        is_connected();
    });
}
