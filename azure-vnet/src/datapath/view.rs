//! The eBPF tier as it is, for those who look: copies of what its maps hold. Nothing is changed.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData, MapError, MapInfo};
use azure_vnet_abi::{
    Be32, Flow, FlowKey, Judgement, Pod as PodEntry, PolicyKey, PolicyState, ReservedPorts, Share,
    Uplink as UplinkEntry, maps,
};
use ipnet::Ipv4Net;

use super::batch;
use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::maps::{found, jiffies_per_second, open_pinned};
use super::object::BUILD;

/// `INITIAL_JIFFIES` of linux/jiffies.h: five minutes before the counter's low half wraps.
const SECONDS_BEFORE_WRAP: u64 = 300;

/// Names the eBPF object that this binary carries.
pub fn build() -> &'static str {
    BUILD
}

/// The builds whose programs are pinned: this one, unless the binary was replaced and no call has come since.
pub fn pinned_builds(bridge: &str) -> Vec<String> {
    let programs = Pins::of(bridge).programs("");
    let entries = std::fs::read_dir(programs).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string());
    names.filter_map(Result::ok).collect()
}

/// Where the pins of a bridge are.
pub fn pins(bridge: &str) -> PathBuf {
    Pins::of(bridge).root().to_owned()
}

/// The names of the pinned links (TCX): of host veths, and of the programs on the NIC and the bridge.
pub fn pinned_links(bridge: &str) -> Vec<String> {
    Pins::of(bridge).links()
}

/// What the programs know of the NIC.
pub fn uplink(bridge: &str) -> Result<Option<UplinkEntry>, EbpfError> {
    let map = open_pinned::<Array<MapData, UplinkEntry>>(&Pins::of(bridge), maps::UPLINK)?;
    let Some(map) = map else { return Ok(None) };
    let entry = map.get(&0, 0);
    entry.map(Some).map_err(failed(maps::UPLINK))
}

/// How many ports of the range no new flow is given, because others on the node use them.
pub fn reserved_ports(bridge: &str) -> Result<Option<u32>, EbpfError> {
    let map = open_pinned::<Array<MapData, ReservedPorts>>(&Pins::of(bridge), maps::RESERVED)?;
    let Some(map) = map else { return Ok(None) };
    let ports = map.get(&0, 0).map_err(failed(maps::RESERVED))?;
    Ok(Some(ports.count()))
}

/// The longest prefix of the policy that holds `destination`: the one that decides. `None` if there is none, which
/// means masquerade.
pub fn ruling(bridge: &str, destination: Ipv4Addr) -> Result<Option<Ipv4Net>, EbpfError> {
    let pins = Pins::of(bridge);
    let state = open_pinned::<Array<MapData, PolicyState>>(&pins, maps::POLICIES)?;
    let Some(state) = state else { return Ok(None) };
    let current = state.get(&0, 0).map_err(failed(maps::POLICIES))?.current;
    let map = open_pinned::<LpmTrie<MapData, PolicyKey, Judgement>>(&pins, maps::POLICY)?;
    let mut longest: Option<Ipv4Net> = None;
    for entry in map.iter().flat_map(LpmTrie::iter) {
        let (key, _) = entry.map_err(failed(maps::POLICY))?;
        let data = key.data();
        if data.generation != current {
            continue;
        }
        let length = key.prefix_len().saturating_sub(PolicyKey::HEAD);
        let length = u8::try_from(length).unwrap_or(u8::MAX);
        let Ok(prefix) = Ipv4Net::new(Ipv4Addr::from(data.destination), length) else {
            continue;
        };
        if prefix.contains(&destination)
            && longest.is_none_or(|other| other.prefix_len() < prefix.prefix_len())
        {
            longest = Some(prefix);
        }
    }
    Ok(longest)
}

/// The pods that the programs know.
pub fn pods(bridge: &str) -> Result<Vec<(Ipv4Addr, PodEntry)>, EbpfError> {
    let map = open_pinned::<HashMap<MapData, Be32, PodEntry>>(&Pins::of(bridge), maps::PODS)?;
    let mut pods = Vec::new();
    for entry in map.iter().flat_map(HashMap::iter) {
        let (address, pod) = entry.map_err(failed(maps::PODS))?;
        pods.push((Ipv4Addr::from(address), pod));
    }
    pods.sort_unstable_by_key(|(address, _)| *address);
    Ok(pods)
}

/// The flow table.
pub fn flows(bridge: &str) -> Result<Vec<(FlowKey, Flow)>, EbpfError> {
    let mut flows = Vec::new();
    batch::for_each(&Pins::of(bridge), maps::FLOWS, |key, flow| {
        flows.push((key, flow));
    })?;
    Ok(flows)
}

/// How many entries the flow table can hold: one that was taken over from an earlier version keeps its size.
pub fn flow_table_size(bridge: &str) -> Result<Option<u32>, EbpfError> {
    let path = Pins::of(bridge).map(maps::FLOWS);
    if !path.exists() {
        return Ok(None);
    }
    let info = MapInfo::from_pin(&path).map_err(failed(maps::FLOWS))?;
    Ok(Some(info.max_entries()))
}

/// How many flows the programs count for a pod; none where it is not known to them.
pub fn share(bridge: &str, pod: Ipv4Addr) -> Result<Option<i64>, EbpfError> {
    let shares = open_pinned::<HashMap<MapData, Be32, Share>>(&Pins::of(bridge), maps::SHARES)?;
    let share = shares.map(|shares| found(shares.get(&pod.into(), 0)));
    let share = share.transpose().map_err(failed(maps::SHARES))?;
    Ok(share.flatten().map(|share| share.flows))
}

/// One entry of the flow table.
pub fn flow(bridge: &str, key: &FlowKey) -> Result<Option<Flow>, EbpfError> {
    match open_flows(bridge)? {
        Some(map) => found(map.get(key, 0)).map_err(failed(maps::FLOWS)),
        None => Ok(None),
    }
}

/// The kernel's clock of the flow table now ([`Flow::last_seen`]): it advances with the monotonic clock.
pub fn jiffies() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let hz = u64::from(jiffies_per_second());
    let (seconds, nanos) = (now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned());
    let whole = seconds.wrapping_sub(SECONDS_BEFORE_WRAP).wrapping_mul(hz);
    let ticks = whole.wrapping_add(nanos * hz / 1_000_000_000);
    // The low half is meant.
    u32::try_from(ticks & u64::from(u32::MAX)).unwrap_or_default()
}

/// `CONFIG_HZ`.
pub fn hz() -> u32 {
    jiffies_per_second()
}

fn open_flows(bridge: &str) -> Result<Option<HashMap<MapData, FlowKey, Flow>>, EbpfError> {
    open_pinned(&Pins::of(bridge), maps::FLOWS)
}

fn failed(name: &'static str) -> impl Fn(MapError) -> EbpfError {
    move |source| EbpfError::map(name, source)
}
