//! Connections of pods that netfilter masquerades (kube-proxy, ip-masq-agent, the documented rule) outlive the takeover.
//!
//! Netfilter forgets what MASQUERADE translated when the device that it leaves by is another one (`nf_nat_masquerade`), and the
//! remote's next segment would be the node's own then: its answer is a reset. For some seconds such segments are dropped
//! instead, until the pod has sent again and connection tracking has picked the connection up (`nf_conntrack_tcp_loose`).

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rtnetlink::packet_route::address::AddressMessage;

use crate::datapath::execute;
use crate::netlink::address;
use crate::state;

const TABLE: &str = "azure-vnet-takeover";

/// There while the table may be.
const MARK: &str = "/run/azure-vnet/takeover-guard.json";

/// A pod's TCP sends again within a second, unless it is idle: then its remote may be reset later, as without a guard.
const SECONDS: u64 = 10;

/// Sets the guard for the node's addresses. It ends by itself: the addresses leave the set. Without nft there is none.
pub fn set(addresses: &[AddressMessage]) {
    let addresses: Vec<String> = addresses
        .iter()
        .filter_map(address::ipv4_net)
        .map(|net| net.addr().to_string())
        .collect();
    if addresses.is_empty() {
        return;
    }
    let script = format!(
        "add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
    set node {{
        type ipv4_addr
        timeout {SECONDS}s
        elements = {{ {} }}
    }}
    chain prerouting {{
        type filter hook prerouting priority -50; policy accept;
        ip daddr @node tcp flags & (syn | rst) == 0 ct state {{ new, invalid }} drop
    }}
}}
",
        addresses.join(", ")
    );
    let written = state::write_json(Path::new(MARK), &SECONDS).and_then(|()| nft(&script));
    if let Err(error) = written {
        tracing::warn!(
            "connections that netfilter masquerades may be reset while this node is taken over: {error}"
        );
    }
}

/// Takes the empty table away when its time is over.
pub fn lift_if_over() {
    let Ok(written) = std::fs::metadata(MARK).and_then(|mark| mark.modified()) else {
        return;
    };
    let age = SystemTime::now().duration_since(written);
    // The clock may have been set meanwhile: the table does nothing any more, or soon.
    if age.is_ok_and(|age| age < Duration::from_secs(SECONDS)) {
        return;
    }
    lift();
}

/// Takes the table away.
pub fn lift() {
    if !Path::new(MARK).exists() {
        return;
    }
    let removed = nft(&format!("add table ip {TABLE}\ndelete table ip {TABLE}\n"));
    if let Err(error) = removed.and_then(|()| state::remove_file(Path::new(MARK))) {
        tracing::warn!("the empty nftables table ip {TABLE} stays: {error}");
    }
}

fn nft(script: &str) -> io::Result<()> {
    let nothing = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    execute("nft", &["-f", "-"], script, nothing).map_err(io::Error::other)
}
