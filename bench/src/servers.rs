//! The far end: servers on the host in the internet, each for one kind of work. They end with the value.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use azure_vnet_testbed::Azure;

use crate::cpu::{self, FAR, NEAR};

/// `discard` of RFC 863.
const UDP_PORT: u16 = 9;
const STREAM_PORT: u16 = 5001;
const ANSWER_PORT: u16 = 5002;
/// Several, so that a client does not come back to one of its tuples within moments.
const CONNECT_PORTS: std::ops::Range<u16> = 6000..6008;

/// The servers of one simulated Azure.
pub struct Servers {
    address: std::net::Ipv4Addr,
    udp: UdpSocket,
    received: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    listeners: Vec<TcpListener>,
}

impl Servers {
    pub fn start(azure: &Azure) -> Result<Self> {
        let address = azure.internet.address();
        let host = azure.internet.namespace();
        let listen = |port| host.run(|| TcpListener::bind((address, port)));
        let udp = host.run(|| UdpSocket::bind((address, UDP_PORT)))??;
        let mut servers = Self {
            address,
            udp,
            received: Arc::default(),
            ended: Arc::default(),
            listeners: Vec::new(),
        };
        servers.report()?;
        let received = servers.received.clone();
        servers.serve(listen(STREAM_PORT)??, move |stream| take(stream, &received))?;
        servers.serve(listen(ANSWER_PORT)??, answer)?;
        for port in CONNECT_PORTS {
            let listener = listen(port)??;
            servers.listeners.push(listener.try_clone()?);
            thread::spawn(move || answer_once(&listener));
        }
        Ok(servers)
    }

    /// Who sends something here is told the source that was seen.
    pub fn udp(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, UDP_PORT)
    }

    /// Takes whatever is sent.
    pub fn stream(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, STREAM_PORT)
    }

    /// Bytes that came to [`Self::stream`] so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Answers each byte with one.
    pub fn answering(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, ANSWER_PORT)
    }

    /// Answer one byte and close.
    pub fn closing(&self) -> Vec<SocketAddrV4> {
        CONNECT_PORTS
            .map(|port| SocketAddrV4::new(self.address, port))
            .collect()
    }

    fn report(&self) -> Result<()> {
        let (socket, ended) = (self.udp.try_clone()?, self.ended.clone());
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(from.to_string().as_bytes(), from);
                }
            }
        });
        Ok(())
    }

    fn serve(
        &mut self,
        listener: TcpListener,
        work: impl Fn(TcpStream) + Clone + Send + 'static,
    ) -> Result<()> {
        self.listeners.push(listener.try_clone()?);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let work = work.clone();
                thread::spawn(move || {
                    work(stream);
                });
            }
        });
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Wakes the thread that waits in accept; there is nothing else to shut down.
            let _ = socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both);
        }
    }
}

fn take(mut stream: TcpStream, received: &AtomicU64) {
    cpu::stay(FAR);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                received.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn answer(mut stream: TcpStream) {
    cpu::stay(NEAR);
    let _ = stream.set_nodelay(true);
    let mut byte = [0];
    while matches!(stream.read(&mut byte), Ok(1)) {
        if stream.write_all(&byte).is_err() {
            return;
        }
    }
}

/// This end closes first, so that the waiting after it is ours and the client may use its port again.
fn answer_once(listener: &TcpListener) {
    cpu::stay(NEAR);
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let mut byte = [0];
        if matches!(stream.read(&mut byte), Ok(1)) {
            let _ = stream.write_all(&byte);
        }
    }
}
