//! Typed access to the pinned maps.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, Queue};
use azure_vnet_abi::{
    Be32, Destination, Flow, FlowKey, FlowKind, Fragment, FragmentKey, Judgement, Mac, Nic,
    Pod as PodEntry, PolicyKey, PolicyState, Port, Queued, Reason, ReservedPorts, RuleKey, Search,
    Secret, Share, Uplink as UplinkEntry, maps,
};

use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::{Departed, Elsewhere, Pod, Uplink, batch, direct, is_link, queued};

/// Packets by [`Reason`], summed over the CPUs.
pub type Counters = Vec<(Reason, u64)>;

/// Tells the programs about the NIC. The secret that chooses ports is drawn by the first call, and kept as long as the map.
pub fn configure(pins: &Pins, uplink: &Uplink) -> Result<(), EbpfError> {
    let mut map: Array<MapData, UplinkEntry> = open(pins, maps::UPLINK)?;
    let present = map.get(&0, 0);
    let present = present.map_err(|source| EbpfError::map(maps::UPLINK, source))?;
    let secret = match present.secret {
        none if none == Secret::default() => draw_secret()?,
        secret => secret,
    };
    let wanted = uplink_entry(uplink)?.with_secret(secret);
    if present != wanted {
        map.set(0, wanted, 0)
            .map_err(|source| EbpfError::map(maps::UPLINK, source))?;
        // What is known may be about another range.
        forget_searches(pins)?;
    }
    Ok(())
}

/// Whether the programs masquerade with the ports that `uplink` says.
pub fn has_ports(pins: &Pins, uplink: &Uplink) -> Result<bool, EbpfError> {
    let map: Array<MapData, UplinkEntry> = open(pins, maps::UPLINK)?;
    let entry = map.get(&0, 0);
    let entry = entry.map_err(|source| EbpfError::map(maps::UPLINK, source))?;
    Ok(Ok((entry.port_min, entry.port_max)) == uplink.ports)
}

/// The ports that no new flow is given.
pub fn reserved(pins: &Pins) -> Result<Box<ReservedPorts>, EbpfError> {
    let map: Array<MapData, ReservedPorts> = open(pins, maps::RESERVED)?;
    let ports = map.get(&0, 0);
    ports
        .map(Box::new)
        .map_err(|source| EbpfError::map(maps::RESERVED, source))
}

/// Makes them so. To be called under the bridge's lock.
pub fn reserve(pins: &Pins, ports: &ReservedPorts) -> Result<(), EbpfError> {
    let mut map: Array<MapData, ReservedPorts> = open(pins, maps::RESERVED)?;
    map.set(0, ports, 0)
        .map_err(|source| EbpfError::map(maps::RESERVED, source))?;
    // One that is free now counted as in use.
    forget_searches(pins)
}

/// Makes the addresses of other NICs these.
pub fn set_nics(pins: &Pins, elsewhere: &[Elsewhere]) -> Result<(), EbpfError> {
    let failed = |source| EbpfError::map(maps::NICS, source);
    let Some(mut nics) = open_pinned::<HashMap<MapData, Be32, Nic>>(pins, maps::NICS)? else {
        return Ok(());
    };
    let entries = elsewhere.iter().map(|it| {
        let nic = Nic::new(it.ifindex, Mac(it.mac.0));
        (Be32::from(it.address), nic)
    });
    let there: Vec<(Be32, Nic)> = nics.iter().collect::<Result<_, _>>().map_err(failed)?;
    let wanted: Vec<(Be32, Nic)> = entries.collect();
    for (address, _) in there.iter().filter(|it| !wanted.contains(it)) {
        found(nics.remove(address)).map_err(failed)?;
    }
    for (address, nic) in wanted.iter().filter(|it| !there.contains(it)) {
        nics.insert(address, nic, 0).map_err(failed)?;
    }
    Ok(())
}

/// Makes a pod known by its address and its port.
pub fn add_pod(pins: &Pins, pod: &Pod) -> Result<(), EbpfError> {
    let mac = Mac(pod.mac.0);
    let address = Be32::from(pod.address);
    let mut pods: Pods = open(pins, maps::PODS)?;
    let known = found(pods.get(&address, 0)).map_err(of_pods)?;
    let mut shares = shares(pins)?;
    let share = found(shares.get(&address, 0)).map_err(of_shares)?;
    // Whatever was counted for another link was another pod's.
    if share.is_none() || known.is_none_or(|known| known.ifindex != pod.ifindex) {
        let none = Share::new(0);
        shares.insert(address, none, 0).map_err(of_shares)?;
    }
    pods.insert(address, PodEntry::new(pod.ifindex, pod.container, mac), 0)
        .map_err(|source| EbpfError::map(maps::PODS, source))?;
    let mut ports: Ports = open(pins, maps::PORTS)?;
    ports
        .insert(pod.ifindex, Port::new(address, pod.container, mac), 0)
        .map_err(|source| EbpfError::map(maps::PORTS, source))
}

/// Forgets a pod and its port, and says whether the flow table may have entries of it. What another pod has by now stays: the
/// address may have been given away again.
pub fn remove_pod(pins: &Pins, pod: &Departed) -> Result<bool, EbpfError> {
    let (Some(mut pods), Some(mut ports)) = (open_pods(pins)?, open_ports(pins)?) else {
        return Ok(true);
    };
    let mut address = pod.address.map(Be32::from);
    if let Some(ifindex) = pod.ifindex {
        let port = found(ports.get(&ifindex, 0)).map_err(of_ports)?;
        address = address.or(port.map(|port| port.address));
        found(ports.remove(&ifindex)).map_err(of_ports)?;
        forget_direct(pins, [ifindex])?;
    } else {
        // It is known by its address and by its link's being gone.
        let known: Vec<(u32, Port)> = ports.iter().collect::<Result<_, _>>().map_err(of_ports)?;
        let at = |port: &Port| Some(port.address) == address;
        for (ifindex, _) in known
            .iter()
            .filter(|(ifindex, port)| at(port) && !is_link(*ifindex))
        {
            found(ports.remove(ifindex)).map_err(of_ports)?;
        }
    }
    let Some(address) = address else {
        return Ok(true);
    };
    let entry = found(pods.get(&address, 0)).map_err(of_pods)?;
    if entry.is_some_and(|entry| Some(entry.ifindex) == pod.ifindex || !is_link(entry.ifindex)) {
        return forget_pod(pins, &mut pods, address);
    }
    Ok(true)
}

/// Forgets the pods and ports whose links are gone; returns the addresses of those pods.
pub fn forget_dead(pins: &Pins) -> Result<Vec<Ipv4Addr>, EbpfError> {
    let (Some(mut pods), Some(mut ports)) = (open_pods(pins)?, open_ports(pins)?) else {
        return Ok(Vec::new());
    };
    let known: Vec<(Be32, PodEntry)> = pods.iter().collect::<Result<_, _>>().map_err(of_pods)?;
    let mut dead = Vec::new();
    for (address, _) in known.iter().filter(|(_, pod)| !is_link(pod.ifindex)) {
        forget_pod(pins, &mut pods, *address)?;
        dead.push(Ipv4Addr::from(*address));
    }
    let known: Vec<u32> = ports.keys().collect::<Result<_, _>>().map_err(of_ports)?;
    for ifindex in known.iter().filter(|ifindex| !is_link(**ifindex)) {
        found(ports.remove(ifindex)).map_err(of_ports)?;
    }
    let told = direct::told(pins)?.into_keys();
    forget_direct(pins, told.filter(|ifindex| !is_link(*ifindex)))?;
    Ok(dead)
}

/// Forgets that nobody stands at these host veths.
fn forget_direct(pins: &Pins, gone: impl IntoIterator<Item = u32>) -> Result<(), EbpfError> {
    let direct = open_pinned::<HashMap<MapData, u32, u32>>(pins, maps::DIRECT)?;
    let Some(mut direct) = direct else {
        return Ok(());
    };
    for ifindex in gone {
        let removed = found(direct.remove(&ifindex));
        removed.map_err(|source| EbpfError::map(maps::DIRECT, source))?;
    }
    Ok(())
}

/// Says whether the pod may have flows.
fn forget_pod(pins: &Pins, pods: &mut Pods, address: Be32) -> Result<bool, EbpfError> {
    let mut flows = None;
    if let Some(mut shares) = open_pinned::<Shares>(pins, maps::SHARES)? {
        flows = found(shares.get(&address, 0)).map_err(of_shares)?;
        found(shares.remove(&address)).map_err(of_shares)?;
    }
    found(pods.remove(&address)).map_err(of_pods)?;
    Ok(flows.is_none_or(|share| share.flows != 0))
}

/// For flows that were taken over from another version, which did neither, or whose counts or line are lost: counts what each
/// pod has of the table, and puts them in the line of those that are looked at again. Flows that begin or end meanwhile may be
/// counted wrong, a few and until their pod is gone.
pub fn adopt_flows(pins: &Pins) -> Result<(), EbpfError> {
    // A call that was killed may have put them in line as well: where there is no place left, the oldest give way.
    const BPF_EXIST: u64 = 2;
    let mut queue: Queue<MapData, Queued> = open(pins, maps::SWEEP)?;
    let mut queued = Ok(());
    let mut flows: BTreeMap<Ipv4Addr, i64> = BTreeMap::new();
    batch::for_each(pins, maps::FLOWS, |key: FlowKey, flow: Flow| {
        if flow.kind == FlowKind::UNMASQUERADE {
            return;
        }
        *flows.entry(key.source.into()).or_default() += 1;
        if queued.is_ok() {
            let since = flow.last_seen;
            queued = queue.push(Queued { key, since }, BPF_EXIST);
        }
    })?;
    queued.map_err(|source| EbpfError::map(maps::SWEEP, source))?;
    let mut shares = shares(pins)?;
    let pods: Vec<Be32> = shares.keys().collect::<Result<_, _>>().map_err(of_shares)?;
    for pod in pods {
        let flows = flows.get(&pod.into()).copied().unwrap_or(0);
        shares
            .insert(pod, Share::new(flows), 0)
            .map_err(of_shares)?;
    }
    Ok(())
}

/// Forgets the flows of `pod`, or, where its link's index is not known, of all pods whose links are gone, instead of waiting for
/// them to time out.
pub fn forget_flows(pins: &Pins, pod: &Departed) -> Result<(), EbpfError> {
    match pod.ifindex {
        Some(ifindex) => forget_flows_where(pins, |flow| flow.ifindex == ifindex),
        None => forget_dead_flows(pins),
    }
}

/// Forgets the flows of pods whose links are gone.
pub fn forget_dead_flows(pins: &Pins) -> Result<(), EbpfError> {
    let mut alive: BTreeMap<u32, bool> = BTreeMap::new();
    forget_flows_where(pins, |flow| {
        let ifindex = flow.ifindex;
        !*alive.entry(ifindex).or_insert_with(|| is_link(ifindex))
    })
}

fn forget_flows_where(
    pins: &Pins,
    mut is_dead: impl FnMut(&Flow) -> bool,
) -> Result<(), EbpfError> {
    let mut dead = Vec::new();
    batch::for_each(pins, maps::FLOWS, |key: FlowKey, flow: Flow| {
        if is_dead(&flow) {
            dead.push(key);
        }
    })?;
    if dead.is_empty() {
        return Ok(());
    }
    let flows = open_pinned::<HashMap<MapData, FlowKey, Flow>>(pins, maps::FLOWS)?;
    let Some(mut flows) = flows else {
        return Ok(());
    };
    for key in &dead {
        found(flows.remove(key)).map_err(|source| EbpfError::map(maps::FLOWS, source))?;
    }
    forget_searches(pins)
}

/// Ports are free before the programs could know it: what they remember of searches that found none is void.
fn forget_searches(pins: &Pins) -> Result<(), EbpfError> {
    let failed = |source| EbpfError::map(maps::SEARCHES, source);
    let searches = open_pinned::<HashMap<MapData, Destination, Search>>(pins, maps::SEARCHES)?;
    let Some(mut searches) = searches else {
        return Ok(());
    };
    let known: Vec<Destination> = searches.keys().collect::<Result<_, _>>().map_err(failed)?;
    for destination in &known {
        found(searches.remove(destination)).map_err(failed)?;
    }
    Ok(())
}

/// Which of the maps do not know a pod as it is.
pub fn lacking(pins: &Pins, pod: &Pod) -> Result<Vec<&'static str>, EbpfError> {
    Known::open(pins)?.lacking(pod)
}

/// The pods of these that the maps do not know, or not as they are.
pub fn unknown<'a>(pins: &Pins, pods: &'a [Pod]) -> Result<Vec<&'a Pod>, EbpfError> {
    let known = Known::open(pins)?;
    let mut unknown = Vec::new();
    for pod in pods {
        if !known.lacking(pod)?.is_empty() {
            unknown.push(pod);
        }
    }
    Ok(unknown)
}

/// The maps with an entry of each pod, as far as they are pinned.
struct Known {
    pods: Option<Pods>,
    shares: Option<Shares>,
    ports: Option<Ports>,
}

impl Known {
    fn open(pins: &Pins) -> Result<Self, EbpfError> {
        Ok(Self {
            pods: open_pods(pins)?,
            shares: open_pinned(pins, maps::SHARES)?,
            ports: open_ports(pins)?,
        })
    }

    fn lacking(&self, pod: &Pod) -> Result<Vec<&'static str>, EbpfError> {
        let address = Be32::from(pod.address);
        let mut lacking = Vec::new();
        let entry = match &self.pods {
            Some(pods) => found(pods.get(&address, 0)).map_err(of_pods)?,
            None => None,
        };
        if entry.is_none_or(|entry| entry.ifindex != pod.ifindex) {
            lacking.push(maps::PODS);
        }
        let share = match &self.shares {
            Some(shares) => found(shares.get(&address, 0)).map_err(of_shares)?,
            None => None,
        };
        if share.is_none() {
            lacking.push(maps::SHARES);
        }
        let port = match &self.ports {
            Some(ports) => found(ports.get(&pod.ifindex, 0)).map_err(of_ports)?,
            None => None,
        };
        if port.is_none_or(|port| port.address != address) {
            lacking.push(maps::PORTS);
        }
        Ok(lacking)
    }
}

/// Reads the counters.
pub fn counters(pins: &Pins) -> Result<Counters, EbpfError> {
    let map: PerCpuArray<MapData, u64> = open(pins, maps::COUNTERS)?;
    Reason::ALL
        .into_iter()
        .filter(|reason| *reason != Reason::NotOurs)
        .map(|reason| {
            let values = map
                .get(&(reason as u32), 0)
                .map_err(|source| EbpfError::map(maps::COUNTERS, source))?;
            Ok((reason, values.iter().sum()))
        })
        .collect()
}

/// A map that is pinned already must be the one that the programs expect: aya 0.14 takes over any.
pub fn check_pinned(pins: &Pins, name: &'static str) -> Result<(), EbpfError> {
    let path = pins.map(name);
    if !path.try_exists().unwrap_or(false) || is_as_expected(pins, name)? {
        return Ok(());
    }
    Err(EbpfError::Incompatible { path })
}

/// Whether a map is pinned whose keys and values have the sizes that the programs expect.
pub fn is_as_expected(pins: &Pins, name: &'static str) -> Result<bool, EbpfError> {
    let path = pins.map(name);
    if !path.exists() {
        return Ok(false);
    }
    let info = MapInfo::from_pin(&path).map_err(|source| EbpfError::map(name, source))?;
    Ok((info.key_size(), info.value_size()) == sizes(name))
}

fn sizes(name: &str) -> (u32, u32) {
    fn of<K, V>() -> (u32, u32) {
        let size = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        (size(size_of::<K>()), size(size_of::<V>()))
    }
    match name {
        maps::UPLINK => of::<u32, UplinkEntry>(),
        maps::PODS => of::<Be32, PodEntry>(),
        maps::PORTS => of::<u32, Port>(),
        maps::POLICY => of::<Key<PolicyKey>, Judgement>(),
        maps::RULES => of::<Key<RuleKey>, u32>(),
        maps::POLICIES => of::<u32, PolicyState>(),
        maps::FLOWS => of::<FlowKey, Flow>(),
        maps::FRAGMENTS => of::<FragmentKey, Fragment>(),
        // A queue has no keys.
        maps::SWEEP => of::<(), Queued>(),
        maps::CANDIDATE => of::<u32, FlowKey>(),
        maps::WATCH | maps::DIRECT => of::<u32, u32>(),
        maps::SEARCHES => of::<Destination, Search>(),
        maps::SEARCHING => of::<Destination, u32>(),
        maps::RESERVED => of::<u32, ReservedPorts>(),
        maps::SHARES => of::<Be32, Share>(),
        maps::NICS => of::<Be32, Nic>(),
        // A ring buffer has neither keys nor values.
        maps::EVENTS => (0, 0),
        _ => of::<u32, u64>(),
    }
}

type Shares = HashMap<MapData, Be32, Share>;

type Pods = HashMap<MapData, Be32, PodEntry>;

type Ports = HashMap<MapData, u32, Port>;

fn shares(pins: &Pins) -> Result<Shares, EbpfError> {
    open(pins, maps::SHARES)
}

fn open_pods(pins: &Pins) -> Result<Option<Pods>, EbpfError> {
    open_pinned(pins, maps::PODS)
}

fn open_ports(pins: &Pins) -> Result<Option<Ports>, EbpfError> {
    open_pinned(pins, maps::PORTS)
}

fn of_pods(source: MapError) -> EbpfError {
    EbpfError::map(maps::PODS, source)
}

fn of_shares(source: MapError) -> EbpfError {
    EbpfError::map(maps::SHARES, source)
}

fn of_ports(source: MapError) -> EbpfError {
    EbpfError::map(maps::PORTS, source)
}

/// A map that is not pinned holds nothing: the BPF file system was unmounted, or never mounted.
pub(super) fn open_pinned<T>(pins: &Pins, name: &'static str) -> Result<Option<T>, EbpfError>
where
    T: TryFrom<Map, Error = MapError>,
{
    if pins.map(name).exists() {
        open(pins, name).map(Some)
    } else {
        Ok(None)
    }
}

pub(super) fn open<T>(pins: &Pins, name: &'static str) -> Result<T, EbpfError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let data = MapData::from_pin(pins.map(name)).map_err(|source| EbpfError::map(name, source))?;
    Map::from_map_data(data)
        .and_then(T::try_from)
        .map_err(|source| EbpfError::map(name, source))
}

/// An element that is not there is an answer, not an error.
pub(super) fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// 128 bits of the kernel's random source.
fn draw_secret() -> Result<Secret, EbpfError> {
    let mut bytes = [0; 16];
    // Up to 256 bytes come whole (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|source| EbpfError::Random(source.into()))?;
    let bits = u128::from_ne_bytes(bytes);
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
    Ok(Secret([half(bits), half(bits >> 64)]))
}

fn uplink_entry(uplink: &Uplink) -> Result<UplinkEntry, EbpfError> {
    let entry = UplinkEntry::new(
        Be32::from(uplink.address),
        Mac(uplink.mac.0),
        uplink.port_range()?,
        jiffies_per_second(),
        uplink.timeouts.into(),
    )
    .redirecting_to(
        uplink.ifindex,
        u16::try_from(uplink.mtu).unwrap_or(u16::MAX),
        uplink.fast_path && !queued::is_anybody_asked(),
    )
    .with_flows_per_pod(uplink.flows_per_pod)
    .routed_by(uplink.bridge_ifindex);
    Ok(entry)
}

/// `CONFIG_HZ`: the coarse clock advances once a jiffy, so its resolution is one.
pub(super) fn jiffies_per_second() -> u32 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    u32::try_from(1_000_000_000 / tick.tv_nsec.max(1)).unwrap_or(1000)
}
