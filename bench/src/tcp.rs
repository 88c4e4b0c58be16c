//! TCP as applications have it: a stream, questions and answers on one connection, and a connection for each question.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
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
/// Bursts of a sample, of either pod.
const PAIRS: usize = 12;
/// Questions of a burst.
const QUESTIONS: usize = 100;
/// Connections of a burst.
const CONNECTIONS: usize = 80;

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

/// A figure of one pod's latencies beside another's.
pub struct Beside {
    /// Microseconds of the first pod.
    pub first: f64,
    /// How many times that the other one's are.
    pub times: f64,
}

/// Short bursts, of the first pod and of the other one in turn, so that both meet the same machine: the latencies of either in microseconds,
/// burst by burst.
fn in_turn(mut burst: impl FnMut(usize) -> Result<Series>) -> Result<[Vec<Series>; 2]> {
    let mut bursts = [Vec::new(), Vec::new()];
    for _ in 0..PAIRS {
        for (who, series) in bursts.iter_mut().enumerate() {
            series.push(burst(who)?);
        }
    }
    Ok(bursts)
}

/// By the medians of the bursts.
fn medians([first, other]: &[Vec<Series>; 2]) -> Beside {
    let of_all: Series = first.iter().map(Series::median).collect();
    let pairs = first.iter().zip(other);
    let times: Series = pairs
        .map(|(first, other)| other.median() / first.median())
        .collect();
    Beside {
        first: of_all.median(),
        times: times.median(),
    }
}

/// By what the slowest hundredth of all took, of which there is none in a burst.
fn tails(bursts: &[Vec<Series>; 2]) -> Beside {
    let [first, other] = bursts.each_ref().map(|bursts| {
        let values = bursts.iter().flat_map(Series::values).copied();
        values.collect::<Series>().quantile(0.99)
    });
    Beside {
        first,
        times: other / first,
    }
}

/// From a byte to its answer on one connection: the median and the 99th percentile.
pub fn answers(first: &Namespace, pod: &Namespace, servers: &Servers) -> Result<(Beside, Beside)> {
    let mut streams = [first, pod].map(|pod| connect(pod, servers.answering()));
    let bursts = pinned(NEAR, || {
        in_turn(|who| {
            let stream = streams[who]
                .as_mut()
                .map_err(|error| anyhow!("{error:#}"))?;
            stream.set_nodelay(true)?;
            (0..QUESTIONS)
                .map(|_| {
                    let start = Instant::now();
                    stream.write_all(b"?")?;
                    stream.read_exact(&mut [0])?;
                    Ok(start.elapsed())
                })
                .collect()
        })
    })?;
    Ok((medians(&bursts), tails(&bursts)))
}

/// From the start of a connection over one question to its close: the median.
pub fn connections(first: &Namespace, pod: &Namespace, servers: &Servers) -> Result<Beside> {
    let servers = servers.closing();
    let pods = [first, pod];
    for pod in pods {
        pod.run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", CLIENT_PORTS))??;
    }
    let bursts = in_turn(|who| {
        pods[who].run(|| {
            stay(NEAR);
            let ask = |number: usize| one_question(servers[number % servers.len()]);
            (0..CONNECTIONS).map(ask).collect()
        })?
    })?;
    Ok(medians(&bursts))
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
