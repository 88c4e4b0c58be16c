//! Reading a packet: direct access behind one bounds check per header.
//!
//! Values are copied out; whoever rewrites a packet takes the pointer again ([`at`]), because a
//! helper that changes the packet invalidates all of them. Nearly every packet is a [`Plain`] one,
//! read behind one comparison; the others are read header by header.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Be16, Be32, FlowKey, Mac, Reason};

/// Bytes of an Ethernet header; where the network header begins.
pub const NETWORK: usize = 14;
/// Bytes of an IPv4 header without options.
const IPV4_MINIMUM: usize = 20;
/// Where the transport header of a [`Plain`] packet begins.
pub const PLAIN_TRANSPORT: usize = NETWORK + IPV4_MINIMUM;
/// Bytes of a TCP header without options: as far as this program reads.
const TCP_MINIMUM: usize = 20;

pub const ETHERTYPE_IPV4: Be16 = Be16::from_host(0x0800);
pub const ETHERTYPE_ARP: Be16 = Be16::from_host(0x0806);
pub const ETHERTYPE_VLAN: Be16 = Be16::from_host(0x8100);
pub const ETHERTYPE_QINQ: Be16 = Be16::from_host(0x88a8);
pub const ETHERTYPE_IPV6: Be16 = Be16::from_host(0x86dd);

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO: u8 = 8;

/// IEEE 802.3.
#[repr(C)]
pub struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    pub ether_type: Be16,
}

/// RFC 791, section 3.1.
#[repr(C)]
pub struct Ipv4Header {
    version_and_length: u8,
    type_of_service: u8,
    total_length: Be16,
    identification: Be16,
    fragment: Be16,
    pub time_to_live: u8,
    protocol: u8,
    pub checksum: u16,
    pub source: Be32,
    pub destination: Be32,
}

/// A pointer to the `T` at `offset` of the packet, if the packet has that many bytes in its linear
/// part. The only place where an offset becomes an address.
///
/// Reading through it is what the verifier allows after the comparison; alignment is not needed on
/// the architectures whose kernels let BPF read packets directly (x86-64, arm64).
#[inline(always)]
pub fn at<T>(ctx: &TcContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data();
    if start + offset + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some((start + offset) as *mut T)
}

/// A pointer to the `T` at `offset` of bytes that [`at`] has shown to be inside the packet.
#[inline(always)]
pub fn within<T, const BYTES: usize>(shown: *mut [u8; BYTES], offset: usize) -> *mut T {
    (shown as usize + offset) as *mut T
}

/// Whether the frame is to many.
#[inline(always)]
pub fn is_to_group(ctx: &TcContext) -> Result<bool, Reason> {
    let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the header is inside the packet.
    Ok(unsafe { (*ethernet).destination.is_group() })
}

/// Whether the kernel has taken a VLAN tag off the frame; that of another one is its type.
#[inline(always)]
pub fn had_tag(ctx: &TcContext) -> bool {
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

/// Makes the headers directly accessible. They nearly always are; a driver may have left them in
/// a page fragment.
#[inline(always)]
pub fn pull_headers(ctx: &TcContext) {
    const HEADERS: usize = NETWORK + IPV4_MINIMUM + TCP_MINIMUM;
    if ctx.data() + HEADERS > ctx.data_end() {
        // A packet may be shorter than all that; what is missing is noticed where it is read.
        let _ = ctx.pull_data(ctx.len().min(HEADERS as u32));
    }
}

/// The frame's addresses and type.
#[derive(Clone, Copy)]
pub struct Frame {
    pub destination: Mac,
    pub source: Mac,
    pub ether_type: Be16,
}

impl Frame {
    #[inline(always)]
    pub fn read(ctx: &TcContext) -> Result<Self, Reason> {
        let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Malformed)?;
        // SAFETY: `at` has shown that the header is inside the packet.
        let ethernet = unsafe { &*ethernet };
        Ok(Self {
            destination: ethernet.destination,
            source: ethernet.source,
            ether_type: ethernet.ether_type,
        })
    }
}

/// How long an IPv4 packet is.
#[inline(always)]
fn total_length(ctx: &TcContext, said: Be16, protocol: u8) -> usize {
    match said.to_host() {
        0 => unsaid_length(ctx, protocol) as usize,
        said => usize::from(said),
    }
}

/// One of more than 64 KiB that is cut into TCP segments later (IPv4 BIG TCP) says 0, and is as long as its buffer. A function of its own: the
/// verifier walks it once.
#[inline(never)]
fn unsaid_length(ctx: &TcContext, protocol: u8) -> u32 {
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    if protocol == TCP && unsafe { (*ctx.skb.skb).gso_size } != 0 {
        return ctx.len().wrapping_sub(NETWORK as u32);
    }
    0
}

/// The packet that nearly all are: TCP or UDP in an IPv4 packet without options that is no fragment.
#[derive(Clone, Copy)]
pub struct Plain {
    pub frame: Frame,
    pub ip: Ipv4,
    pub transport: Transport,
}

impl Plain {
    /// Reads all its headers; `None` is every other packet, also one whose lengths cannot be right.
    #[inline(always)]
    pub fn read(ctx: &TcContext) -> Option<Self> {
        const TRANSPORT: usize = PLAIN_TRANSPORT;
        const PORTS: usize = 4;
        const UDP_HEADER: usize = 8;
        const TCP_SEQUENCE: usize = TRANSPORT + 4;
        const TCP_ACKNOWLEDGMENT: usize = TRANSPORT + 8;
        const TCP_OFFSET: usize = TRANSPORT + 12;
        const TCP_FLAGS: usize = TRANSPORT + 13;
        const VERSION_AND_LENGTH: u8 = 0x45;
        const FRAGMENTED: u16 = Be16::from_host(0x3fff).raw();

        let start = at::<[u8; TRANSPORT + PORTS]>(ctx, 0)?;
        // SAFETY: `at` has shown that the three headers up to the ports are inside the packet.
        let (ethernet, header, ports) = unsafe {
            (
                &*within::<Ethernet, _>(start, 0),
                &*within::<Ipv4Header, _>(start, NETWORK),
                *within::<[Be16; 2], _>(start, TRANSPORT),
            )
        };
        if ethernet.ether_type != ETHERTYPE_IPV4
            || header.version_and_length != VERSION_AND_LENGTH
            || header.fragment.raw() & FRAGMENTED != 0
        {
            return None;
        }
        let (minimum, tcp_flags, header_length, sequence, acknowledgment) = match header.protocol {
            TCP => {
                let start = at::<[u8; TRANSPORT + TCP_MINIMUM]>(ctx, 0)?;
                // SAFETY: `at` has shown that the TCP header is inside the packet.
                unsafe {
                    (
                        TCP_MINIMUM,
                        *within::<u8, _>(start, TCP_FLAGS),
                        *within::<u8, _>(start, TCP_OFFSET),
                        *within::<Be32, _>(start, TCP_SEQUENCE),
                        *within::<Be32, _>(start, TCP_ACKNOWLEDGMENT),
                    )
                }
            }
            UDP => (UDP_HEADER, 0, 0, Be32::default(), Be32::default()),
            _ => return None,
        };
        let total = total_length(ctx, header.total_length, header.protocol);
        if total < IPV4_MINIMUM + minimum || NETWORK + total > ctx.len() as usize {
            return None;
        }
        Some(Self {
            frame: Frame {
                destination: ethernet.destination,
                source: ethernet.source,
                ether_type: ETHERTYPE_IPV4,
            },
            ip: Ipv4 {
                source: header.source,
                destination: header.destination,
                protocol: header.protocol,
                time_to_live: header.time_to_live,
                transport: TRANSPORT as u8,
                end: NETWORK + total,
                part: Part::Whole,
                identification: header.identification,
            },
            transport: Transport {
                source_port: ports[0],
                destination_port: ports[1],
                tcp_flags,
                sequence,
                acknowledgment,
                header: header_length,
                is_echo_request: false,
                is_echo_reply: false,
            },
        })
    }

    /// The key of this packet in the flow table.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        self.transport.key(&self.ip)
    }
}

/// The source of an IPv4 packet and its protocol, before anything else of it is looked at.
#[inline(always)]
pub fn ipv4_source(ctx: &TcContext) -> Option<(Be32, u8)> {
    ipv4_headers(ctx).map(|(_, header)| (header.source, header.protocol))
}

/// The destination of an IPv4 packet's frame and of itself, likewise.
#[inline(always)]
pub fn ipv4_destination(ctx: &TcContext) -> Option<(Mac, Be32)> {
    ipv4_headers(ctx).map(|(ethernet, header)| (ethernet.destination, header.destination))
}

#[inline(always)]
fn ipv4_headers(ctx: &TcContext) -> Option<(&Ethernet, &Ipv4Header)> {
    let start = at::<[u8; NETWORK + IPV4_MINIMUM]>(ctx, 0)?;
    // SAFETY: `at` has shown that both headers are inside the packet.
    let (ethernet, header) = unsafe {
        (
            &*within::<Ethernet, _>(start, 0),
            &*within::<Ipv4Header, _>(start, NETWORK),
        )
    };
    (ethernet.ether_type == ETHERTYPE_IPV4).then_some((ethernet, header))
}

/// What the programs need of an IPv4 header.
#[derive(Clone, Copy, Default)]
pub struct Ipv4 {
    pub source: Be32,
    pub destination: Be32,
    pub protocol: u8,
    /// How many routers may still send it on.
    pub time_to_live: u8,
    /// Offset of the transport header from the start of the frame. As a byte, so that the verifier knows what it may be wherever it is kept.
    transport: u8,
    /// Offset of the first byte behind the packet; what follows is Ethernet's padding.
    pub end: usize,
    /// Which part of a packet this is.
    pub part: Part,
    /// What its fragments have in common.
    pub identification: Be16,
}

/// RFC 791, section 3.2: the fragment offset and the flag for more.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Part {
    /// Not fragmented.
    #[default]
    Whole,
    /// The fragment that has the transport header.
    First,
    /// One that has not.
    Later,
}

impl Ipv4 {
    /// Reads the packet's header; one whose lengths cannot be right is [`Reason::Malformed`].
    #[inline(always)]
    pub fn read(ctx: &TcContext) -> Result<Self, Reason> {
        let (header, said) = Self::header(ctx, NETWORK)?;
        let total = total_length(ctx, said, header.protocol);
        let end = NETWORK + total;
        if end < header.transport() || (ctx.len() as usize) < end {
            return Err(Reason::Malformed);
        }
        Ok(Self { end, ..header })
    }

    /// Reads the header at `offset` that an ICMP error quotes. The quotation is shorter than the
    /// packet was: it reaches to the error's own `end`.
    #[inline(always)]
    pub fn read_quoted(ctx: &TcContext, offset: usize, end: usize) -> Result<Self, Reason> {
        let (header, _total) = Self::header(ctx, offset)?;
        if header.transport() > end {
            return Err(Reason::Malformed);
        }
        Ok(Self { end, ..header })
    }

    /// The header, and how long it says that the packet is.
    #[inline(always)]
    fn header(ctx: &TcContext, offset: usize) -> Result<(Self, Be16), Reason> {
        const OFFSET: u16 = Be16::from_host(0x1fff).raw();
        const MORE_FRAGMENTS: u16 = Be16::from_host(0x2000).raw();

        let header = at::<Ipv4Header>(ctx, offset).ok_or(Reason::Malformed)?;
        // SAFETY: `at` has shown that the header is inside the packet.
        let header = unsafe { &*header };
        let length = usize::from(header.version_and_length & 0x0f) * 4;
        if header.version_and_length >> 4 != 4 || length < IPV4_MINIMUM {
            return Err(Reason::Malformed);
        }
        let ip = Self {
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            time_to_live: header.time_to_live,
            transport: (offset + length) as u8,
            end: offset + length,
            part: if header.fragment.raw() & OFFSET != 0 {
                Part::Later
            } else if header.fragment.raw() & MORE_FRAGMENTS != 0 {
                Part::First
            } else {
                Part::Whole
            },
            identification: header.identification,
        };
        Ok((ip, header.total_length))
    }

    /// Offset of the transport header from the start of the frame.
    #[inline(always)]
    pub fn transport(&self) -> usize {
        self.transport.into()
    }

    /// A pointer to the transport header as `T`, which has to be inside the IP packet: what a
    /// frame has behind that is not the sender's word.
    #[inline(always)]
    pub fn transport_header<T>(&self, ctx: &TcContext) -> Result<*mut T, Reason> {
        if self.transport() + size_of::<T>() > self.end {
            return Err(Reason::Malformed);
        }
        at(ctx, self.transport()).ok_or(Reason::Malformed)
    }
}

/// The ports of a packet, or what stands for them.
#[derive(Clone, Copy, Default)]
pub struct Transport {
    pub source_port: Be16,
    pub destination_port: Be16,
    /// TCP's sequence number; 0 for the others.
    pub sequence: Be32,
    /// TCP's acknowledgment number; 0 for the others.
    pub acknowledgment: Be32,
    /// In its upper half the length of TCP's header, in words.
    header: u8,
    /// TCP's flag byte; 0 for the others.
    pub tcp_flags: u8,
    /// Whether it is an ICMP echo request: the first packet of a flow, never an answer.
    pub is_echo_request: bool,
    /// Whether it is an ICMP echo reply: the answer in a flow, never its first packet.
    pub is_echo_reply: bool,
}

impl Transport {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    /// Reads the ports of a TCP or UDP packet or the identifier of an ICMP echo. A fragment that is
    /// not the first has none.
    #[inline(always)]
    pub fn read(ctx: &TcContext, ip: &Ipv4) -> Result<Self, Reason> {
        if ip.part == Part::Later {
            return Err(Reason::Fragment);
        }
        match ip.protocol {
            TCP => Self::tcp(ctx, ip),
            UDP => Self::udp(ctx, ip),
            ICMP => Self::icmp(ctx, ip),
            _ => Err(Reason::UnsupportedProtocol),
        }
    }

    #[inline(always)]
    fn tcp(ctx: &TcContext, ip: &Ipv4) -> Result<Self, Reason> {
        #[repr(C)]
        struct Tcp {
            source: Be16,
            destination: Be16,
            sequence: Be32,
            acknowledgment: Be32,
            data_offset: u8,
            flags: u8,
            rest: [u16; 3],
        }
        let header = ip.transport_header::<Tcp>(ctx)?;
        // SAFETY: `transport_header` has shown that the header is inside the packet.
        let header = unsafe { &*header };
        Ok(Self {
            source_port: header.source,
            destination_port: header.destination,
            tcp_flags: header.flags,
            sequence: header.sequence,
            acknowledgment: header.acknowledgment,
            header: header.data_offset,
            is_echo_request: false,
            is_echo_reply: false,
        })
    }

    #[inline(always)]
    fn udp(ctx: &TcContext, ip: &Ipv4) -> Result<Self, Reason> {
        let header = ip.transport_header::<[Be16; 4]>(ctx)?;
        // SAFETY: `transport_header` has shown that the header is inside the packet.
        let [source_port, destination_port, _, _] = unsafe { *header };
        Ok(Self {
            source_port,
            destination_port,
            tcp_flags: 0,
            sequence: Be32::default(),
            acknowledgment: Be32::default(),
            header: 0,
            is_echo_request: false,
            is_echo_reply: false,
        })
    }

    #[inline(always)]
    fn icmp(ctx: &TcContext, ip: &Ipv4) -> Result<Self, Reason> {
        #[repr(C)]
        struct Echo {
            kind: u8,
            code: u8,
            checksum: u16,
            identifier: Be16,
            sequence: Be16,
        }
        let header = ip.transport_header::<Echo>(ctx)?;
        // SAFETY: `transport_header` has shown that the header is inside the packet.
        let header = unsafe { &*header };
        let (source_port, destination_port) = match header.kind {
            ICMP_ECHO => (header.identifier, Be16::default()),
            ICMP_ECHO_REPLY => (Be16::default(), header.identifier),
            _ => return Err(Reason::UnsupportedProtocol),
        };
        Ok(Self {
            source_port,
            destination_port,
            tcp_flags: 0,
            sequence: Be32::default(),
            acknowledgment: Be32::default(),
            header: 0,
            is_echo_request: header.kind == ICMP_ECHO,
            is_echo_reply: header.kind == ICMP_ECHO_REPLY,
        })
    }

    /// Whether this is the first packet of a TCP connection.
    #[inline(always)]
    pub fn opens_connection(&self) -> bool {
        self.tcp_flags & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// Whether this is a packet of a TCP connection that is open already, or closing.
    #[inline(always)]
    pub fn is_inside_connection(&self) -> bool {
        self.tcp_flags & (Self::SYN | Self::ACK) == Self::ACK
    }

    /// Bytes of data in a TCP segment.
    #[inline(always)]
    pub fn data(&self, ip: &Ipv4) -> u32 {
        let header = u32::from(self.header >> 4) * 4;
        (ip.end as u32).saturating_sub(u32::from(ip.transport) + header)
    }

    /// The key of this packet in the flow table.
    #[inline(always)]
    pub fn key(&self, ip: &Ipv4) -> FlowKey {
        FlowKey::new(
            ip.protocol,
            ip.source,
            self.source_port,
            ip.destination,
            self.destination_port,
        )
    }
}
