//! Beside a resolver on the node (`NodeLocal` `DNSCache`) and the addresses of Services that kube-proxy's IPVS puts there: addresses on
//! links of the node that are down, as both leave theirs. The original plugin wants such addresses listed (`ipsToRouteViaHost`).

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::WIRESERVER;
use azure_vnet_testbed::dns::WHOAMI;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::process::Running;
use azure_vnet_testbed::{Azure, Vm};
use serde_json::json;

use super::{WAYS, assert_clean, list, restore, run};

/// What the resolver has, and a Service's.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

const ATTEMPT: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_mins(1);

/// What the resolver knows itself: the server that it asks takes no questions by TCP.
const KNOWN: (&str, Ipv4Addr) = ("known.test", Ipv4Addr::new(192, 0, 2, 53));

/// A question for the address of a name: RFC 1035, section 4.1.
fn question(name: &str) -> Vec<u8> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    question
}

/// The address that an answer ends with.
fn address_in(answer: &[u8]) -> io::Result<Ipv4Addr> {
    let has_one = answer.get(..2) == Some(&[0x12, 0x34]) && answer.get(6..8) == Some(&[0, 1]);
    match answer.last_chunk() {
        Some(&bytes) if has_one => Ok(Ipv4Addr::from_octets(bytes)),
        _ => Err(io::Error::other(format!("strange answer {answer:?}"))),
    }
}

fn by_udp(server: SocketAddr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Takes nothing from another address than the one that was asked.
    socket.connect(server)?;
    socket.set_read_timeout(Some(ATTEMPT))?;
    socket.send(&question(WHOAMI))?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    address_in(&answer[..length])
}

fn by_tcp(server: SocketAddr) -> io::Result<Ipv4Addr> {
    let mut stream = TcpStream::connect_timeout(&server, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    let question = question(KNOWN.0);
    let length = u16::try_from(question.len()).unwrap();
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&question)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    address_in(&answer)
}

/// The answer. A busy machine may take its time.
fn resolved(
    from: &Namespace,
    ask: fn(SocketAddr) -> io::Result<Ipv4Addr>,
    at: Ipv4Addr,
) -> Ipv4Addr {
    let server = SocketAddrV4::new(at, 53).into();
    let end = Instant::now() + LIMIT;
    loop {
        match from.run(|| ask(server)).unwrap() {
            Ok(address) => return address,
            Err(error) if Instant::now() > end => panic!("{server}: {error}"),
            Err(_) => {}
        }
    }
}

/// The links, and what `NodeLocal` `DNSCache` has in iptables: no connection tracking for what is asked of it.
fn prepare(vm: &Vm) -> Running {
    for (link, address) in [("nodelocaldns", RESOLVER), ("kube-ipvs0", SERVICE)] {
        run(
            vm,
            &format!("ip link add {link} type veth peer name {link}-"),
        );
        run(vm, &format!("ip address add {address}/32 dev {link}"));
    }
    let rules = |table: &str, rules: &[String]| format!("*{table}\n{}\nCOMMIT\n", rules.join("\n"));
    let untracked = ["udp", "tcp"].map(|protocol| {
        format!(
            "-A PREROUTING -d {RESOLVER} -p {protocol} --dport 53 -j CT --notrack\n\
             -A OUTPUT -s {RESOLVER} -p {protocol} --sport 53 -j CT --notrack"
        )
    });
    restore(vm, &rules("raw", &untracked));
    let accepted = ["udp", "tcp"].map(|protocol| {
        format!(
            "-A INPUT -d {RESOLVER} -p {protocol} --dport 53 -j ACCEPT\n\
             -A OUTPUT -s {RESOLVER} -p {protocol} --sport 53 -j ACCEPT"
        )
    });
    restore(vm, &rules("filter", &accepted));
    let dnsmasq = vm.program("dnsmasq").unwrap().args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--cache-size=0",
        "--bind-interfaces",
        "--except-interface=lo",
    ]);
    let dnsmasq = dnsmasq
        .arg(format!("--host-record={},{}", KNOWN.0, KNOWN.1))
        .arg(format!("--server={WIRESERVER}"))
        .arg(format!("--listen-address={RESOLVER}"))
        .arg(format!("--listen-address={SERVICE}"));
    dnsmasq.start().unwrap()
}

fn pods_resolve(mut azure: Azure, way: (&str, bool), without_nft: bool) {
    if without_nft {
        azure.vms[0].replace_programs(&[("nft", None)]).unwrap();
    }
    let azure = &azure;
    let vm = &azure.vms[0];
    let list = list(way);
    // One that was there before the resolver, and one that the key of the original's lists comes with.
    let before = vm.add_pod(&list, &PodSpec::named("before")).unwrap();
    let _dnsmasq = prepare(vm);
    let listed = json!([RESOLVER.to_string()]);
    let list = list.with_setting("azure-vnet", "ipsToRouteViaHost", &listed);
    let after = vm.add_pod(&list, &PodSpec::named("after")).unwrap();
    for pod in [&before, &after] {
        for server in [RESOLVER, SERVICE] {
            // Often enough for a fast path to come into being.
            for _ in 0..4 {
                // The resolver's own server says whom it took the question to come from.
                let seen = resolved(pod.namespace(), by_udp, server);
                assert_eq!(seen, vm.nic.primary, "{way:?}, {server}");
                let known = resolved(pod.namespace(), by_tcp, server);
                assert_eq!(known, KNOWN.1, "{way:?}, {server}");
            }
        }
    }
    assert_clean(azure);
    let log = vm.namespace();
    let log = log.run(|| std::fs::read_to_string("/var/log/azure-vnet.log"));
    let log = log.unwrap().unwrap();
    let said = log.matches("ipsToRouteViaHost").count();
    assert_eq!(said, 1, "{log}");
}

#[test]
fn pods_resolve_at_a_node_local_address() {
    for way in WAYS {
        pods_resolve(Azure::builder().build().unwrap(), way, false);
    }
}

#[test]
fn pods_resolve_at_a_node_local_address_without_nft() {
    let way = ("netfilter", false);
    pods_resolve(Azure::builder().build().unwrap(), way, true);
}
