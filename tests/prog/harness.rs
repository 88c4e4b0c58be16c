//! A node's programs and maps without a node: loaded into the kernel with maps of their own, run on
//! one packet at a time.
//!
//! Nothing is attached or pinned, so all of it ends with the value, also on a panic.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, PerCpuArray, Queue};
use aya::programs::tc::{SchedClassifierLink, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use azure_vnet_abi::{
    Be32, Destination, Flow, FlowFlags, FlowKey, Fragment, Judgement, Mac, Nic, Pod as PodEntry,
    PolicyKey, PolicyState, Port, Queued, Reason, ReservedPorts, RuleKey, Search, Secret, Share,
    Timeouts, Uplink, maps, programs,
};
use azure_vnet_testbed::namespace::Namespace;
use bytes::Bytes;

use crate::flows::{Change, Snapshot, Tuple, assert_pairs, changes, flows_of, sorted};
use crate::packet::{Packet, sent_by};
use crate::plan::{
    BRIDGE_IFINDEX, CURRENT, DATABASE, FREE, HZ, MTU, NIC, NIC_IFINDEX, NODE, OTHER_NIC_IFINDEX,
    POLICY, PORTS, Pod, TIMEOUTS, WEB,
};
use crate::refusal::prohibited;

/// `TC_ACT_UNSPEC`, which is `TCX_NEXT`: the next program decides.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;
/// `TC_ACT_REDIRECT`. A test run does not carry it out.
const REDIRECT: i32 = 7;

/// Entries in the flow table, unless a test has others. Few, because it is read whole after every
/// packet.
const FLOWS: u32 = 16_384;

/// The programs of a node that has the pods [`WEB`] and [`DATABASE`].
pub struct Node {
    ebpf: Ebpf,
}

#[expect(clippy::wrong_self_convention, reason = "the hooks are called so")]
impl Node {
    pub fn new() -> Self {
        Self::with_ports(PORTS)
    }

    /// One that masquerades with these ports.
    pub fn with_ports(ports: RangeInclusive<u16>) -> Self {
        let mut node = Self::load(FLOWS);
        node.configure(ports, HZ);
        node
    }

    /// One whose flow table holds so many entries.
    pub fn with_flow_table(entries: u32) -> Self {
        let mut node = Self::load(entries);
        node.configure(PORTS, HZ);
        node
    }

    /// One that has not been told anything.
    pub fn unconfigured() -> Self {
        Self::load(FLOWS)
    }

    fn load(flows: u32) -> Self {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::FLOWS, flows)
            .map_max_entries(maps::SWEEP, FLOWS)
            .load(azure_vnet::datapath::OBJECT)
            .expect("the kernel takes the maps: these tests need root (CAP_BPF, CAP_NET_ADMIN)");
        for name in programs::ALL {
            let program = ebpf.program_mut(name).unwrap();
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program
                .load()
                .expect("the kernel's verifier takes the program");
        }
        Self { ebpf }
    }

    /// What user space writes for the NIC and for each pod.
    pub fn configure(&mut self, ports: RangeInclusive<u16>, hz: u32) {
        let uplink = Uplink::new(Be32::from(NODE), NIC, ports, hz, TIMEOUTS)
            .redirecting_to(NIC_IFINDEX, MTU, true)
            .routed_by(BRIDGE_IFINDEX)
            // Nothing gives way before its time, unless a test is about that.
            .believing(i32::MAX.cast_unsigned(), u32::MAX, u32::MAX);
        let mut map: Array<_, Uplink> = self.map_mut(maps::UPLINK);
        map.set(0, uplink, 0).unwrap();
        for (prefix, length, action) in POLICY {
            self.set_policy(prefix, length, action);
        }
        self.set_policy_state(PolicyState {
            current: CURRENT,
            ..PolicyState::default()
        });
        for pod in [WEB, DATABASE] {
            self.add_pod(&pod);
        }
    }

    /// Other timeouts than [`TIMEOUTS`].
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        let mut map: Array<_, Uplink> = self.map_mut(maps::UPLINK);
        let mut uplink = map.get(&0, 0).unwrap();
        uplink.timeouts = timeouts;
        map.set(0, uplink, 0).unwrap();
    }

    /// The NIC has another address.
    pub fn set_address(&mut self, address: Ipv4Addr) {
        let mut map: Array<_, Uplink> = self.map_mut(maps::UPLINK);
        let mut uplink = map.get(&0, 0).unwrap();
        uplink.address = address.into();
        map.set(0, uplink, 0).unwrap();
    }

    /// Whether new flows may become fast.
    pub fn set_fast_path(&mut self, is_on: bool) {
        let mut map: Array<_, Uplink> = self.map_mut(maps::UPLINK);
        let uplink = map.get(&0, 0).unwrap();
        map.set(0, uplink.redirecting_to(NIC_IFINDEX, MTU, is_on), 0)
            .unwrap();
    }

    /// One interface more.
    pub fn add_pod(&mut self, pod: &Pod) {
        let address = Be32::from(pod.address);
        let entry = PodEntry::new(pod.ifindex, pod.container, pod.mac);
        let mut pods: HashMap<_, Be32, PodEntry> = self.map_mut(maps::PODS);
        pods.insert(address, entry, 0).unwrap();
        let entry = Port::new(address, pod.container, pod.mac);
        let mut ports: HashMap<_, u32, Port> = self.map_mut(maps::PORTS);
        ports.insert(pod.ifindex, entry, 0).unwrap();
        self.set_share(pod, 0);
    }

    /// Nobody stands at the host's end of a veth.
    pub fn set_direct(&mut self, ifindex: u32, direct: u32) {
        let mut map: HashMap<_, u32, u32> = self.map_mut(maps::DIRECT);
        map.insert(ifindex, direct, 0).unwrap();
    }

    /// An address of another NIC.
    pub fn add_nic(&mut self, address: Ipv4Addr, mac: Mac) {
        let mut map: HashMap<_, Be32, Nic> = self.map_mut(maps::NICS);
        let nic = Nic::new(OTHER_NIC_IFINDEX, mac);
        map.insert(Be32::from(address), nic, 0).unwrap();
    }

    /// How many flows each pod may have.
    pub fn set_flows_per_pod(&mut self, flows: u32) {
        let mut map: Array<_, Uplink> = self.map_mut(maps::UPLINK);
        let uplink = map.get(&0, 0).unwrap().with_flows_per_pod(flows);
        map.set(0, uplink, 0).unwrap();
    }

    /// For how many jiffies how many flows of a pod that are not proven keep what they have, and for how many a port is searched.
    pub fn set_belief(&mut self, grace: u32, protected: u32, searched: u32) {
        let mut map: Array<_, Uplink> = self.map_mut(maps::UPLINK);
        let uplink = map.get(&0, 0).unwrap();
        map.set(0, uplink.believing(grace, protected, searched), 0)
            .unwrap();
    }

    /// The key that chooses ports.
    pub fn set_secret(&mut self, secret: Secret) {
        let mut map: Array<_, Uplink> = self.map_mut(maps::UPLINK);
        let uplink = map.get(&0, 0).unwrap().with_secret(secret);
        map.set(0, uplink, 0).unwrap();
    }

    /// How many flows a pod is counted to have.
    pub fn set_share(&mut self, pod: &Pod, flows: i64) {
        let mut map: HashMap<_, Be32, Share> = self.map_mut(maps::SHARES);
        let address = Be32::from(pod.address);
        map.insert(address, Share::new(flows), 0).unwrap();
    }

    /// The same, of all pods.
    pub fn shares(&self) -> BTreeMap<Ipv4Addr, i64> {
        let map: HashMap<_, Be32, Share> = self.map(maps::SHARES);
        let shares = map.iter().map(|share| {
            let (address, share) = share.unwrap();
            (address.into(), share.flows)
        });
        shares.collect()
    }

    /// One prefix more, or another action for one that is there.
    pub fn set_policy(&mut self, prefix: Ipv4Addr, length: u32, action: u32) {
        self.set_judgement(CURRENT, prefix, length, Judgement { action, rules: 0 });
    }

    /// The same with rules by port, or in another policy.
    pub fn set_judgement(
        &mut self,
        generation: u32,
        prefix: Ipv4Addr,
        length: u32,
        judgement: Judgement,
    ) {
        let mut policy: LpmTrie<_, PolicyKey, Judgement> = self.map_mut(maps::POLICY);
        let destination = Be32::from(prefix);
        let key = PolicyKey {
            generation,
            destination,
        };
        let key = Key::new(PolicyKey::HEAD + length, key);
        policy.insert(&key, judgement, 0).unwrap();
    }

    /// One entry of rules: for so many bits of a port.
    pub fn set_rule(&mut self, rules: u16, protocol: u8, port: u16, bits: u32, action: u32) {
        let mut map: LpmTrie<_, RuleKey, u32> = self.map_mut(maps::RULES);
        let key = RuleKey::new(CURRENT, rules, protocol, port.to_be_bytes());
        map.insert(&Key::new(RuleKey::HEAD + bits, key), action, 0)
            .unwrap();
    }

    /// Which policies are in force.
    pub fn set_policy_state(&mut self, state: PolicyState) {
        let mut map: Array<_, PolicyState> = self.map_mut(maps::POLICIES);
        map.set(0, state, 0).unwrap();
    }

    /// Sends a packet out of a pod.
    pub fn from_pod(&self, pod: &Pod, frame: impl Into<Bytes>) -> Run {
        self.from_device(pod.ifindex, frame)
    }

    /// Lets a packet come in through a device.
    pub fn from_device(&self, ifindex: u32, frame: impl Into<Bytes>) -> Run {
        self.observe(|| self.run_from_device(ifindex, &frame.into()))
    }

    /// Sends a packet out of a pod that its sender has not cut into segments yet.
    pub fn from_pod_in_segments(
        &self,
        pod: &Pod,
        frame: impl Into<Bytes>,
        segments: u32,
        payload: u32,
    ) -> Run {
        let mut context = context(pod.ifindex);
        context[164..168].copy_from_slice(&segments.to_ne_bytes());
        context[176..].copy_from_slice(&payload.to_ne_bytes());
        let frame = frame.into();
        self.observe(|| {
            let program = self.program(programs::FROM_POD);
            DEVICES
                .run(|| test_run(program, &frame, Some(context)))
                .unwrap()
        })
    }

    /// The mark of a packet from the fabric after the NIC's hook, if it came with this one.
    pub fn mark_after_from_uplink(&self, frame: impl Into<Bytes>, mark: u32) -> u32 {
        marked(self.program(programs::FROM_UPLINK), &frame.into(), mark)
    }

    /// Routes a packet to the NIC: whoever it came from, it has the NIC's MAC then.
    pub fn to_uplink(&self, frame: impl Into<Bytes>) -> Run {
        let frame = sent_by(NIC, &frame.into());
        self.observe(|| self.run(programs::TO_UPLINK, &frame))
    }

    /// The same for a packet that came in from a device, by its index.
    pub fn to_uplink_from(&self, ifindex: u32, frame: impl Into<Bytes>) -> Run {
        let frame = sent_by(NIC, &frame.into());
        let mut context = [0; 180];
        context[36..40].copy_from_slice(&ifindex.to_ne_bytes());
        self.observe(|| test_run(self.program(programs::TO_UPLINK), &frame, Some(context)))
    }

    /// Routes a packet to the bridge.
    pub fn to_pods(&self, frame: impl Into<Bytes>) -> Run {
        self.observe(|| self.run(programs::TO_PODS, &frame.into()))
    }

    /// Lets a packet come in through the NIC.
    pub fn from_uplink(&self, frame: impl Into<Bytes>) -> Run {
        self.observe(|| self.run(programs::FROM_UPLINK, &frame.into()))
    }

    /// The same on a node whose routes drop what is for [`FREE`].
    pub fn from_uplink_beside_routes(&self, frame: impl Into<Bytes>) -> Run {
        let frame = frame.into();
        let run = || self.run(programs::FROM_UPLINK, &frame);
        self.observe(|| DEVICES.run(run).unwrap())
    }

    /// Runs one of the NIC's programs and looks at nothing but what it returns and makes of the
    /// packet, for tests with thousands of packets.
    pub fn run(&self, program: &str, frame: &Bytes) -> (Verdict, Bytes) {
        test_run(self.program(program), frame, None)
    }

    /// The same for the program of a pod's veth.
    pub fn run_from_device(&self, ifindex: u32, frame: &Bytes) -> (Verdict, Bytes) {
        let program = self.program(programs::FROM_POD);
        DEVICES
            .run(|| test_run(program, frame, Some(context(ifindex))))
            .unwrap()
    }

    fn observe(&self, run: impl FnOnce() -> (Verdict, Bytes)) -> Run {
        let (flows, counters, shares) = (self.flows(), self.counters(), self.shares());
        let (verdict, frame) = run();
        let (flows_after, counters_after) = (self.flows(), self.counters());
        assert_pairs(&flows, &flows_after);
        for (pod, share) in self.shares() {
            let grown = flows_of(pod, &flows_after) - flows_of(pod, &flows);
            assert_eq!(share - shares[&pod], grown, "the share of {pod}");
        }
        Run {
            verdict,
            frame,
            counted: counters_after
                .into_iter()
                .zip(counters)
                .map(|((reason, after), (_, before))| (reason, after - before))
                .filter(|(_, packets)| *packets > 0)
                .collect(),
            changes: changes(&flows, &flows_after),
        }
    }

    /// Puts a program on a device of the calling thread's namespace, until the result is dropped.
    pub fn attach(
        &mut self,
        name: &str,
        device: &str,
        direction: TcAttachType,
    ) -> SchedClassifierLink {
        // The hook of cls_bpf, which kernels before 6.6 need.
        let _ = qdisc_add_clsact(device);
        let program = self.ebpf.program_mut(name).unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        let link = program.attach(device, direction).unwrap();
        program.take_link(link).unwrap()
    }

    /// The flow table.
    pub fn flows(&self) -> Snapshot {
        let map: HashMap<_, FlowKey, Flow> = self.map(maps::FLOWS);
        map.iter()
            .map(|element| {
                element
                    .map(|(key, flow)| (Tuple::from(&key), flow))
                    .unwrap()
            })
            .collect()
    }

    /// One entry, which has to be there.
    pub fn flow(&self, tuple: Tuple) -> Flow {
        let map: HashMap<_, FlowKey, Flow> = self.map(maps::FLOWS);
        map.get(&tuple.key(), 0)
            .unwrap_or_else(|error| panic!("{tuple:?}: {error}"))
    }

    /// Whether there is such an entry.
    pub fn has_flow(&self, tuple: Tuple) -> bool {
        let map: HashMap<_, FlowKey, Flow> = self.map(maps::FLOWS);
        map.get(&tuple.key(), 0).is_ok()
    }

    /// Puts an entry into the flow table.
    pub fn set_flow(&mut self, tuple: Tuple, flow: Flow) {
        let mut map: HashMap<_, FlowKey, Flow> = self.map_mut(maps::FLOWS);
        map.insert(tuple.key(), flow, 0).unwrap();
    }

    /// Puts a flow that was answered on the fast path. A test run cannot: where its packets come from, nothing tells that
    /// they came straight from a veth.
    pub fn make_fast(&mut self, entries: [Tuple; 2]) {
        for tuple in entries {
            let mut flow = self.flow(tuple);
            flow.flags = FlowFlags::FAST;
            self.set_flow(tuple, flow);
        }
    }

    /// Takes an entry out of the flow table.
    pub fn remove_flow(&mut self, tuple: Tuple) {
        let mut map: HashMap<_, FlowKey, Flow> = self.map_mut(maps::FLOWS);
        map.remove(&tuple.key()).unwrap();
    }

    /// Lets so many jiffies go by for one entry, while all others have packets.
    pub fn age(&mut self, tuple: Tuple, jiffies: u32) {
        let mut flow = self.flow(tuple);
        flow.last_seen = flow.last_seen.wrapping_sub(jiffies);
        self.set_flow(tuple, flow);
        self.age_all_else(jiffies);
    }

    /// Lets so many jiffies go by for all entries.
    pub fn age_all(&mut self, jiffies: u32) {
        for (tuple, mut flow) in self.flows() {
            flow.last_seen = flow.last_seen.wrapping_sub(jiffies);
            self.set_flow(tuple, flow);
        }
        self.age_all_else(jiffies);
    }

    fn age_all_else(&mut self, jiffies: u32) {
        self.age_queue(jiffies);
        let mut map: HashMap<_, Destination, Search> = self.map_mut(maps::SEARCHES);
        let searches: Vec<_> = map.iter().collect::<Result<_, _>>().unwrap();
        for (destination, mut search) in searches {
            search.until = search.until.wrapping_sub(jiffies);
            map.insert(destination, search, 0).unwrap();
        }
    }

    /// Flows stand in line for longer by so many jiffies.
    fn age_queue(&mut self, jiffies: u32) {
        let mut queue: Queue<_, Queued> = self.map_mut(maps::SWEEP);
        let mut all = Vec::new();
        while let Ok(queued) = queue.pop(0) {
            all.push(queued);
        }
        for mut queued in all {
            queued.since = queued.since.wrapping_sub(jiffies);
            queue.push(queued, 0).unwrap();
        }
    }

    /// The searches for ports that later packets go on with.
    pub fn searches(&self) -> Vec<(Destination, Search)> {
        let map: HashMap<_, Destination, Search> = self.map(maps::SEARCHES);
        map.iter().collect::<Result<_, _>>().unwrap()
    }

    /// How far a search has come.
    pub fn set_search(&mut self, destination: Destination, search: Search) {
        let mut map: HashMap<_, Destination, Search> = self.map_mut(maps::SEARCHES);
        map.insert(destination, search, 0).unwrap();
    }

    /// Keeps just these ports from new flows, as user space does: what was known of searches is void.
    pub fn set_reserved(&mut self, ports: impl IntoIterator<Item = u16>) {
        let mut reserved = ReservedPorts::NONE;
        for port in ports {
            reserved.insert(port);
        }
        let mut map: Array<_, ReservedPorts> = self.map_mut(maps::RESERVED);
        map.set(0, reserved, 0).unwrap();
        for (destination, _) in self.searches() {
            let mut map: HashMap<_, Destination, Search> = self.map_mut(maps::SEARCHES);
            map.remove(&destination).unwrap();
        }
    }

    /// Whether a CPU searches a port, as far as the others know.
    pub fn is_searching(&self) -> bool {
        let map: HashMap<_, Destination, u32> = self.map(maps::SEARCHING);
        map.iter().next().is_some()
    }

    /// As if another CPU searched a port, or did so no longer.
    pub fn set_searching(&mut self, destination: Destination, is_searching: bool) {
        let mut map: HashMap<_, Destination, u32> = self.map_mut(maps::SEARCHING);
        if is_searching {
            map.insert(destination, 1, 0).unwrap();
        } else {
            map.remove(&destination).unwrap();
        }
    }

    /// Lets an entry's idle time go by.
    pub fn time_out(&mut self, tuple: Tuple) {
        let timeout = self.flow(tuple).timeout;
        self.age(tuple, timeout + 1);
    }

    /// Lets nearly all of an entry's idle time go by: all but ten minutes.
    pub fn nearly_time_out(&mut self, tuple: Tuple) {
        let timeout = self.flow(tuple).timeout;
        self.age(tuple, timeout - 600 * HZ);
    }

    /// Lets so many jiffies go by for everything that is known about fragments.
    pub fn age_fragments(&mut self, jiffies: u32) {
        let mut map: HashMap<_, [u8; 12], [u8; 20]> = self.map_mut(maps::FRAGMENTS);
        let entries: Vec<_> = map.iter().collect::<Result<_, _>>().unwrap();
        for (key, mut value) in entries {
            let field = &mut value[offset_of!(Fragment, seen)..][..4];
            let seen = u32::from_ne_bytes((*field).try_into().unwrap());
            field.copy_from_slice(&seen.wrapping_sub(jiffies).to_ne_bytes());
            map.insert(key, value, 0).unwrap();
        }
    }

    /// What is known of a pod by its address and by its device.
    pub fn known_macs(&self, pod: &Pod) -> (Mac, Mac) {
        let pods: HashMap<_, Be32, PodEntry> = self.map(maps::PODS);
        let ports: HashMap<_, u32, Port> = self.map(maps::PORTS);
        let by_address = pods.get(&Be32::from(pod.address), 0).unwrap();
        let by_ifindex = ports.get(&pod.ifindex, 0).unwrap();
        assert_eq!(by_address.ifindex, pod.ifindex);
        assert_eq!(Ipv4Addr::from(by_ifindex.address), pod.address);
        (by_address.mac, by_ifindex.mac)
    }

    /// Packets by reason since the programs were loaded.
    pub fn counters(&self) -> Vec<(Reason, u64)> {
        let map: PerCpuArray<_, u64> = self.map(maps::COUNTERS);
        Reason::ALL
            .into_iter()
            .map(|reason| (reason, map.get(&(reason as u32), 0).unwrap().iter().sum()))
            .collect()
    }

    /// Those of one reason.
    pub fn packets(&self, reason: Reason) -> u64 {
        let map: PerCpuArray<_, u64> = self.map(maps::COUNTERS);
        map.get(&(reason as u32), 0).unwrap().iter().sum()
    }

    fn map<'a, T>(&'a self, name: &str) -> T
    where
        T: TryFrom<&'a aya::maps::Map, Error: std::fmt::Debug>,
    {
        self.ebpf.map(name).unwrap().try_into().unwrap()
    }

    fn map_mut<'a, T>(&'a mut self, name: &str) -> T
    where
        T: TryFrom<&'a mut aya::maps::Map, Error: std::fmt::Debug>,
    {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }

    fn program(&self, name: &str) -> &SchedClassifier {
        self.ebpf.program(name).unwrap().try_into().unwrap()
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passes,
    Redirected,
    Dropped,
}

/// Everything that one packet did.
#[must_use = "a run that is not looked at tests nothing"]
#[derive(Debug)]
pub struct Run {
    verdict: Verdict,
    frame: Bytes,
    counted: Vec<(Reason, u64)>,
    changes: Vec<Change>,
}

impl Run {
    /// The packet went on as `expected`, counted once under `reason` (not at all for
    /// [`Reason::NotOurs`]), and the flow table changed like this and not otherwise.
    #[track_caller]
    pub fn passes(&self, reason: Reason, expected: impl Into<Bytes>, changes: &[Change]) {
        self.became(Verdict::Passes, reason, &expected.into(), changes);
    }

    /// The same for one on the fast path.
    #[track_caller]
    pub fn redirects(&self, reason: Reason, expected: impl Into<Bytes>, changes: &[Change]) {
        self.became(Verdict::Redirected, reason, &expected.into(), changes);
    }

    #[track_caller]
    fn became(&self, verdict: Verdict, reason: Reason, expected: &Bytes, changes: &[Change]) {
        self.ended(verdict, reason, changes);
        assert!(
            self.frame == *expected,
            "the packet\n{:02x?}\nshould be\n{:02x?}",
            &self.frame[..],
            &expected[..]
        );
    }

    /// The packet was dropped and counted once under `reason`. What the program had written into
    /// it by then is nobody's concern.
    #[track_caller]
    pub fn drops(&self, reason: Reason, changes: &[Change]) {
        self.ended(Verdict::Dropped, reason, changes);
    }

    /// There was no port, and nothing changed; the pod was told so, if that was not long ago. Whether
    /// and when it is told is the story of `refusal`.
    #[track_caller]
    pub fn finds_no_port(&self, sent: &Packet, pod: &Pod) {
        self.refuses(Reason::NoPortFound, sent, pod);
    }

    /// The same for this reason.
    #[track_caller]
    pub fn refuses(&self, reason: Reason, sent: &Packet, pod: &Pod) {
        if self.verdict == Verdict::Redirected {
            let answer = prohibited(&sent.bytes(), pod);
            self.redirects(reason, answer, &[]);
        } else {
            self.drops(reason, &[]);
        }
    }

    #[track_caller]
    fn ended(&self, verdict: Verdict, reason: Reason, changes: &[Change]) {
        let expected: &[_] = match reason {
            Reason::NotOurs => &[],
            _ => &[(reason, 1)],
        };
        assert_eq!(
            (self.verdict, &self.counted[..]),
            (verdict, expected),
            "with {:#?}",
            self.changes
        );
        assert_eq!(self.changes, sorted(changes.iter().copied()));
    }

    /// What became of the packet, and what was counted for it.
    pub fn outcome(&self) -> (Verdict, &[(Reason, u64)]) {
        (self.verdict, &self.counted)
    }
}

/// Devices with the indexes of the pods' host veths: the kernel runs `from_pod` only for a device
/// that is there. And a route, for what asks the kernel. The namespace ends with the process.
static DEVICES: LazyLock<Namespace> = LazyLock::new(|| {
    let namespace = Namespace::network().expect("these tests need root (CAP_SYS_ADMIN)");
    let [web, database] = [WEB, DATABASE].map(|pod| pod.ifindex.to_string());
    namespace
        .program("ip")
        .unwrap()
        .args(["link", "add", "web", "index", &web, "type", "veth"])
        .args(["peer", "name", "database", "index", &database])
        .checked()
        .unwrap();
    let free = FREE.to_string();
    let route = namespace.program("ip").unwrap();
    let route = route.args(["route", "add", "blackhole", &free]);
    route.checked().unwrap();
    let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    namespace.run(forward).unwrap().unwrap();
    namespace
});

fn test_run(
    program: &SchedClassifier,
    frame: &Bytes,
    context: Option<Context>,
) -> (Verdict, Bytes) {
    // An answer may be longer than what it is about.
    let mut out = vec![0; frame.len().max(70)];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context.as_ref().map(<[u8; 180]>::as_slice),
            ..TestRunOptions::default()
        })
        .expect("the kernel runs the program");
    let length = usize::try_from(result.data_size_out).unwrap();
    let verdict = match result.return_value.cast_signed() {
        NEXT => Verdict::Passes,
        SHOT => Verdict::Dropped,
        REDIRECT => Verdict::Redirected,
        other => panic!("{other} is none of TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT"),
    };
    out.truncate(length);
    (verdict, out.into())
}

/// The mark that a packet with this one has after the program.
fn marked(program: &SchedClassifier, frame: &Bytes, mark: u32) -> u32 {
    let mut context: Context = [0; 180];
    context[MARK].copy_from_slice(&mark.to_ne_bytes());
    // As large as any kernel's, or it would be cut off.
    let mut after = [0; 256];
    program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        })
        .expect("the kernel runs the program");
    let mut mark = [0; 4];
    mark.copy_from_slice(&after[MARK]);
    u32::from_ne_bytes(mark)
}

/// Where the mark is.
const MARK: std::ops::Range<usize> = 8..12;

/// A `struct __sk_buff` up to `gso_size`.
type Context = [u8; 180];

/// One with an `ifindex`, the other fields 0.
fn context(ifindex: u32) -> Context {
    let mut context = [0; 180];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
