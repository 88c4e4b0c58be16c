//! Flows of the netfilter tier: what connection tracking translates for the pods.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::Ipv4Addr;

use super::super::Failure;
use super::{Flow, Kind, Protocol, State};

const TABLE: &str = "/proc/net/nf_conntrack";

/// The connections of `pods` that leave with another address than theirs.
pub fn read(bridge: &str, pods: &BTreeSet<Ipv4Addr>) -> Result<Vec<Flow>, Failure> {
    let table = match std::fs::File::open(TABLE) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Failure::new(format!(
                "flows of the netfilter tier are in connection tracking, which this kernel does not show in {TABLE}: \
                 `conntrack -L --src-nat` does"
            )));
        }
        Err(error) => return Err(Failure::new(format!("cannot read {TABLE}: {error}"))),
    };
    let lines = table.lines().map_while(Result::ok);
    Ok(lines.filter_map(|line| flow(bridge, &line, pods)).collect())
}

/// One line: protocol, timeout, state (TCP only), the tuple of the first packet, then that of replies.
fn flow(bridge: &str, line: &str, pods: &BTreeSet<Ipv4Addr>) -> Option<Flow> {
    let mut words = line.split_whitespace();
    if words.next()? != "ipv4" {
        return None;
    }
    let protocol = Protocol::of_number(words.nth(2)?.parse().ok()?)?;
    let expires_seconds = words.next()?.parse().ok()?;
    let values = |key: &str| {
        let pairs = line
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        let key = key.to_owned();
        let mut values = pairs
            .filter(move |(name, _)| *name == key)
            .map(|(_, value)| value);
        Some((values.next()?, values.next()?))
    };
    let port = |text: &str| text.parse::<u16>().ok();
    let (pod, _) = values("src")?;
    let (remote, seen_as) = values("dst")?;
    let (pod, seen_as): (Ipv4Addr, Ipv4Addr) = (pod.parse().ok()?, seen_as.parse().ok()?);
    if !pods.contains(&pod) || pod == seen_as {
        return None;
    }
    let (pod_port, remote_port, seen_port) = if protocol == Protocol::Icmp {
        let (sent, answered) = values("id")?;
        (port(sent)?, 0, port(answered)?)
    } else {
        let (source, _) = values("sport")?;
        let (destination, seen) = values("dport")?;
        (port(source)?, port(destination)?, port(seen)?)
    };
    Some(Flow {
        bridge: bridge.to_owned(),
        protocol,
        pod,
        pod_port,
        remote: remote.parse().ok()?,
        remote_port,
        kind: Kind::Masqueraded,
        seen_as,
        seen_port,
        state: if protocol == Protocol::Tcp {
            tcp(words.next()?)
        } else {
            State::Active
        },
        idle_seconds: None,
        expires_seconds,
    })
}

/// `tcp_conntrack_names` of the kernel's `nf_conntrack_proto_tcp.c`.
fn tcp(name: &str) -> State {
    match name {
        "SYN_SENT" | "SYN_RECV" | "SYN_SENT2" => State::Opening,
        "ESTABLISHED" => State::Established,
        _ => State::Closing,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn parse(line: &str) -> Option<Flow> {
        flow(
            "azure0",
            line,
            &BTreeSet::from([Ipv4Addr::new(10, 0, 0, 5)]),
        )
    }

    #[test]
    fn a_translated_connection_of_a_pod_is_a_flow() {
        let flow = parse(
            "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.5 dst=203.0.113.10 sport=41000 dport=80 \
             src=203.0.113.10 dst=10.0.0.4 sport=80 dport=41001 [ASSURED] mark=0 zone=0 use=2",
        );
        let flow = flow.unwrap();
        assert_eq!(
            (flow.pod_port, flow.remote_port, flow.seen_port),
            (41000, 80, 41001)
        );
        assert_eq!(flow.seen_as, Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!(
            (flow.state, flow.expires_seconds),
            (State::Established, 431_999)
        );
    }

    #[test]
    fn an_echo_has_identifiers() {
        let flow = parse(
            "ipv4     2 icmp     1 29 src=10.0.0.5 dst=203.0.113.10 type=8 code=0 id=7 \
             src=203.0.113.10 dst=10.0.0.4 type=0 code=0 id=9 mark=0 use=1",
        );
        let flow = flow.unwrap();
        assert_eq!((flow.pod_port, flow.remote_port, flow.seen_port), (7, 0, 9));
    }

    #[test]
    fn what_is_not_translated_or_not_a_pods_is_none() {
        for line in [
            "",
            "ipv6     10 tcp      6 9 ESTABLISHED src=::1 dst=::1 sport=1 dport=2 src=::1 dst=::1 sport=2 dport=1",
            "ipv4     2 udp      17 9 src=10.0.0.5 dst=10.0.0.6 sport=1 dport=2 src=10.0.0.6 dst=10.0.0.5 sport=2 dport=1",
            "ipv4     2 udp      17 9 src=10.0.0.9 dst=1.1.1.1 sport=1 dport=2 src=1.1.1.1 dst=10.0.0.4 sport=2 dport=1",
            "ipv4     2 udp      17 9 src=10.0.0.5 dst=1.1.1.1 sport=1",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
