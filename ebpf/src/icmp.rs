//! ICMP errors (RFC 792; RFC 5508, section 4): they quote the packet they are about, as the one who
//! complains saw it, so the quotation is translated like the packet was, the other way.
//!
//! Without them a path with a smaller MTU is a black hole, and a traceroute a row of stars.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Be16, Be32, FlowKey, Reason};

use crate::{
    checksum,
    packet::{ICMP, Ipv4, Ipv4Header, Part, TCP, UDP, at},
    rewrite::{self, End},
};

/// Bytes of an ICMP header.
const HEADER: usize = 8;
/// As far into a frame as the headers of an error and of what it quotes can reach: two IPv4 headers
/// with options, and what is read of a TCP header.
const REACH: u32 = 14 + 60 + 8 + 60 + 18;

const DESTINATION_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

#[repr(C)]
struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: u16,
    rest: [u16; 2],
}

/// An ICMP error, read.
pub struct IcmpError {
    /// Offset of the ICMP header.
    header: usize,
    /// Offset of the quoted IPv4 header.
    quotation: usize,
    /// The quoted packet.
    pub quoted: Ipv4,
    source_port: Be16,
    destination_port: Be16,
}

impl IcmpError {
    /// Reads the packet behind `ip` as an ICMP error with a quotation whose flow can be told. RFC 792
    /// has eight bytes of the quoted transport header in it, which is enough for that.
    #[inline(always)]
    pub fn read(ctx: &TcContext, ip: &Ipv4) -> Result<Self, Reason> {
        // What is missing is noticed where it is read.
        let _ = ctx.pull_data(ctx.len().min(REACH));
        let header = ip.transport_header::<IcmpHeader>(ctx)?;
        // SAFETY: `transport_header` has shown that the header is inside the packet.
        let kind = unsafe { (*header).kind };
        if !matches!(
            kind,
            DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM
        ) {
            return Err(Reason::UnsupportedProtocol);
        }
        let quotation = ip.transport() + HEADER;
        let quoted = Ipv4::read_quoted(ctx, quotation, ip.end)?;
        let (source_port, destination_port) = ports(ctx, &quoted)?;
        Ok(Self {
            header: ip.transport(),
            quotation,
            quoted,
            source_port,
            destination_port,
        })
    }

    /// The key of packets that answer the quoted one: those that go the error's way.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        FlowKey::new(
            self.quoted.protocol,
            self.quoted.destination,
            self.destination_port,
            self.quoted.source,
            self.source_port,
        )
    }

    /// One end of the error becomes `address`, and the same party in the quotation, where it is the
    /// other end, `address`:`port`.
    #[inline(always)]
    pub fn translate(
        &self,
        ctx: &TcContext,
        ip: &Ipv4,
        end: End,
        (address, port): (Be32, Be16),
        routers: u8,
    ) -> Result<(), Reason> {
        let (old_address, old_port) = match end {
            End::Source => (self.quoted.destination, self.destination_port),
            End::Destination => (self.quoted.source, self.source_port),
        };
        rewrite::address(ctx, end, ip, address, routers)?;
        let mut sum = Mended::default();
        self.quoted_address(ctx, end, address, &mut sum)?;
        self.quoted_port(ctx, end, port, &mut sum)?;
        self.quoted_checksum(ctx, (old_address, address), (old_port, port), &mut sum)?;
        let header = at::<IcmpHeader>(ctx, self.header).ok_or(Reason::Malformed)?;
        // SAFETY: `at` has shown that the header is inside the packet.
        unsafe { (*header).checksum = sum.applied_to((*header).checksum) };
        Ok(())
    }

    #[inline(always)]
    fn quoted_address(
        &self,
        ctx: &TcContext,
        end: End,
        address: Be32,
        sum: &mut Mended,
    ) -> Result<(), Reason> {
        let header = at::<Ipv4Header>(ctx, self.quotation).ok_or(Reason::Malformed)?;
        // SAFETY: `at` has shown that the header is inside the packet.
        let header = unsafe { &mut *header };
        let field = match end {
            End::Source => &mut header.destination,
            End::Destination => &mut header.source,
        };
        sum.word(*field, address);
        let mended = checksum::after_address(header.checksum, *field, address, 0);
        *field = address;
        sum.half_word(header.checksum, mended);
        header.checksum = mended;
        Ok(())
    }

    #[inline(always)]
    fn quoted_port(
        &self,
        ctx: &TcContext,
        end: End,
        port: Be16,
        sum: &mut Mended,
    ) -> Result<(), Reason> {
        let offset = match (self.quoted.protocol, end) {
            (ICMP, _) => 4,
            (_, End::Source) => 2,
            (_, End::Destination) => 0,
        };
        let field = at::<Be16>(ctx, self.quoted.transport() + offset).ok_or(Reason::Malformed)?;
        // SAFETY: `at` has shown that the field is inside the packet.
        unsafe {
            sum.half_word((*field).raw(), port.raw());
            *field = port;
        }
        Ok(())
    }

    /// The quoted transport checksum, as far as it is quoted; TCP's stands behind the eight bytes
    /// that RFC 792 promises.
    #[inline(always)]
    fn quoted_checksum(
        &self,
        ctx: &TcContext,
        address: (Be32, Be32),
        port: (Be16, Be16),
        sum: &mut Mended,
    ) -> Result<(), Reason> {
        let offset = match self.quoted.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        if self.quoted.transport() + offset + size_of::<u16>() > self.quoted.end {
            return Ok(());
        }
        let field = at::<u16>(ctx, self.quoted.transport() + offset).ok_or(Reason::Malformed)?;
        // SAFETY: `at` has shown that the field is inside the packet.
        let field = unsafe { &mut *field };
        if self.quoted.protocol == UDP && *field == 0 {
            return Ok(());
        }
        let mut change = Mended::default();
        if self.quoted.protocol != ICMP {
            change.word(address.0, address.1);
        }
        change.half_word(port.0.raw(), port.1.raw());
        let mended = match change.applied_to(*field) {
            // RFC 768: a UDP checksum that comes out as 0 is sent as ones.
            0 if self.quoted.protocol == UDP => u16::MAX,
            mended => mended,
        };
        sum.half_word(*field, mended);
        *field = mended;
        Ok(())
    }
}

/// Reads the ports of a quoted packet, or what stands for them.
#[inline(always)]
fn ports(ctx: &TcContext, quoted: &Ipv4) -> Result<(Be16, Be16), Reason> {
    const ECHO: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    if quoted.part == Part::Later {
        return Err(Reason::Fragment);
    }
    let words = quoted.transport_header::<[Be16; 4]>(ctx)?;
    // SAFETY: `transport_header` has shown that the eight bytes are inside the packet.
    let [first, second, third, _] = unsafe { *words };
    match quoted.protocol {
        TCP | UDP => Ok((first, second)),
        ICMP => match (first.to_host() >> 8) as u8 {
            ECHO => Ok((third, Be16::default())),
            ECHO_REPLY => Ok((Be16::default(), third)),
            _ => Err(Reason::UnsupportedProtocol),
        },
        _ => Err(Reason::UnsupportedProtocol),
    }
}

/// What several changes do to a checksum that covers them all (RFC 1624).
#[derive(Default)]
struct Mended {
    sum: u32,
}

impl Mended {
    #[inline(always)]
    fn half_word(&mut self, old: u16, new: u16) {
        self.sum += u32::from(!old) + u32::from(new);
    }

    #[inline(always)]
    fn word(&mut self, old: Be32, new: Be32) {
        let (old, new) = (old.raw(), new.raw());
        self.half_word(old as u16, new as u16);
        self.half_word((old >> 16) as u16, (new >> 16) as u16);
    }

    #[inline(always)]
    fn applied_to(&self, checksum: u16) -> u16 {
        checksum::folded(u32::from(!checksum) + self.sum)
    }
}
