//! What is wrong with a definition.
//!
//! Everything is looked at, however much is wrong already: who mends a definition wants to know all of it. What follows from a
//! fault that was noted is not noted again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use super::document::{Object, Place, Problems};
use super::{Cluster, DEFAULT_MAX_PODS, MOST_PODS, Pool, Problem, SubnetId};

const SUBNET_ID: &str = "/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.Network/virtualNetworks/VNET/subnets/SUBNET";
const SCALE_SET: &str = "VirtualMachineScaleSets";
/// Azure's limits for a virtual network and a subnet in it.
const LENGTHS: std::ops::RangeInclusive<u8> = 2..=29;
/// etcd wants an odd number, and the engine takes no more.
const MASTERS: [u16; 3] = [1, 3, 5];
/// What may be said to enforce `NetworkPolicy` beside this network plugin.
const POLICIES: [&str; 3] = ["azure", "calico", "none"];
/// The engine's limit for a pool.
const MOST_VMS: u16 = 100;
/// Addresses that a NIC can have.
const MOST_ADDRESSES: u16 = 256;

/// Reads the definition, or says everything that is wrong with it.
pub fn check(value: &Value) -> Result<Cluster, Vec<Problem>> {
    let problems = Problems::default();
    let cluster = cluster(&Place::root(value, &problems));
    match (cluster, problems.into_vec()) {
        (Some(cluster), problems) if problems.is_empty() => Ok(cluster),
        (_, problems) => Err(problems),
    }
}

fn cluster(root: &Place<'_>) -> Option<Cluster> {
    let root = root.object("a cluster definition")?;
    let version = root.at("apiVersion");
    if let Some(text) = version.text("the version of the definition", "vlabs")
        && text != "vlabs"
    {
        version.wrong(format_args!(
            "\"{text}\" is another kind of definition: \"vlabs\""
        ));
    }
    let properties = root.at("properties").object("the cluster")?;

    let kubernetes = kubernetes(&properties);
    let subnet = kubernetes.as_ref().and_then(cluster_subnet);
    let max_pods = kubernetes
        .as_ref()
        .and_then(max_pods)
        .unwrap_or(DEFAULT_MAX_PODS);
    let master = properties
        .at("masterProfile")
        .object("the masters' profile");
    let vnet = master.as_ref().and_then(|master| vnet(master, subnet));
    let subnet_id = master.as_ref().and_then(subnet_id);
    let masters = master
        .as_ref()
        .and_then(|master| masters(master, subnet, subnet_id.clone(), max_pods));
    let subnets = Subnets {
        of_masters: subnet_id.clone(),
        of_agents: master.as_ref().and_then(agents_subnet_id),
    };
    let agents = agents(&properties, &subnets, max_pods);

    let mut pools = vec![masters?];
    pools.extend(agents?);
    Some(Cluster {
        vnet: vnet?,
        subnet: subnet?,
        subnet_id: subnet_id?,
        pools,
    })
}

fn kubernetes<'a>(properties: &Object<'a>) -> Option<Object<'a>> {
    let orchestrator = properties
        .at("orchestratorProfile")
        .object("the orchestrator")?;
    let kind = orchestrator.at("orchestratorType");
    if let Some(text) = kind.text("the orchestrator's type", "Kubernetes")
        && !text.eq_ignore_ascii_case("Kubernetes")
    {
        kind.wrong(format_args!(
            "\"{text}\" does not call CNI plugins: \"Kubernetes\""
        ));
    }
    let kubernetes = orchestrator
        .at("kubernetesConfig")
        .object("Kubernetes' configuration")?;
    network_plugin(&kubernetes);
    Some(kubernetes)
}

/// The network plugin has to be Azure's. In older definitions the policy names it; in later ones it says what enforces
/// `NetworkPolicy`, which may be another's program beside it.
fn network_plugin(kubernetes: &Object<'_>) {
    let plugin = kubernetes.at("networkPlugin");
    if plugin.is_there()
        && let Some(text) = plugin.text("the network plugin", "azure")
        && !text.eq_ignore_ascii_case("azure")
    {
        plugin.wrong(format_args!(
            "\"{text}\" gives pods no addresses of the virtual network: \"azure\""
        ));
    }
    let policy = kubernetes.at("networkPolicy");
    if !policy.is_there() || policy.is_empty_text() {
        return;
    }
    let Some(text) = policy.text("what enforces NetworkPolicy", "calico") else {
        return;
    };
    let is_one_of = |names: &[&str]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
    if !is_one_of(&POLICIES) {
        policy.wrong(format_args!(
            "\"{text}\" gives pods no addresses of the virtual network: \"azure\", \"calico\" or \"none\""
        ));
    } else if !is_one_of(&["azure"]) && !plugin.is_there() {
        policy.wrong(format_args!(
            "\"{text}\" alone has the engine choose another network plugin: give \"networkPlugin\": \"azure\" with it"
        ));
    }
}

fn cluster_subnet(kubernetes: &Object<'_>) -> Option<Ipv4Net> {
    network(
        &kubernetes.at("clusterSubnet"),
        "the subnet of VMs and pods",
        "10.0.0.0/20",
    )
}

fn vnet(master: &Object<'_>, subnet: Option<Ipv4Net>) -> Option<Ipv4Net> {
    let place = master.at("vnetCidr");
    let vnet = network(
        &place,
        "the address space of the virtual network",
        "10.0.0.0/16",
    )?;
    if let Some(subnet) = subnet
        && !vnet.contains(&subnet)
    {
        place.wrong(format_args!(
            "{vnet} does not contain the cluster's subnet, {subnet}"
        ));
    }
    Some(vnet)
}

/// A network as Azure takes it: IPv4, from /2 to /29, no bits beyond the prefix.
fn network(place: &Place<'_>, what: &str, example: &str) -> Option<Ipv4Net> {
    let network: Ipv4Net = place.parsed(&format!("an IPv4 CIDR, {what}"), example)?;
    let length = network.prefix_len();
    if network != network.trunc() {
        place.wrong(format_args!(
            "{network} has bits beyond its prefix: {}",
            network.trunc()
        ));
        None
    } else if !LENGTHS.contains(&length) {
        let (largest, smallest) = (LENGTHS.start(), LENGTHS.end());
        place.wrong(format_args!(
            "{network}: Azure takes networks from /{largest} to /{smallest}"
        ));
        None
    } else {
        Some(network)
    }
}

fn masters(
    master: &Object<'_>,
    subnet: Option<Ipv4Net>,
    subnet_id: Option<SubnetId>,
    max_pods: u16,
) -> Option<Pool> {
    let count = count(&master.at("count"), 5);
    if let Some(count) = count
        && !MASTERS.contains(&count)
    {
        master
            .at("count")
            .wrong(format_args!("{count} masters: 1, 3 or 5"));
    }
    let is_scale_set = is_scale_set(master);
    let first = master.at("firstConsecutiveStaticIP");
    // Those of a scale set get what is free.
    let first_address = if is_scale_set && !first.is_there() {
        Some(None)
    } else {
        first_address(&first, subnet, count).map(Some)
    };
    let (max_pods, addresses) = addresses(master, max_pods);
    Some(Pool {
        name: "master".to_owned(),
        count: count?,
        max_pods,
        addresses,
        first_address: first_address?,
        subnet_id: subnet_id?,
        is_scale_set,
    })
}

/// Whether the VMs are a scale set; what else they may be makes no difference here.
fn is_scale_set(profile: &Object<'_>) -> bool {
    let place = profile.at("availabilityProfile");
    let named = place.is_there() && !place.is_empty_text();
    let text = named.then(|| place.text("the kind of the VMs", SCALE_SET));
    text.flatten()
        .is_some_and(|text| text.eq_ignore_ascii_case(SCALE_SET))
}

/// The address of the first master; the others have those behind it.
fn first_address(
    place: &Place<'_>,
    subnet: Option<Ipv4Net>,
    count: Option<u16>,
) -> Option<Ipv4Addr> {
    let first: Ipv4Addr = place.parsed("an IPv4 address, that of the first master", "10.0.1.50")?;
    let Some(subnet) = subnet else {
        return Some(first);
    };
    // Azure keeps the first four addresses of a subnet and the last.
    let lowest = u32::from(subnet.network()) + 4;
    let highest = u32::from(subnet.broadcast()) - 1;
    let last = u32::from(first).saturating_add(u32::from(count.unwrap_or(1)).max(1) - 1);
    if !subnet.contains(&first) {
        place.wrong(format_args!(
            "{first} is not in the cluster's subnet, {subnet}"
        ));
    } else if !(lowest..=highest).contains(&u32::from(first)) {
        let (lowest, highest) = (Ipv4Addr::from(lowest), Ipv4Addr::from(highest));
        place.wrong(format_args!(
            "{first} is reserved by Azure: {lowest} to {highest} are free"
        ));
    } else if last > highest {
        let count = count.unwrap_or(1);
        let room = highest - u32::from(first) + 1;
        place.wrong(format_args!(
            "from {first} on there is room for {room} of the {count} masters in {subnet}"
        ));
    }
    Some(first)
}

/// Where VMs are.
struct Subnets {
    of_masters: Option<SubnetId>,
    /// Of agents that do not say it themselves, which they need not beside masters that are a scale set.
    of_agents: Option<SubnetId>,
}

/// The subnet of agents that the masters' profile names.
fn agents_subnet_id(master: &Object<'_>) -> Option<SubnetId> {
    let place = master.at("agentVnetSubnetId");
    place
        .is_there()
        .then(|| place.parsed("the resource ID of a subnet", SUBNET_ID))
        .flatten()
}

fn agents(properties: &Object<'_>, subnets: &Subnets, max_pods: u16) -> Option<Vec<Pool>> {
    let profiles = properties.at("agentPoolProfiles").list("the agent pools")?;
    let mut names = BTreeSet::new();
    let pools: Vec<Option<Pool>> = profiles
        .iter()
        .map(|profile| agent_pool(profile, subnets, max_pods, &mut names))
        .collect();
    pools.into_iter().collect()
}

fn agent_pool(
    profile: &Place<'_>,
    subnets: &Subnets,
    max_pods: u16,
    names: &mut BTreeSet<String>,
) -> Option<Pool> {
    let profile = profile.object("an agent pool")?;
    let name = pool_name(&profile.at("name"), names);
    let count = count(&profile.at("count"), MOST_VMS);
    let own = match (&subnets.of_agents, profile.at("vnetSubnetId").is_there()) {
        (Some(of_agents), false) => Some(of_agents.clone()),
        _ => subnet_id(&profile),
    };
    if let (Some(own), Some(masters)) = (&own, &subnets.of_masters)
        && !own.is_beside(masters)
    {
        profile.at("vnetSubnetId").wrong(
            "in another virtual network than the masters' subnet: all VMs of a cluster are in one",
        );
    }
    let own_max_pods = profile.at("kubernetesConfig");
    let own_max_pods = own_max_pods
        .is_there()
        .then(|| own_max_pods.object("the pool's own configuration of Kubernetes"))
        .flatten()
        .and_then(|kubernetes| self::max_pods(&kubernetes));
    let (max_pods, addresses) = addresses(&profile, own_max_pods.unwrap_or(max_pods));
    Some(Pool {
        name: name?,
        count: count?,
        max_pods,
        addresses,
        first_address: None,
        subnet_id: own?,
        is_scale_set: is_scale_set(&profile),
    })
}

/// Becomes part of the VMs' names.
fn pool_name(place: &Place<'_>, names: &mut BTreeSet<String>) -> Option<String> {
    let name = place.text("the pool's name", "agentpool1")?;
    let starts = name.starts_with(|first: char| first.is_ascii_lowercase());
    let rest = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !starts || !rest || name.len() > 12 {
        place.wrong(format_args!(
            "\"{name}\": 1 to 12 small letters and digits, a letter first"
        ));
        return None;
    }
    if name == "master" || !names.insert(name.to_owned()) {
        place.wrong(format_args!("\"{name}\" is the name of another pool"));
    }
    Some(name.to_owned())
}

fn count(place: &Place<'_>, most: u16) -> Option<u16> {
    if !place.is_there() {
        place.wrong("the number of VMs is missing");
        return None;
    }
    place.number("a number of VMs", 1, most)
}

fn subnet_id(profile: &Object<'_>) -> Option<SubnetId> {
    profile
        .at("vnetSubnetId")
        .parsed("the resource ID of a subnet", SUBNET_ID)
}

/// kubelet's flag, in the spellings that are about.
fn max_pods(kubernetes: &Object<'_>) -> Option<u16> {
    let place = kubernetes.at("kubeletConfig");
    if !place.is_there() {
        return None;
    }
    let kubelet = place.object("kubelet's configuration")?;
    let given: Vec<Place<'_>> = ["--max-pods", "max-pods", "maxPods"]
        .into_iter()
        .map(|key| kubelet.at(key))
        .filter(Place::is_there)
        .collect();
    if let [_, second, ..] = &given[..] {
        second.wrong("the number of pods is given twice: remove one");
    }
    given.first()?.number("a number of pods", 1, MOST_PODS)
}

/// The pods of each VM, and the addresses of its NIC.
fn addresses(profile: &Object<'_>, max_pods: u16) -> (u16, u16) {
    let needed = max_pods + 1;
    let place = profile.at("ipAddressCount");
    let asked = place.number("a number of addresses on a NIC", 1, MOST_ADDRESSES);
    if let Some(asked) = asked
        && asked < needed
    {
        place.wrong(format_args!(
            "{asked} addresses: {max_pods} pods and the VM itself need {needed}"
        ));
    }
    (max_pods, asked.unwrap_or(needed).max(needed))
}
