//! TCP as applications have it: a stream, questions and answers on one connection, and a connection for each question.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use azure_vnet_testbed::namespace::Namespace;
use socket2::{Domain, Socket, Type};

use crate::cpu::{NEAR, pinned, stay};
use crate::node::batch;
use crate::series::Series;
use crate::servers::Servers;

/// How long anything may take before it is an error.
const LIMIT: Duration = Duration::from_secs(5);
/// Ports of the client: few, so that tuples come back as on a busy node, and translation has to reuse what it knows.
const CLIENT_PORTS: &str = "32768 36863";

/// Gbit/s of payload that came to the far side in `time`.
pub fn stream(pod: &Namespace, servers: &Servers, time: Duration) -> Result<f64> {
    let mut stream = connect(pod, servers.stream())?;
    pinned(NEAR, || {
        let data = vec![0; 128 << 10];
        let warm = Instant::now() + time / 4;
        while Instant::now() < warm {
            stream.write_all(&data)?;
        }
        let (start, before) = (Instant::now(), servers.received());
        while start.elapsed() < time {
            stream.write_all(&data)?;
        }
        let bytes = servers.received() - before;
        ensure!(bytes > 0, "nothing of a stream arrived");
        // Kilobits fit 32 bits for a second of what memory can do.
        let kilobits = u32::try_from(bytes / 125)?;
        Ok(f64::from(kilobits) / start.elapsed().as_secs_f64() / 1e6)
    })
}

/// The same with one segment in each packet that leaves the pod, as where a NIC cannot segment.
pub fn stream_without_gso(pod: &Namespace, servers: &Servers, time: Duration) -> Result<f64> {
    batch(pod, &["link set dev eth0 gso_max_segs 1".to_owned()])?;
    let figure = stream(pod, servers, time);
    batch(pod, &["link set dev eth0 gso_max_segs 65535".to_owned()])?;
    figure
}

/// Times from a byte to its answer on one connection, in microseconds.
pub fn answers(pod: &Namespace, servers: &Servers, questions: usize) -> Result<Series> {
    let mut stream = connect(pod, servers.answering())?;
    stream.set_nodelay(true)?;
    pinned(NEAR, || {
        let mut ask = || -> Result<Duration> {
            let start = Instant::now();
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])?;
            Ok(start.elapsed())
        };
        for _ in 0..questions / 10 {
            ask()?;
        }
        (0..questions).map(|_| ask()).collect()
    })
}

/// Microseconds from the start of a connection over one question to its close, the median over so many.
pub fn connections(pod: &Namespace, servers: &Servers, connections: usize) -> Result<f64> {
    let servers = servers.closing();
    let times = pod.run(|| {
        stay(NEAR);
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", CLIENT_PORTS)?;
        let ask = |number: usize| one_question(servers[number % servers.len()]);
        (0..connections).map(ask).collect::<Result<Series>>()
    })??;
    Ok(times.median())
}

/// The far side closes when it has answered.
fn one_question(server: SocketAddrV4) -> Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(server).context("cannot connect")?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    ensure!(stream.read(&mut [0])? == 0, "the far side did not close");
    drop(stream);
    Ok(start.elapsed())
}

fn connect(pod: &Namespace, server: SocketAddrV4) -> Result<TcpStream> {
    let socket = pod.run(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
    socket.connect_timeout(&server.into(), LIMIT)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.set_write_timeout(Some(LIMIT))?;
    Ok(socket.into())
}
