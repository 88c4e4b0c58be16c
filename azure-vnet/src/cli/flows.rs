//! `azure-vnet flows`: which connections are masqueraded, and as what.

mod conntrack;
mod ebpf;
mod filter;
mod show;

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output::{self, Output};
use super::{Failure, Outcome};
use crate::datapath::{Record, Tier};
use crate::state;
use filter::Filter;
use show::{Count, Flows, Top};

/// Which flows, and what of them.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    filter: Filter,
    /// Only how many there are.
    #[arg(long, conflicts_with = "top")]
    count: bool,
    /// The N destinations with most flows.
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Again every so many seconds, until interrupted.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    watch: Option<u64>,
}

/// One flow, as the pod has it.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    /// The bridge of the pod.
    pub bridge: String,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: Protocol,
    /// The pod's address.
    pub pod: Ipv4Addr,
    /// The pod's port, or the identifier of its ICMP echo.
    pub pod_port: u16,
    /// The other end.
    pub remote: Ipv4Addr,
    /// Its port; 0 for ICMP.
    pub remote_port: u16,
    /// `masqueraded`, or `inbound`: began outside the ranges, so its replies keep the pod's address.
    pub kind: Kind,
    /// What the remote sees the pod's packets come from.
    pub seen_as: Ipv4Addr,
    /// The port that goes with it.
    pub seen_port: u16,
    /// `opening`, `established`, `closing` (TCP), `active` (UDP, ICMP) or `over`.
    pub state: State,
    /// Seconds since the last packet; none in the netfilter tier.
    pub idle_seconds: Option<u64>,
    /// Seconds without a packet after which it is over.
    pub expires_seconds: u64,
}

/// Transport protocol of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo.
    Icmp,
}

/// Why a flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Began in the pod and leaves with the node's address.
    Masqueraded,
    /// Began outside the ranges: its replies leave with the pod's address.
    Inbound,
}

/// How far a flow got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// TCP: past its first packet, not past the handshake.
    Opening,
    /// TCP: open.
    Established,
    /// TCP: a FIN or RST was seen.
    Closing,
    /// UDP and ICMP: seen within their idle time.
    Active,
    /// Idle for too long; its place is taken over when somebody needs it.
    Over,
}

impl Flow {
    /// Whether a packet of it would be taken for one of it.
    pub fn is_live(&self) -> bool {
        self.state != State::Over
    }
}

impl Protocol {
    /// IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp => 1,
        }
    }

    /// The protocol of this number, if flows can have it.
    pub fn of_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Icmp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }

    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl State {
    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Active => "active",
            Self::Over => "over",
        }
    }
}

/// Prints the flows, once or again and again.
pub fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let filter = options.filter.resolve()?;
    loop {
        let flows = read(&filter)?;
        let again = options.watch.is_some();
        if again && !output.is_json() && !output::lines("\x1b[H\x1b[2J") {
            return Ok(Outcome::Fine);
        }
        let read_by_somebody = if options.count {
            output.print(&Count::of(&flows), again)?
        } else if let Some(most) = options.top {
            output.print(&Top::of(&flows, most), again)?
        } else {
            output.print(&Flows { flows }, again)?
        };
        match options.watch {
            Some(seconds) if read_by_somebody => std::thread::sleep(Duration::from_secs(seconds)),
            _ => return Ok(Outcome::Fine),
        }
    }
}

/// The flows of a bridge, in whatever tier it has; in no order.
pub fn of_bridge(bridge: &str) -> Result<Vec<Flow>, Failure> {
    match Record::read(bridge).map(|record| record.tier) {
        Some(Tier::Ebpf(_)) => ebpf::read(bridge),
        Some(Tier::Netfilter) => {
            let pods = state::attachments(bridge)
                .unwrap_or_default()
                .into_iter()
                .map(|pod| pod.address);
            conntrack::read(bridge, &pods.collect())
        }
        None => Ok(Vec::new()),
    }
}

fn read(filter: &filter::Resolved) -> Result<Vec<Flow>, Failure> {
    let mut flows = Vec::new();
    for (bridge, _) in Record::all() {
        flows.extend(
            of_bridge(&bridge)?
                .into_iter()
                .filter(|flow| filter.takes(flow)),
        );
    }
    flows.sort_by_key(|flow| {
        (
            flow.pod,
            flow.protocol,
            flow.remote,
            flow.remote_port,
            flow.pod_port,
            flow.kind,
        )
    });
    Ok(flows)
}
