//! Steady traffic of a namespace, every piece of it numbered, while something happens to the way that it takes: a ping each
//! millisecond, and a TCP connection with bytes in both directions.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::Socket;

use crate::connection::Connection;
use crate::host::Host;
use crate::icmp::{ECHO_REPLY, echo_request, raw_socket, receive};
use crate::namespace::Namespace;
use crate::service::Service;

const INTERVAL: Duration = Duration::from_millis(1);
/// How much of each there is before and after whatever happens.
const MARGIN: usize = 100;
/// How long answers may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of answers that may wait for a busy machine: none is to be lost on our side.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Traffic under way.
#[derive(Debug)]
pub struct Steady {
    pings: Pings,
    stream: Stream,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Echo requests that were to be sent.
    pub pings: usize,
    /// Those that were never answered, or could not be sent.
    pub lost: usize,
    /// Numbers that went through the connection and came back, all of them and in order.
    pub exchanged: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pings,
            lost,
            exchanged,
        } = self;
        write!(
            formatter,
            "{lost} of {pings} pings lost, {exchanged} numbers through one connection and back"
        )
    }
}

impl Steady {
    /// Starts traffic from a namespace to a host, and waits until it flows.
    pub fn start(from: &Namespace, to: &Host) -> io::Result<Self> {
        let this = Self {
            pings: Pings::start(from, to.address())?,
            stream: Stream::start(Connection::open(from, to)?)?,
        };
        this.flows(MARGIN)?;
        Ok(this)
    }

    /// Lets it flow a while longer and ends it. An error if the connection was lost, or anything in it.
    pub fn end(self) -> io::Result<Tally> {
        self.flows(MARGIN)?;
        let (pings, lost) = self.pings.end()?;
        Ok(Tally {
            pings,
            lost,
            exchanged: self.stream.end()?,
        })
    }

    /// Waits until so many more pings were answered, and so many more numbers came back.
    fn flows(&self, more: usize) -> io::Result<()> {
        let now = || {
            (
                self.pings.answered(),
                self.stream.back.load(Ordering::Relaxed),
            )
        };
        let (pings, numbers) = now();
        wait_until("traffic does not flow", || {
            let now = now();
            now.0 >= pings + more && now.1 >= numbers + more
        })
    }
}

fn wait_until(what: &'static str, is_true: impl Fn() -> bool) -> io::Result<()> {
    let end = Instant::now() + LIMIT;
    while !is_true() {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}

/// A thread that does something each millisecond until it is told to stop; gives how often it did.
#[derive(Debug)]
struct Metronome {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<usize>>,
}

impl Metronome {
    fn start(mut beat: impl FnMut(u32) -> io::Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut next = Instant::now();
            let mut number = 0;
            while !is_stopped.load(Ordering::Relaxed) {
                beat(number)?;
                number += 1;
                next += INTERVAL;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(number as usize)
        });
        Self { stop, thread }
    }

    fn end(self) -> io::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        joined(self.thread)?
    }
}

fn joined<T>(thread: JoinHandle<T>) -> io::Result<T> {
    let panicked = |_| io::Error::other("a thread of the traffic panicked");
    thread.join().map_err(panicked)
}

#[derive(Debug)]
struct Pings {
    sending: Metronome,
    answered: Arc<Mutex<BTreeSet<u32>>>,
    _listening: Service,
}

impl Pings {
    fn start(from: &Namespace, to: Ipv4Addr) -> io::Result<Self> {
        let socket: Arc<Socket> = Arc::new(from.run(raw_socket)??);
        set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
        // A raw socket hears all ICMP of its namespace.
        let identifier = u16::from_ne_bytes(
            std::process::id().to_ne_bytes()[..2]
                .try_into()
                .unwrap_or_default(),
        );
        let answered = Arc::new(Mutex::new(BTreeSet::new()));
        let heard = Arc::clone(&answered);
        let listening = Service::start(vec![Arc::clone(&socket)], move |socket| {
            if let Ok((source, ECHO_REPLY, id, payload)) = receive(socket)
                && (source, id) == (to, identifier)
                && let Ok(number) = payload.try_into()
            {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.insert(u32::from_be_bytes(number));
            }
        })?;
        let target = SocketAddrV4::new(to, 0).into();
        let sending = Metronome::start(move |number| {
            // What cannot be sent, for want of a route say, is lost like what is not answered.
            let _ = socket.send_to(&echo_request(identifier, &number.to_be_bytes()), &target);
            Ok(())
        });
        Ok(Self {
            sending,
            answered,
            _listening: listening,
        })
    }

    fn answered(&self) -> usize {
        let answered = self.answered.lock();
        answered.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many were sent, and how many of them lost.
    fn end(self) -> io::Result<(usize, usize)> {
        let Self {
            sending, answered, ..
        } = self;
        let sent = sending.end()?;
        let count = || {
            answered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len()
        };
        // None of those that are late is lost.
        let _ = wait_until("answers", || count() >= sent);
        Ok((sent, sent - count()))
    }
}

#[derive(Debug)]
struct Stream {
    sending: Metronome,
    inside: TcpStream,
    echo: JoinHandle<io::Result<u64>>,
    reading: JoinHandle<io::Result<usize>>,
    /// How many numbers have come back.
    back: Arc<AtomicUsize>,
}

impl Stream {
    fn start(connection: Connection) -> io::Result<Self> {
        let Connection {
            inside, outside, ..
        } = connection;
        let (mut ears, mut mouth) = (outside.try_clone()?, outside);
        let echo = thread::spawn(move || {
            let copied = io::copy(&mut ears, &mut mouth)?;
            mouth.shutdown(Shutdown::Write)?;
            Ok(copied)
        });
        let back = Arc::new(AtomicUsize::new(0));
        let (mut answers, so_far) = (inside.try_clone()?, Arc::clone(&back));
        let reading = thread::spawn(move || {
            let mut bytes = [0; 4];
            loop {
                let expected = so_far.load(Ordering::Relaxed);
                match answers.read_exact(&mut bytes) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Ok(expected);
                    }
                    result => result?,
                }
                if u32::from_be_bytes(bytes) as usize != expected {
                    return Err(io::Error::other(format!("{bytes:?} instead of {expected}")));
                }
                so_far.store(expected + 1, Ordering::Relaxed);
            }
        });
        let mut questions = inside.try_clone()?;
        Ok(Self {
            sending: Metronome::start(move |number| questions.write_all(&number.to_be_bytes())),
            inside,
            echo,
            reading,
            back,
        })
    }

    /// How many numbers were sent and came back.
    fn end(self) -> io::Result<usize> {
        let sent = self.sending.end()?;
        self.inside.shutdown(Shutdown::Write)?;
        joined(self.echo)??;
        let back = joined(self.reading)??;
        if back != sent {
            return Err(io::Error::other(format!("{back} of {sent} came back")));
        }
        Ok(back)
    }
}
