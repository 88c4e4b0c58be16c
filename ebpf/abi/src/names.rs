//! Names of programs and maps: in the object file, in `bpftool` and in the pin path.

/// Program names, each that of its hook.
pub mod programs {
    /// TC ingress of a pod's host veth.
    pub const FROM_POD: &str = "from_pod";
    /// TC egress of the bridge.
    pub const TO_PODS: &str = "to_pods";
    /// TC egress of the NIC.
    pub const TO_UPLINK: &str = "to_uplink";
    /// TC ingress of the NIC.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// All of them.
    pub const ALL: [&str; 4] = [FROM_POD, TO_PODS, TO_UPLINK, FROM_UPLINK];
}

/// Map names.
pub mod maps {
    /// [`Uplink`](crate::Uplink), one element.
    pub const UPLINK: &str = "uplink";
    /// Address to [`Pod`](crate::Pod).
    pub const PODS: &str = "pods";
    /// Host veth's interface index to [`Port`](crate::Port).
    pub const PORTS: &str = "ports";
    /// Destination prefix to [`Judgement`](crate::Judgement).
    pub const POLICY: &str = "policy";
    /// Protocol and prefix of ports to [`Action`](crate::Action).
    pub const RULES: &str = "rules";
    /// [`PolicyState`](crate::PolicyState), one element.
    pub const POLICIES: &str = "policies";
    /// [`FlowKey`](crate::FlowKey) to [`Flow`](crate::Flow).
    pub const FLOWS: &str = "flows";
    /// [`FragmentKey`](crate::FragmentKey) to [`Fragment`](crate::Fragment).
    pub const FRAGMENTS: &str = "fragments";
    /// Queue of flows that are to be looked at again, [`Queued`](crate::Queued).
    pub const SWEEP: &str = "sweep";
    /// Per-CPU packet counters by [`Reason`](crate::Reason).
    pub const COUNTERS: &str = "counters";
    /// Per CPU, the [`FlowKey`](crate::FlowKey) of the packet that a pod sent last.
    pub const CANDIDATE: &str = "candidate";
    /// Ring buffer of [`Event`](crate::Event)s.
    pub const EVENTS: &str = "events";
    /// Until when somebody reads them, in jiffies (`u32`, one element); 0 for nobody.
    pub const WATCH: &str = "watch";
    /// [`Destination`](crate::Destination) to [`Search`](crate::Search).
    pub const SEARCHES: &str = "searches";
    /// The [`Destination`](crate::Destination)s that a CPU searches a port towards now.
    pub const SEARCHING: &str = "searching";
    /// [`ReservedPorts`](crate::ReservedPorts), one element.
    pub const RESERVED: &str = "reserved";
    /// A pod's address to its [`Share`](crate::Share).
    pub const SHARES: &str = "shares";
    /// An address of another NIC of the node to its [`Nic`](crate::Nic).
    pub const NICS: &str = "nics";
    /// Interface indexes of host veths that what a pod gets need not pass, each with a [`Direct`](crate::Direct).
    pub const DIRECT: &str = "direct";
    /// All of them.
    pub const ALL: [&str; 19] = [
        UPLINK, PODS, PORTS, POLICY, RULES, POLICIES, FLOWS, FRAGMENTS, SWEEP, COUNTERS, CANDIDATE,
        EVENTS, WATCH, SEARCHES, SEARCHING, RESERVED, SHARES, NICS, DIRECT,
    ];
    /// Those that a version takes over from an earlier one with what they hold, and the first version whose are as this one's:
    /// the same kind of map with the same layouts, which mean the same. What user space can write again is not among them, as the queue of the flows; the policy
    /// is, because the one before counts for connections that it let out.
    pub const TAKEN_OVER: [(&str, u32); 5] = [
        (FLOWS, 2),
        (FRAGMENTS, 2),
        (POLICY, 4),
        (RULES, 4),
        (POLICIES, 4),
    ];
}

/// Elements the `pods`, `ports` and `shares` maps hold: Azure allows 256 addresses on a NIC.
pub const MAX_PODS: u32 = 1024;
/// Elements the `nics` map holds: a VM has 8 NICs at most, and what they have beside a primary address is the pods'.
pub const MAX_NICS: u32 = 256;
/// Prefixes the `policy` map holds: those of two policies while one takes the other's place.
pub const MAX_PREFIXES: u32 = 16_384;
/// Entries the `rules` map holds, likewise.
pub const MAX_RULES: u32 = 16_384;
/// Entries of the flow table, two for each masqueraded flow.
pub const MAX_FLOWS: u32 = 524_288;
/// Packets whose later fragments are waited for.
pub const MAX_FRAGMENTS: u32 = 8192;
/// Destinations that a port is searched towards at the same time.
pub const MAX_SEARCHES: u32 = 1024;
