//! When idle flows of the eBPF tier end.

use azure_vnet_abi::Timeouts as KernelTimeouts;
use serde::{Deserialize, Serialize};

/// Seconds without a packet after which a flow is over, by protocol and TCP state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// TCP of which only packets with SYN were seen.
    pub tcp_opening: u32,
    /// TCP.
    pub tcp_established: u32,
    /// TCP after FIN or RST.
    pub tcp_closing: u32,
    /// UDP.
    pub udp: u32,
    /// ICMP echo.
    pub icmp: u32,
}

impl Timeouts {
    /// Shorter, and a flow would end between two packets of one exchange.
    pub const LEAST: u32 = 5;
    /// Five days, netfilter's default for established TCP. The programs' clock holds 49.
    pub const MOST: u32 = 432_000;
}

impl Default for Timeouts {
    fn default() -> Self {
        let KernelTimeouts {
            tcp_opening,
            tcp_established,
            tcp_closing,
            udp,
            icmp,
            ..
        } = KernelTimeouts::DEFAULT;
        Self {
            tcp_opening,
            tcp_established,
            tcp_closing,
            udp,
            icmp,
        }
    }
}

impl From<Timeouts> for KernelTimeouts {
    fn from(timeouts: Timeouts) -> Self {
        Self {
            tcp_opening: timeouts.tcp_opening,
            tcp_established: timeouts.tcp_established,
            tcp_closing: timeouts.tcp_closing,
            udp: timeouts.udp,
            icmp: timeouts.icmp,
            unproven: least(&timeouts),
        }
    }
}

/// What was not answered lives no longer than what was.
fn least(timeouts: &Timeouts) -> u32 {
    let shorter = timeouts.udp.min(timeouts.tcp_closing);
    KernelTimeouts::UNPROVEN.min(shorter)
}
