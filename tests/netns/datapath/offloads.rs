//! Packets that are not finished yet when we rewrite them: larger than the NIC's MTU, with the sum of the pseudo-header alone where
//! the checksum will be. That is how nearly all data of a pod comes along. With TCX and with `cls_bpf`, on both paths.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::{io, thread};

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::connection::Connection;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::offload::{Offload, switch};
use azure_vnet_testbed::packet_socket::{Observer, Offloaded};
use azure_vnet_testbed::pod::{Pod, PodSpec};
use serde_json::json;

use super::chained::{host_veth, install};
use super::{LIMIT, connect, list};

const MUCH: usize = 2 << 20;
/// Payload of a datagram, and of one large packet that becomes many of them.
const DATAGRAM: usize = 1000;
const DATAGRAMS: usize = 20;
const MTU: usize = 1500;
const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What becomes of the packets where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// No link does anything, as among veths: nobody ever finishes a packet.
    Leave,
    /// The NIC and the host veth can do nothing: the kernel finishes each packet when our programs have had it.
    Finish,
    /// What comes from outside is finished, and is put together again before our programs have it.
    PutTogether,
}

#[test]
fn unfinished_packets_stay_right() {
    for variant in variants() {
        for (direction, frames) in exchange(variant, Links::Leave) {
            for protocol in [TCP, UDP] {
                let large = frames.large(protocol);
                assert!(large > 5, "{direction} {protocol} {large} {variant:?}");
            }
        }
    }
}

#[test]
fn what_the_kernel_finishes_afterwards_is_right() {
    // What goes straight to the pod's end is not finished: the host's end, which finishes, is passed by.
    for variant in variants().filter(|variant| !variant.direct) {
        for (direction, frames) in exchange(variant, Links::Finish) {
            let mut frames = frames.0.iter();
            assert!(
                frames.all(|frame| frame.offloaded.checksum.is_none()
                    && frame.bytes.len() <= ETHERNET + MTU),
                "{direction} {variant:?}"
            );
        }
    }
}

#[test]
fn what_the_nic_put_together_is_right() {
    for variant in variants() {
        let [_, (_, into_pod)] = exchange(variant, Links::PutTogether);
        let large = into_pod.large(TCP);
        assert!(large > 5, "{large} {variant:?}");
    }
}

/// Both ways to attach the programs, with the fast path and without, and straight to the pod's end of its veth.
fn variants() -> impl Iterator<Item = Variant> {
    let mechanisms = ["0", "1"].into_iter();
    mechanisms.flat_map(|forced| {
        [(true, true), (true, false), (false, false)].map(|(fast_path, direct)| Variant {
            forced,
            fast_path,
            direct,
        })
    })
}

#[derive(Clone, Copy, Debug)]
struct Variant {
    /// Value of `AZURE_VNET_FORCE_CLS_BPF`.
    forced: &'static str,
    fast_path: bool,
    /// The list says that nobody shapes the pod.
    direct: bool,
}

/// Much by TCP and by UDP each way. Gives what came out of the NIC, and what came to the pod; all of it right.
fn exchange(variant: Variant, links: Links) -> [(&'static str, Frames); 2] {
    let mut azure = Azure::builder().build().unwrap();
    azure.vms[0].set_environment("AZURE_VNET_FORCE_CLS_BPF", variant.forced);
    let vm = &azure.vms[0];
    let masquerade = json!({ "datapath": "ebpf", "fastPath": variant.fast_path });
    let list = list(&masquerade);
    if variant.direct {
        install(vm, &list);
    }
    let pod = vm.add_pod(&list, &PodSpec::named("web")).unwrap();
    prepare(&azure, &pod, links);
    let observe =
        |namespace: &Namespace, link: &str| namespace.run(|| Observer::start(link)).unwrap();
    let outside = observe(azure.fabric.namespace(), "vm0").unwrap();
    let inside = observe(pod.namespace(), "eth0").unwrap();

    transfer(connect(&azure, &pod));
    datagrams(&azure, &pod, vm.nic.primary);

    let out = Frames::between(&outside, vm.nic.primary, INTERNET[0]);
    let into = Frames::between(&inside, INTERNET[0], pod.address);
    for frames in [&out, &into] {
        frames.assert_right();
        // All of it was seen, so all of it is right.
        let seen = frames.payload(TCP);
        assert!(seen >= MUCH, "{seen}");
        assert!(frames.payload(UDP) >= DATAGRAM * DATAGRAMS);
    }
    assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
    [("out", out), ("in", into)]
}

fn prepare(azure: &Azure, pod: &Pod<'_>, links: Links) {
    let node = azure.vms[0].namespace();
    let set = |namespace: &Namespace, link: &str, offload, on| {
        let switched = namespace.run(|| switch(link, offload, on)).unwrap();
        switched.unwrap();
    };
    match links {
        Links::Leave => {}
        Links::Finish => {
            set(node, "eth0", Offload::Transmit, false);
            set(node, host_veth(pod), Offload::Transmit, false);
        }
        Links::PutTogether => {
            set(azure.fabric.namespace(), "vm0", Offload::Transmit, false);
            set(node, "eth0", Offload::ReceiveInOne, true);
        }
    }
}

/// Much data each way, every byte of which is compared.
fn transfer(connection: Connection) {
    let Connection {
        mut inside,
        mut outside,
        ..
    } = connection;
    let data = pattern(MUCH);
    let send = |mut stream: &TcpStream| {
        stream.write_all(&data).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    };
    let receive = |stream: &mut TcpStream| {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == data);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            receive(&mut outside);
            send(&outside);
        });
        send(&inside);
        receive(&mut inside);
    });
}

/// Datagrams each way, one at a time and many as one.
fn datagrams(azure: &Azure, pod: &Pod<'_>, node: Ipv4Addr) {
    let bind = |namespace: &Namespace, address: Ipv4Addr| {
        let socket = namespace.run(|| UdpSocket::bind((address, 0))).unwrap();
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    };
    let server = bind(azure.internet.namespace(), INTERNET[0]);
    let client = bind(pod.namespace(), pod.address);
    client.connect(server.local_addr().unwrap()).unwrap();
    client.send(b"first").unwrap();
    let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from.ip(), node);
    server.connect(from).unwrap();

    let data = pattern(DATAGRAM * DATAGRAMS);
    for (sender, receiver) in [(&client, &server), (&server, &client)] {
        sender.send(&data[..DATAGRAM]).unwrap();
        assert!(receive(receiver) == data[..DATAGRAM]);
        send_in_one(sender).unwrap();
        for _ in 0..10 {
            sender.send(&data).unwrap();
            for expected in data.chunks(DATAGRAM) {
                assert!(receive(receiver) == expected);
            }
        }
    }
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// What is sent from now on becomes datagrams of [`DATAGRAM`] bytes, as late as can be (`UDP_SEGMENT`, Linux 4.18).
fn send_in_one(socket: &UdpSocket) -> io::Result<()> {
    let size = libc::c_int::try_from(DATAGRAM).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the pointer leads to an integer of the length that is said, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            length,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    let numbers = (0_u32..).map(|number| number.wrapping_mul(2_654_435_761));
    let bytes = numbers.flat_map(u32::to_le_bytes);
    bytes.take(length).collect()
}

/// What an observer saw of one direction.
struct Frames(Vec<Frame>);

struct Frame {
    offloaded: Offloaded,
    bytes: Vec<u8>,
    /// Where TCP or UDP begin.
    transport: usize,
    end: usize,
}

impl Frames {
    fn between(observer: &Observer, from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let frames = observer.frames().unwrap().into_iter();
        let frames = frames.map(|(offloaded, bytes)| Frame::new(offloaded, bytes));
        Self(
            frames
                .filter(|frame| frame.addresses() == [from.octets(), to.octets()].concat())
                .collect(),
        )
    }

    #[track_caller]
    fn assert_right(&self) {
        for frame in &self.0 {
            let headers = &frame.bytes[..frame.bytes.len().min(frame.transport + 20)];
            let offloaded = frame.offloaded;
            assert!(frame.is_right(), "{offloaded:?} {headers:02x?}");
        }
    }

    /// Frames that are to be cut, and whose checksum is to be computed, by the NIC.
    fn large(&self, protocol: u8) -> usize {
        let frames = self.0.iter().filter(|frame| frame.protocol() == protocol);
        frames
            .filter(|frame| frame.offloaded.segment != 0 && frame.offloaded.checksum.is_some())
            .filter(|frame| frame.bytes.len() > ETHERNET + MTU)
            .count()
    }

    fn payload(&self, protocol: u8) -> usize {
        let frames = self.0.iter().filter(|frame| frame.protocol() == protocol);
        frames.map(Frame::payload).sum()
    }
}

impl Frame {
    fn new(offloaded: Offloaded, bytes: Vec<u8>) -> Self {
        let header = usize::from(bytes[ETHERNET] & 0xf) * 4;
        let length = usize::from(u16::from_be_bytes([
            bytes[ETHERNET + 2],
            bytes[ETHERNET + 3],
        ]));
        Self {
            offloaded,
            transport: ETHERNET + header,
            end: ETHERNET + length,
            bytes,
        }
    }

    fn addresses(&self) -> &[u8] {
        &self.bytes[ETHERNET + 12..ETHERNET + 20]
    }

    fn protocol(&self) -> u8 {
        self.bytes[ETHERNET + 9]
    }

    fn segment(&self) -> &[u8] {
        &self.bytes[self.transport..self.end]
    }

    fn payload(&self) -> usize {
        let header = match self.protocol() {
            TCP => usize::from(self.segment()[12] >> 4) * 4,
            _ => 8,
        };
        self.segment().len() - header
    }

    /// Whether the receiver will take it: what is finished adds up (RFC 793, 768); what is not has the sum of the pseudo-header where
    /// the kernel is told that the checksum goes.
    fn is_right(&self) -> bool {
        let segment = self.segment();
        let length = u32::try_from(segment.len()).unwrap().to_be_bytes();
        let pseudo = [self.addresses(), &[0, self.protocol()], &length].concat();
        let place = if self.protocol() == TCP { 16 } else { 6 };
        let field = u16::from_be_bytes([segment[place], segment[place + 1]]);
        if let Some(told) = self.offloaded.checksum {
            return told == (self.transport, place) && field == sum(&pseudo);
        }
        // The kernel writes ones for zero in TCP as well, which adds up to the same.
        let is_there = self.protocol() == TCP || field != 0;
        is_there && sum(&[&pseudo, segment].concat()) == 0xffff
    }
}

/// One's complement sum; a last odd byte is padded with zero.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u64::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]))
    });
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}
