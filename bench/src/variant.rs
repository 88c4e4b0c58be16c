//! What is compared: ways to get a pod's packets out of a node, and how much else there is on the node.

use std::fmt;

/// A way from the pod to the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// A bridge that the NIC is a port of, no NAT, no netfilter: what a frame costs anyway.
    Plain,
    /// The same bridge with `br_netfilter` and the rule that Azure's documentation has for its plugin.
    Iptables,
    /// The reference plugin `bridge` with `ipMasq`: a bridge of its own, routed.
    Reference,
    /// A routed veth, nftables masquerade, and a flowtable on both of its devices.
    Flowtable,
    /// A program that looks nothing up: what the devices cost. By `cls_bpf`, into the pod by the peer.
    Bare,
    /// No pod: a process of the node's own.
    Host,
    /// Ours, without eBPF.
    Netfilter,
    /// Ours as by default, for a pod that may be shaped: its packets pass the host's end of its veth.
    Shaped,
    /// Ours.
    Ebpf {
        /// Attached by TCX; by `cls_bpf` otherwise.
        tcx: bool,
        /// Established flows go past bridge and netfilter.
        fast: bool,
    },
}

/// Ours as it is by default on a new kernel.
pub const DEFAULT: Variant = Variant::Ebpf {
    tcx: true,
    fast: true,
};

impl Variant {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 12] = [
        Self::Plain,
        Self::Iptables,
        Self::Reference,
        Self::Flowtable,
        Self::Bare,
        Self::Host,
        Self::Netfilter,
        Self::Ebpf {
            tcx: true,
            fast: false,
        },
        Self::Ebpf {
            tcx: false,
            fast: false,
        },
        DEFAULT,
        Self::Shaped,
        Self::Ebpf {
            tcx: false,
            fast: true,
        },
    ];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain bridge, no NAT",
            Self::Iptables => "iptables rule on the bridge",
            Self::Reference => "reference bridge + ipMasq",
            Self::Flowtable => "nf_flowtable, routed",
            Self::Bare => "bare redirect",
            Self::Host => "host process",
            Self::Netfilter => "azure-vnet netfilter",
            Self::Shaped => "azure-vnet eBPF (TCX), shaped pod",
            Self::Ebpf { tcx, fast } => match (tcx, fast) {
                (true, false) => "azure-vnet eBPF (TCX), no fast path",
                (false, false) => "azure-vnet eBPF (cls_bpf), no fast path",
                (true, true) => "azure-vnet eBPF (TCX)",
                (false, true) => "azure-vnet eBPF (cls_bpf)",
            },
        })
    }
}

/// How much there is on a node beside the one flow that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Pods on the node, the measured one included.
    pub pods: u8,
    /// Live flows beside the measured one.
    pub flows: u32,
    /// Prefixes that are not masqueraded.
    pub ranges: u32,
}

impl Scale {
    /// What everything else is compared with.
    pub const SMALL: Self = Self {
        pods: 1,
        flows: 0,
        ranges: 4,
    };

    /// The prefixes: the private ranges, and then as many /24 as are asked for, disjoint, since not every tool takes overlapping ones.
    pub fn prefixes(&self) -> Vec<String> {
        let real = [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
        ];
        let more = (0..self.ranges.saturating_sub(4)).map(|n| {
            // 44.0.0.0/8 belongs to radio amateurs; nothing here goes there.
            format!("44.{}.{}.0/24", n / 256, n % 256)
        });
        real.map(str::to_owned).into_iter().chain(more).collect()
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pods,
            flows,
            ranges,
        } = self;
        write!(f, "{pods} pods, {flows} flows, {ranges} ranges")
    }
}

/// One column of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    pub variant: Variant,
    pub scale: Scale,
}
