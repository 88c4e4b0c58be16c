//! A node in a namespace: what the tests stand on.

use std::process::Command;
use std::time::{Duration, Instant};

use azure_vnet::netlink::Netlink;
use azure_vnet::netns::NetNs;
use azure_vnet::node::NodeWanted;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

/// MAC of the node's NIC, as Azure gives them out.
pub const NIC_MAC: &str = "00:0d:3a:00:00:04";

/// Runs a test in fresh network and mount namespaces with an empty `/run`. A panic comes through.
pub fn lab(test: impl FnOnce() + Send + 'static) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes network namespaces: run it as root"
    );
    let thread = std::thread::spawn(|| {
        // SAFETY: only sharing file descriptors with other threads is unsafe to give up.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
            .expect("unshare");
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .expect("private mounts");
        rustix::mount::mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)
            .expect("an empty /run");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a future as the plugin does: on a runtime of one thread.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A handle on the namespace of the test.
pub fn netlink() -> Netlink {
    Netlink::current().unwrap()
}

/// `ip` with these arguments; panics with its words if it fails, and returns what it printed.
pub fn ip(arguments: &str) -> String {
    command("ip", arguments)
}

/// Any command, split at spaces.
pub fn command(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

/// Gives the node `eth0` (10.0.0.4/24), connected to the namespace `fabric` (10.0.0.1/24).
pub fn plain_node(mtu: u32) {
    ip("netns add fabric");
    nic(mtu);
    ip("addr add 10.0.0.4/24 brd + dev eth0");
    ip("route add default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100");
}

/// The NIC without an address, and what it is connected to.
pub fn nic(mtu: u32) {
    ip(&format!(
        "link add eth0 address {NIC_MAC} mtu {mtu} type veth \
         peer name port netns fabric mtu {mtu}"
    ));
    ip("-n fabric link set port address 12:34:56:78:9a:bc up");
    ip("-n fabric addr add 10.0.0.1/24 dev port");
    ip("link set eth0 up");
}

/// A node with everything that its network may have: secondary, labelled, expiring, noprefixroute
/// and IPv6 addresses; routes in several tables, with metrics, sources, onlink, several next hops.
pub fn rich_node(mtu: u32) {
    plain_node(mtu);
    ip("link add eth1 type veth peer name other");
    ip("link set eth1 up");
    ip("link set other up");
    await_carrier("other");
    ip("addr add 10.9.0.4/24 dev eth1");
    ip("addr add 10.0.0.5/24 dev eth0 label eth0:1");
    ip("addr add 10.1.0.4/16 dev eth0 metric 50");
    ip("addr add 10.2.0.4/24 dev eth0 noprefixroute scope link");
    ip("addr add 10.3.0.4/24 dev eth0 valid_lft 3600 preferred_lft 1800");
    ip("addr add fd00::4/64 dev eth0 nodad");
    ip("addr add fd00:1::4/64 dev eth0 nodad valid_lft 3600 preferred_lft 0");
    for route in [
        "168.63.129.16 via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100",
        "169.254.169.254 via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100",
        "default via 10.9.0.1 dev eth1 proto dhcp metric 200",
        "172.31.1.1 dev eth0 scope link",
        "172.16.0.0/12 via 172.31.1.1 dev eth0",
        "default via 172.31.9.9 dev eth0 onlink table 200 metric 7",
        "192.0.2.0/24 table 100 nexthop via 10.0.0.1 dev eth0 weight 1 nexthop via 10.9.0.1 dev eth1 weight 3",
        "198.51.100.0/24 via 10.0.0.1 dev eth0 mtu 1400 initcwnd 20",
        "local 203.0.113.0/24 dev eth0 table 300",
        "10.2.0.0/24 dev eth0 proto kernel src 10.2.0.4 metric 77",
        "198.18.0.0/15 via 10.9.0.1 dev eth1 metric 9",
        "prepend 198.18.0.0/15 via 10.0.0.1 dev eth0 metric 9",
        "blackhole 198.51.101.0/24",
    ] {
        match route.strip_prefix("prepend ") {
            Some(route) => ip(&format!("route prepend {route}")),
            None => ip(&format!("route add {route}")),
        };
    }
    ip("-6 route add default via fd00::1 dev eth0 metric 1024 pref high");
    ip("-6 route add 2001:db8::/32 via fd00::1 dev eth0 src fd00::4 expires 3000");
}

/// Waits until the kernel has noted that the link has a carrier, and given it the address that comes with one.
fn await_carrier(link: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !ip(&format!("-6 addr show dev {link}")).contains("fe80") {
        assert!(Instant::now() < deadline, "{link} has no carrier");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Rules that name the NIC, between others of the same priority.
pub fn rules() {
    for rule in [
        "pref 100 from 192.0.2.1 lookup 100",
        "pref 100 iif eth0 lookup 200",
        "pref 100 from 192.0.2.2 lookup 100",
        "pref 200 oif eth0 to 198.51.100.0/24 lookup 300",
        "pref 300 not iif eth0 fwmark 0x1/0xff lookup 300 suppress_prefixlength 0",
        "pref 400 iif eth1 lookup 100",
    ] {
        ip(&format!("rule add {rule}"));
    }
    ip("-6 rule add pref 150 iif eth0 lookup 100");
}

/// All that `ip` says of links, addresses, routes and rules, word for word but for the passing of
/// time, and every kernel setting of the network.
pub fn everything() -> Vec<String> {
    let mut lines = Vec::new();
    for what in [
        "-d addr",
        "-d route show table all",
        "-d -6 route show table all",
        "rule",
        "-6 rule",
        "neigh show nud permanent",
    ] {
        for line in ip(what).lines() {
            lines.push(without_time(&line.split(' ').collect::<Vec<_>>()));
        }
    }
    settings(std::path::Path::new("/proc/sys/net"), &mut lines);
    lines
}

fn settings(place: &std::path::Path, lines: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            settings(&entry, lines);
        // Some may only be written, some count; a secret that is not set is an error.
        } else if let Ok(value) = std::fs::read_to_string(&entry) {
            let counts = ["nf_conntrack_count", "sock_", "dentry"];
            if !counts
                .iter()
                .any(|part| entry.display().to_string().contains(part))
            {
                lines.push(format!("{} = {}", entry.display(), value.trim()));
            }
        }
    }
}

/// The node of the tests, as its configuration says it.
pub fn wanted() -> NodeWanted {
    NodeWanted {
        bridge: Some("azure0".to_owned()),
        master: None,
        mac: None,
        subnet: "10.0.0.0/24".parse().unwrap(),
    }
}

/// Addresses and routes as `ip` shows them, one per line, without what the kernel makes for each
/// address and without the passing of time. Lines keep the order among equal destinations.
pub fn network() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        for line in ip(&format!("{family} -o addr show")).lines() {
            let words: Vec<_> = line.split_whitespace().skip(1).collect();
            if !words.contains(&"link") || family == "-4" {
                lines.push(without_time(&words));
            }
        }
        for line in ip(&format!("{family} -d route show table all")).lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let own = ["local", "broadcast", "anycast", "multicast"].contains(&words[0]);
            let by_itself = own && line.contains("proto kernel") || line.contains("fe80::/64");
            if !by_itself {
                lines.push(without_time(&words));
            }
        }
    }
    lines
}

/// The same network after its move from `from` to `to`.
pub fn moved(network: &[String], from: &str, to: &str) -> Vec<String> {
    let rename = |word: &str| match word.strip_prefix(from) {
        Some("") => to.to_owned(),
        Some(rest) if rest.starts_with(':') => format!("{to}{rest}"),
        _ => word.to_owned(),
    };
    network
        .iter()
        .map(|line| line.split(' ').map(rename).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Compares line by line, in any order, and says only where the two differ.
pub fn assert_same(found: &[String], expected: &[String], when: &str) {
    let without = |these: &[String], those: &[String]| {
        let mut rest = these.to_vec();
        for line in those {
            if let Some(at) = rest.iter().position(|other| other == line) {
                rest.remove(at);
            }
        }
        rest
    };
    let (extra, missing) = (without(found, expected), without(expected, found));
    assert!(
        extra.is_empty() && missing.is_empty(),
        "{when}\nmissing: {missing:#?}\nthere instead: {extra:#?}"
    );
}

fn without_time(words: &[&str]) -> String {
    let mut kept: Vec<String> = Vec::new();
    for word in words {
        // `ip -o` writes this for a line break.
        let word = &word.trim_end_matches('\\');
        let seconds = word
            .strip_suffix("sec")
            .filter(|n| n.parse::<u32>().is_ok());
        match (seconds, *word) {
            // State of the moment, not configuration.
            (_, "linkdown" | "dead" | "") => {}
            (Some(n), _) if n != "0" => kept.push("some-time".to_owned()),
            _ => kept.push((*word).to_owned()),
        }
    }
    kept.join(" ")
}

/// A namespace made with `ip netns add`.
pub fn namespace(name: &str) -> NetNs {
    ip(&format!("netns add {name}"));
    NetNs::open(format!("/run/netns/{name}")).unwrap()
}
