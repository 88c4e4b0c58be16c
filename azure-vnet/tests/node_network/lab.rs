//! A node in a namespace: what the tests stand on.

use std::process::Command;
use std::time::{Duration, Instant};

use azure_vnet::netlink::Netlink;
use azure_vnet::netns::NetNs;
use azure_vnet::node::{self, Node, NodeError, NodeWanted};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

/// MAC of the node's NIC, as Azure gives them out.
pub const NIC_MAC: &str = "00:0d:3a:00:00:04";

/// And of the second, where there are two.
pub const SECOND_MAC: &str = "00:0d:3a:00:01:04";

/// Makes sure of the bridge, as an ADD does first.
pub async fn ensure(netlink: &Netlink, wanted: &NodeWanted) -> Result<Node, NodeError> {
    let (node, _) = node::ensure(netlink, wanted).await?;
    Ok(node)
}

/// Puts right what is not as it should be.
pub async fn mend(netlink: &Netlink) -> Result<(), NodeError> {
    node::mend(netlink).await.1
}

/// Runs a test in fresh network and mount namespaces with an empty `/run`. A panic comes through.
pub fn lab<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
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
        // The links that it shows are those of the namespace that mounts it.
        rustix::mount::mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)
            .expect("the namespace's own /sys");
        ip("link set lo up");
        test()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
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

/// The NIC without an address, and what it is connected to: as Azure does, that delivers what is for a pod to the NIC's MAC.
pub fn nic(mtu: u32) {
    ip(&format!(
        "link add eth0 address {NIC_MAC} mtu {mtu} type veth \
         peer name port netns fabric mtu {mtu}"
    ));
    ip("-n fabric link set port address 12:34:56:78:9a:bc up");
    ip("-n fabric addr add 10.0.0.1/24 dev port");
    for pod in 5..10 {
        ip(&format!(
            "-n fabric neigh replace 10.0.0.{pod} lladdr {NIC_MAC} dev port nud permanent"
        ));
    }
    ip("link set eth0 up");
}

/// A second NIC, `eth1` (10.9.0.4/24), connected to the namespace `fabric` (10.9.0.1/24).
pub fn second_nic() {
    ip(&format!(
        "link add eth1 address {SECOND_MAC} type veth peer name port1 netns fabric"
    ));
    ip("-n fabric link set port1 address 12:34:56:78:9a:bc up");
    ip("-n fabric addr add 10.9.0.1/24 dev port1");
    for pod in 5..10 {
        ip(&format!(
            "-n fabric neigh replace 10.9.0.{pod} lladdr {SECOND_MAC} dev port1 nud permanent"
        ));
    }
    ip("link set eth1 up");
    ip("addr add 10.9.0.4/24 brd + dev eth1");
    ip("route add default via 10.9.0.1 dev eth1 proto dhcp src 10.9.0.4 metric 200");
}

/// What a node's network may have beside what `plain_node` gives it: secondary, labelled, expiring, noprefixroute
/// and IPv6 addresses. `{}` is the link.
pub const ADDRESSES: [&str; 6] = [
    "10.0.0.5/24 dev {} label {}:1",
    "10.1.0.4/16 dev {} metric 50",
    "10.2.0.4/24 dev {} noprefixroute scope link",
    "10.3.0.4/24 dev {} valid_lft 3600 preferred_lft 1800",
    "fd00::4/64 dev {} nodad",
    "fd00:1::4/64 dev {} nodad valid_lft 3600 preferred_lft 0",
];

/// Routes in several tables, with metrics, sources, onlink, several next hops.
pub const ROUTES: [&str; 15] = [
    "route add 168.63.129.16 via 10.0.0.1 dev {} proto dhcp src 10.0.0.4 metric 100",
    "route add 169.254.169.254 via 10.0.0.1 dev {} proto dhcp src 10.0.0.4 metric 100",
    "route replace default via 10.9.0.1 dev eth1 proto dhcp metric 200",
    "route add 172.31.1.1 dev {} scope link",
    "route add 172.16.0.0/12 via 172.31.1.1 dev {}",
    "route add default via 172.31.9.9 dev {} onlink table 200 metric 7",
    "route replace 192.0.2.0/24 table 100 nexthop via 10.0.0.1 dev {} weight 1 nexthop via 10.9.0.1 dev eth1 weight 3",
    "route add 198.51.100.0/24 via 10.0.0.1 dev {} mtu 1400 initcwnd 20",
    "route add local 203.0.113.0/24 dev {} table 300",
    "route add 10.2.0.0/24 dev {} proto kernel src 10.2.0.4 metric 77",
    "route replace 198.18.0.0/15 via 10.9.0.1 dev eth1 metric 9",
    "route prepend 198.18.0.0/15 via 10.0.0.1 dev {} metric 9",
    "route replace blackhole 198.51.101.0/24",
    "-6 route add default via fd00::1 dev {} metric 1024 pref high",
    "-6 route add 2001:db8::/32 via fd00::1 dev {} src fd00::4 expires 3000",
];

/// Rules that name the NIC, between others of the same priority.
pub const RULES: [&str; 7] = [
    "rule add pref 100 from 192.0.2.1 lookup 100",
    "rule add pref 100 iif {} lookup 200",
    "rule add pref 100 from 192.0.2.2 lookup 100",
    "rule add pref 200 oif {} to 198.51.100.0/24 lookup 300",
    "rule add pref 300 not iif {} fwmark 0x1/0xff lookup 300 suppress_prefixlength 0",
    "rule add pref 400 iif eth1 lookup 100",
    "-6 rule add pref 150 iif {} lookup 100",
];

/// A node with everything that its network may have.
pub fn rich_node(mtu: u32) {
    plain_node(mtu);
    ip("link add eth1 type veth peer name other");
    ip("link set eth1 up");
    ip("link set other up");
    await_carrier("other");
    ip("addr add 10.9.0.4/24 dev eth1");
    for address in ADDRESSES {
        ip(&format!("addr add {}", address.replace("{}", "eth0")));
    }
    for route in ROUTES {
        ip(&route.replace("{}", "eth0"));
    }
}

/// Adds the rules.
pub fn rules() {
    for rule in RULES {
        ip(&rule.replace("{}", "eth0"));
    }
}

/// Waits until the kernel has noted that the link has a carrier, and given it the address that comes with one.
fn await_carrier(link: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !ip(&format!("-6 addr show dev {link}")).contains("fe80") {
        assert!(Instant::now() < deadline, "{link} has no carrier");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The links that are up have their carrier, and detection of duplicate IPv6 addresses is over: a picture of the node does not
/// change by itself any more.
pub fn addresses_are_settled() {
    for line in ip("-o link show up").lines() {
        let name = line.split([':', '@']).nth(1).unwrap().trim();
        // A port may have lost its link-local address to a flush.
        if !is_ours(name) && name != "lo" && !line.contains(" master ") {
            await_carrier(name);
        }
    }
    for _ in 0..1000 {
        if !ip("-6 addr show tentative").contains("inet6") {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!(
        "an address stays tentative: {}",
        ip("-6 addr show tentative")
    );
}

/// From now on no link looks for duplicates of its IPv6 addresses, which takes seconds: for what is done a hundred times.
pub fn without_detection() {
    std::fs::write("/proc/sys/net/ipv6/conf/default/dad_transmits", "0").unwrap();
}

fn is_ours(link: &str) -> bool {
    link.starts_with("azure") || link.starts_with("azv")
}

/// All that `ip` says of links, addresses, routes and rules, word for word but for the passing of
/// time, and every kernel setting of the network.
pub fn everything() -> Vec<String> {
    let mut lines = addresses(|_| true);
    lines.extend(the_rest());
    lines
}

fn the_rest() -> Vec<String> {
    let mut lines = Vec::new();
    for what in [
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

/// The part of [`everything`] that is not the plugin's own: without its links, and the routes and rules that lead to them.
pub fn all_but_ours() -> Vec<String> {
    let mut lines = addresses(|link| !is_ours(link));
    lines.extend(the_rest().into_iter().filter(|line| {
        let mut words = line.split([' ', '/']);
        let table = line.split(" lookup ").nth(1);
        let table = table.and_then(|it| it.parse::<u32>().ok()).unwrap_or(0);
        !words.any(is_ours) && !line.contains(" proto 97 ") && table >> 16 != 0x617a
    }));
    lines
}

/// The settings that the plugin has written down, to set them back; by their paths.
pub fn remembered_settings() -> Vec<String> {
    let file = std::fs::read("/run/azure-vnet/settings.json").unwrap_or_default();
    let settings: Vec<serde_json::Value> = serde_json::from_slice(&file).unwrap_or_default();
    let path = |setting: &serde_json::Value| setting["path"].as_str().map(str::to_owned);
    settings.iter().filter_map(path).collect()
}

/// Without the settings that are remembered.
pub fn but_for_settings(mut lines: Vec<String>) -> Vec<String> {
    let remembered = remembered_settings();
    lines.retain(|line| {
        let setting = line.strip_prefix("/proc/sys/");
        let setting = setting.and_then(|line| line.split(" = ").next());
        setting.is_none_or(|path| !remembered.iter().any(|it| it == path))
    });
    lines
}

/// `ip -d addr`, of some links.
fn addresses(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut is_wanted = true;
    let mut lines = Vec::new();
    for line in ip("-d addr").lines() {
        if !line.starts_with(' ') {
            let name = line.split(": ").nth(1).unwrap();
            is_wanted = wanted(name);
        }
        if is_wanted {
            lines.push(without_time(&line.split(' ').collect::<Vec<_>>()));
        }
    }
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

/// Fails if the two are not the same, line for line, in their order.
#[track_caller]
pub fn assert_unchanged(after: &[String], before: &[String], when: &str) {
    assert_same(after, before, when);
    if let Some((is, was)) = after.iter().zip(before).find(|(is, was)| is != was) {
        panic!("{when}: the order is another\n was: {was}\n  is: {is}");
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
#[track_caller]
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

/// Without the passing of time and the state of the moment.
fn without_time(words: &[&str]) -> String {
    let mut kept: Vec<String> = Vec::new();
    let mut words = words.iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word.ends_with("_timer") {
            words.next();
            continue;
        }
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
