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
    /// Nanoseconds that the node spends on a packet: sender taken off. A sample is in multiples of the sender's time, until all are there.
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
const QUESTIONS: usize = 1000;
const CONNECTIONS: usize = 800;

/// What one sample says.
pub struct Sample {
    pub figures: Vec<(Figure, f64)>,
    /// Nanoseconds of the sender, where its multiples are among the figures.
    pub sender: Option<f64>,
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

    /// One sample of this work on VM number `number`.
    pub fn sample(
        self,
        azure: &Azure,
        number: usize,
        node: &Node<'_>,
        servers: &Servers,
        floor: &Floor<'_>,
    ) -> Result<Sample> {
        let packets = |cost, rate, measured: Cost| Sample {
            figures: vec![(cost, measured.node), (rate, 1e9 / measured.whole)],
            sender: Some(measured.sender),
        };
        let figures = match self {
            Self::PacketsOut => {
                let measured = packets::out(azure, number, node, servers, floor)?;
                return Ok(packets(Figure::CostOut, Figure::RateOut, measured));
            }
            Self::PacketsIn => {
                let measured = packets::back(azure, number, node, servers, floor)?;
                return Ok(packets(Figure::CostIn, Figure::RateIn, measured));
            }
            Self::Stream => vec![(
                Figure::Stream,
                tcp::stream(node.pod(), servers, STREAM_TIME)?,
            )],
            Self::StreamWithoutGso => {
                let rate = tcp::stream_without_gso(node.pod(), servers, STREAM_TIME)?;
                vec![(Figure::StreamWithoutGso, rate)]
            }
            Self::Answers => {
                let times = tcp::answers(node.pod(), servers, QUESTIONS)?;
                vec![
                    (Figure::AnswerMedian, times.median()),
                    (Figure::Answer99, times.quantile(0.99)),
                ]
            }
            Self::Connections => {
                let time = tcp::connections(node.pod(), servers, CONNECTIONS)?;
                vec![(Figure::Connection, time)]
            }
        };
        Ok(Sample {
            figures,
            sender: None,
        })
    }
}
