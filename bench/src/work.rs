//! What is measured of every subject, and in what units.

use std::time::Duration;

use anyhow::Result;
use azure_vnet_testbed::Azure;

use crate::node::Node;
use crate::packets::{self, Cost, Floor};
use crate::servers::Servers;
use crate::tcp;

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// 64-byte UDP from the pod to the fabric.
    PacketsOut,
    /// 64-byte UDP from outside to the pod.
    PacketsIn,
    /// One TCP stream from the pod.
    Stream,
    /// The same without segmentation offload.
    StreamWithoutGso,
    /// One byte and its answer on one connection.
    Answers,
    /// Connect, one question, close.
    Connections,
}

/// One figure of a work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Nanoseconds that the node spends on a packet: sender taken off.
    CostOut,
    /// Packets per second, sender included.
    RateOut,
    CostIn,
    RateIn,
    Stream,
    StreamWithoutGso,
    AnswerMedian,
    Answer99,
    Connection,
}

impl Figure {
    pub const ALL: [Self; 9] = [
        Self::CostOut,
        Self::CostIn,
        Self::RateOut,
        Self::RateIn,
        Self::AnswerMedian,
        Self::Answer99,
        Self::Connection,
        Self::Stream,
        Self::StreamWithoutGso,
    ];

    /// Stable, for the JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::CostOut => "out_ns_per_packet",
            Self::RateOut => "out_packets_per_second",
            Self::CostIn => "in_ns_per_packet",
            Self::RateIn => "in_packets_per_second",
            Self::Stream => "stream_gbit_per_second",
            Self::StreamWithoutGso => "stream_without_gso_gbit_per_second",
            Self::AnswerMedian => "answer_p50_us",
            Self::Answer99 => "answer_p99_us",
            Self::Connection => "connection_us",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::CostOut => "Node cost of a packet out, ns",
            Self::RateOut => "Packets out per second and CPU, sender included",
            Self::CostIn => "Node cost of a packet in, ns",
            Self::RateIn => "Packets in per second and CPU, sender included",
            Self::Stream => "TCP stream, Gbit/s",
            Self::StreamWithoutGso => "TCP stream without segmentation offload, Gbit/s",
            Self::AnswerMedian => "Request and response, p50, µs",
            Self::Answer99 => "Request and response, p99, µs",
            Self::Connection => "Connect, request, close, µs",
        }
    }

    /// Whether more is better.
    pub fn is_rate(self) -> bool {
        matches!(
            self,
            Self::RateOut | Self::RateIn | Self::Stream | Self::StreamWithoutGso
        )
    }
}

/// How long a sample takes.
const STREAM_TIME: Duration = Duration::from_millis(150);

/// One figure of a sample. Where there is a yardstick, it is in multiples of that: of the same kind of work that was done in turn with it. So
/// it is not in the figure how fast the machine was at that moment.
pub struct Measured {
    pub figure: Figure,
    pub value: f64,
    pub yardstick: Option<f64>,
}

impl Measured {
    /// As the clock said it.
    fn plainly(figure: Figure, value: f64) -> Self {
        Self {
            figure,
            value,
            yardstick: None,
        }
    }

    fn beside(figure: Figure, value: f64, yardstick: f64) -> Self {
        Self {
            figure,
            value,
            yardstick: Some(yardstick),
        }
    }
}

impl Work {
    pub const ALL: [Self; 6] = [
        Self::PacketsOut,
        Self::PacketsIn,
        Self::Answers,
        Self::Connections,
        Self::Stream,
        Self::StreamWithoutGso,
    ];
    /// Those whose figures depend on how much there is on a node.
    pub const SCALING: [Self; 3] = [Self::PacketsOut, Self::PacketsIn, Self::Connections];

    /// One sample of this work on VM number `number`; latencies in turn with `first`, the first subject.
    pub fn sample(
        self,
        azure: &Azure,
        (number, node): (usize, &Node<'_>),
        first: &Node<'_>,
        servers: &Servers,
        floor: &Floor<'_>,
    ) -> Result<Vec<Measured>> {
        let of_packets = |cost, rate, measured: Cost| {
            vec![
                Measured::beside(cost, measured.node, measured.sender),
                Measured::beside(rate, 1.0 / (1.0 + measured.node), 1e9 / measured.sender),
            ]
        };
        Ok(match self {
            Self::PacketsOut => {
                let measured = packets::out(azure, number, node, servers, floor)?;
                of_packets(Figure::CostOut, Figure::RateOut, measured)
            }
            Self::PacketsIn => {
                let measured = packets::back(azure, number, node, servers, floor)?;
                of_packets(Figure::CostIn, Figure::RateIn, measured)
            }
            Self::Stream => vec![Measured::plainly(
                Figure::Stream,
                tcp::stream(node.pod(), servers, STREAM_TIME)?,
            )],
            Self::StreamWithoutGso => vec![Measured::plainly(
                Figure::StreamWithoutGso,
                tcp::stream_without_gso(node.pod(), servers, STREAM_TIME)?,
            )],
            Self::Answers => {
                let (median, tail) = tcp::answers(first.pod(), node.pod(), servers)?;
                vec![
                    Measured::beside(Figure::AnswerMedian, median.times, median.first),
                    Measured::beside(Figure::Answer99, tail.times, tail.first),
                ]
            }
            Self::Connections => {
                let median = tcp::connections(first.pod(), node.pod(), servers)?;
                vec![Measured::beside(
                    Figure::Connection,
                    median.times,
                    median.first,
                )]
            }
        })
    }
}
