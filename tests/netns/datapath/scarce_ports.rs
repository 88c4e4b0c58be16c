//! A node with few ports for masquerading, and real sockets that want them all.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Instant;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use serde_json::{Value, json};

use super::{LIMIT, REPORT_OF_INTERNET, list, status};

fn ports(first: u16, last: u16) -> Value {
    json!({ "datapath": "ebpf", "ports": format!("{first}-{last}") })
}

pub fn server(azure: &Azure) -> UdpSocket {
    let bind = || UdpSocket::bind((INTERNET[0], 0));
    let socket = azure.internet.namespace().run(bind).unwrap().unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// A socket of a pod that is connected to `server`, so that it hears of errors.
pub fn client(namespace: &Namespace, server: &UdpSocket) -> UdpSocket {
    client_on(0, namespace, server)
}

/// The same on a port of its choice.
pub fn client_on(port: u16, namespace: &Namespace, server: &UdpSocket) -> UdpSocket {
    let to = server.local_addr().unwrap();
    let connect = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.connect(to)?;
        io::Result::Ok(socket)
    };
    let socket = namespace.run(connect).unwrap().unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Sends a datagram and gets an answer; the port that it was seen to come from.
pub fn exchange(client: &UdpSocket, server: &UdpSocket) -> io::Result<u16> {
    client.send(b"who am I?")?;
    let (_, from) = server.recv_from(&mut [0; 16])?;
    server.send_to(b"you are", from)?;
    client.recv(&mut [0; 16])?;
    Ok(from.port())
}

/// What a datagram comes to for which there is no port.
pub fn refused(client: &UdpSocket) -> io::Error {
    client.send(b"is there room?").unwrap();
    client.recv(&mut [0; 16]).unwrap_err()
}

pub fn packets(azure: &Azure, reason: &str) -> u64 {
    let status = status(&azure.vms[0]);
    let counters = status["counters"].as_array().unwrap();
    let counter = counters.iter().find(|counter| counter["reason"] == reason);
    counter.unwrap()["packets"].as_u64().unwrap()
}

/// Not after minutes of silence: UDP, and a TCP connection, which has ports of its own, hear at once that
/// there is no port.
#[test]
fn without_a_port_the_pod_is_told_at_once() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = list(&ports(20_000, 20_007));
    let pods = ["one", "two"].map(|name| vm.add_pod(&list, &PodSpec::named(name)).unwrap());
    let server = server(&azure);
    let of_each = |pod: &Pod<'_>| [(); 4].map(|()| client(pod.namespace(), &server));
    let clients: Vec<_> = pods.iter().flat_map(of_each).collect();
    let mut seen: Vec<_> = clients
        .iter()
        .map(|client| exchange(client, &server).unwrap())
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (20_000..=20_007).collect::<Vec<_>>());

    let one_more = client(pods[0].namespace(), &server);
    assert_eq!(refused(&one_more).kind(), io::ErrorKind::HostUnreachable);

    let connections: Vec<_> = (0..8).map(|_| connect(&pods[1]).unwrap()).collect();
    let begun = Instant::now();
    let error = connect(&pods[0]).unwrap_err();
    assert_eq!(
        error.kind(),
        io::ErrorKind::HostUnreachable,
        "{:?}",
        begun.elapsed()
    );
    drop(connections);

    // Those who have a port go on, and another destination has ports of its own.
    for client in &clients {
        exchange(client, &server).unwrap();
    }
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

fn connect(pod: &Pod<'_>) -> io::Result<TcpStream> {
    let to = SocketAddr::from(REPORT_OF_INTERNET);
    let connect = || TcpStream::connect_timeout(&to, LIMIT);
    pod.namespace().run(connect).unwrap()
}

/// More ports than one packet looks at, and one of them is of a pod that goes: another pod gets it, although it was
/// known just before that there is none.
#[test]
fn the_port_of_a_pod_that_is_gone_is_found() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = list(&ports(20_000, 20_599));
    let [greedy, leaving, other] = ["greedy", "leaving", "other"]
        .map(|name| vm.add_pod(&list, &PodSpec::named(name)).unwrap());
    let server = server(&azure);
    let holder = client(leaving.namespace(), &server);
    let port = exchange(&holder, &server).unwrap();
    server.set_read_timeout(Some(LIMIT / 50)).unwrap();
    // Answered, or they would give way.
    let _many: Vec<_> = (1..600)
        .map(|_| {
            let client = client(greedy.namespace(), &server);
            // A search may take several packets.
            let gets_through = |_| exchange(&client, &server).is_ok();
            assert!((0..3).any(gets_through));
            client
        })
        .collect();
    let client = client(other.namespace(), &server);
    assert_eq!(
        refused_in_the_end(&client).kind(),
        io::ErrorKind::HostUnreachable
    );
    assert!(packets(&azure, "port_search_goes_on") > 0);
    leaving.delete().unwrap();
    let seen = (0..3).find_map(|_| exchange(&client, &server).ok());
    assert_eq!(seen, Some(port));
}

/// The packets before the last look at the other ports.
fn refused_in_the_end(client: &UdpSocket) -> io::Error {
    client.set_read_timeout(Some(LIMIT / 50)).unwrap();
    let error = (0..3)
        .map(|_| refused(client))
        .find(|error| error.kind() != io::ErrorKind::WouldBlock);
    client.set_read_timeout(Some(LIMIT)).unwrap();
    error.unwrap()
}

/// With the timeout that the configuration asks for, as of the ADD that brought it: 5 s, where the default is two minutes.
#[test]
fn a_port_is_free_when_the_configured_time_is_over() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let mut masquerade = ports(20_000, 20_000);
    let before = list(&masquerade);
    masquerade["timeouts"] = json!({ "udp": 5 });
    let after = list(&masquerade);
    vm.add_pod(&before, &PodSpec::named("before")).unwrap();
    let [holder, waiting] =
        ["holder", "waiting"].map(|name| vm.add_pod(&after, &PodSpec::named(name)).unwrap());
    let server = server(&azure);
    let held = client(holder.namespace(), &server);
    assert_eq!(exchange(&held, &server).unwrap(), 20_000);
    let client = client(waiting.namespace(), &server);
    assert_eq!(refused(&client).kind(), io::ErrorKind::HostUnreachable);
    let begun = Instant::now();
    // A send after an ICMP error fails with it.
    let seen = loop {
        match exchange(&client, &server) {
            Ok(port) => break Some(port),
            Err(_) if begun.elapsed() > LIMIT * 5 => break None,
            Err(_) => thread::sleep(LIMIT / 10),
        }
    };
    assert_eq!(seen, Some(20_000));
}
