//! What the node has to know of its pods, whoever took it away: routes, neighbours, ports, forwarding entries, and the bridge itself.
//!
//! [`missing`] compares with the kernel and says what is not as it should be, [`mend`] puts it right for all pods of the node.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;

use super::own_route::{OwnRoute, Way};
use super::{LOCK, NodeError, bridge, nic, record, settings, way_out};
use crate::datapath::Pod;
use crate::live;
use crate::lock::Lock;
use crate::netlink::link::{self, Link, LinkKind};
use crate::netlink::route::{self, MAIN, Place};
use crate::netlink::{Netlink, NetlinkError, Request, gone_is_fine, neighbour};
use crate::state;

/// Metrics of the routes to a pod. The first says what the node sends from; the kernel deletes it with that address, if only for
/// a moment, when a network manager configures the NIC anew. Then there is the second. Behind both, and for every address of the
/// pool that no pod has, is the third: what is for nobody is dropped here, or node and fabric would pass it to and fro.
pub const METRICS: [u32; 3] = [10, 20, 30];

/// What [`missing`] says of a node that does not route.
pub const NO_FORWARDING: &str = "net.ipv4.ip_forward is 0";

/// Something that is not as it should be.
#[derive(Debug)]
pub struct Repair {
    /// One sentence.
    pub what: String,
    /// The pod that suffers; without it, all.
    pub pod: Option<Ipv4Addr>,
    /// What puts it right; nothing where the bridge has to be made first.
    requests: Vec<Request>,
    /// Nothing is written down of a bridge of ours.
    is_lost_record: bool,
}

/// One bridge with its NIC and its pods. Pods reach each other without a NIC too.
struct Network {
    bridge: Link,
    nic: Option<Link>,
    primary: Option<Ipv4Addr>,
    pods: Vec<Pod>,
}

/// What the kernel has. The links are listed last: whose route is listed had its link before.
struct Kernel {
    routes: Vec<RouteMessage>,
    rules: Vec<RuleMessage>,
    neighbours: Vec<NeighbourMessage>,
    forwarding: Vec<NeighbourMessage>,
    addresses: Vec<(u32, Ipv4Net)>,
    links: Vec<Link>,
    /// NICs and our bridges, by their indexes.
    known: BTreeSet<u32>,
}

/// Puts right what is not as it should be, for all pods of the node. Cheap where nothing is. What cannot be put right does
/// not keep the rest from it; the first failure is returned.
pub async fn mend(netlink: &Netlink) -> Result<(), NodeError> {
    let mut result = mend_bridges(netlink).await;
    if !record::all().is_empty() {
        result = result.and(settings::forward());
    }
    result.and(mend_pods(netlink).await)
}

/// [`mend`] for an ADD, which has just made sure of the bridge.
pub async fn mend_pods(netlink: &Netlink) -> Result<(), NodeError> {
    let mut repairs = missing(netlink).await?;
    if repairs.iter().any(|repair| repair.is_lost_record) {
        write_lost_records(netlink).await?;
        repairs = missing(netlink).await?;
    }
    let mut result = Ok(());
    for Repair { what, requests, .. } in repairs {
        tracing::info!("mending: {what}");
        for outcome in netlink.run_each(requests).await {
            result = result.and(gone_is_fine(outcome).map_err(Into::into));
        }
    }
    result
}

/// [`mend`] for a call whose own work does not depend on it: what fails is in the log.
pub async fn mend_beside(netlink: &Netlink) {
    if let Err(error) = mend(netlink).await {
        tracing::warn!("what the node knows of its pods could not be mended: {error}");
    }
}

/// What is not as it should be.
pub async fn missing(netlink: &Netlink) -> Result<Vec<Repair>, NodeError> {
    let records = record::all();
    let kernel = Kernel::read(netlink, &records).await?;
    let mut repairs: Vec<Repair> = without_record(&kernel.links, &records)
        .map(|bridge| Repair {
            is_lost_record: true,
            ..Repair::of(format!("the record of the bridge {} is lost", bridge.name))
        })
        .collect();
    if records.is_empty() {
        return Ok(repairs);
    }
    if !settings::is_forwarding()? {
        repairs.push(Repair::of(NO_FORWARDING.to_owned()));
    }
    let mut networks = Vec::new();
    let mut dropped = kernel.dropped();
    for record in records {
        let nic = record.nic_among(&kernel.links);
        if nic.is_none() {
            repairs.push(Repair::of(format!("the NIC {} is gone", record.nic)));
        }
        let pods = live::pods(&record.bridge)?;
        dropped.extend(pods.iter().map(|pod| pod.address));
        let bridge = kernel.links.iter().find(|it| it.name == record.bridge);
        let Some(bridge) = bridge.filter(|link| link.is_bridge()) else {
            repairs.push(Repair::of(format!("the bridge {} is gone", record.bridge)));
            continue;
        };
        networks.push(Network {
            primary: nic.and_then(|nic| kernel.primary(nic, &pods)),
            nic: nic.cloned(),
            bridge: bridge.clone(),
            pods,
        });
    }
    for network in &networks {
        repairs.extend(kernel.ports(network));
        repairs.extend(kernel.neighbours(network));
    }
    repairs.extend(kernel.routes(&networks, dropped));
    repairs.extend(kernel.rules(&networks));
    Ok(repairs)
}

/// Makes the routes to the pods of a bridge that is taken over, before its NIC leaves it: from then on the node routes to them. The
/// node's address may be on both links.
pub async fn route_to_pods(netlink: &Netlink, bridge: &Link, nic: &Link) -> Result<(), NodeError> {
    let pods = live::pods(&bridge.name)?;
    let kernel = Kernel::read(netlink, &record::all()).await?;
    let mut dropped = kernel.dropped();
    dropped.extend(pods.iter().map(|pod| pod.address));
    let network = Network {
        primary: kernel.primary(nic, &pods),
        nic: Some(nic.clone()),
        bridge: bridge.clone(),
        pods,
    };
    let mut repairs = kernel.neighbours(&network);
    // Those of other bridges are none of this one's.
    let wanted = kernel.wanted_routes(&[network], dropped);
    repairs.extend(lacking(&wanted, &kernel.own_routes()));
    for Repair { requests, .. } in repairs {
        for outcome in netlink.run_each(requests).await {
            gone_is_fine(outcome)?;
        }
    }
    Ok(())
}

/// Takes the routes to a pod away from the main table. Those of other tables, and what drops its address where that is of no
/// pool, go with the next [`mend`].
pub async fn forget_pod(netlink: &Netlink, bridge: &Link, address: Ipv4Addr) -> Vec<NetlinkError> {
    let routes = METRICS[..2].iter().map(|metric| OwnRoute {
        table: MAIN,
        to: address.into(),
        metric: *metric,
        way: Way::Link(bridge.index, None),
    });
    let requests = routes.map(|entry| route::delete(&entry.message()));
    let outcomes = netlink.run_each(requests).await.into_iter();
    outcomes.filter_map(|it| gone_is_fine(it).err()).collect()
}

/// Takes away the routes over the bridge with this index, and where it is the last those that drop.
pub(super) async fn remove_routes(
    netlink: &Netlink,
    bridge: Option<u32>,
    is_last: bool,
) -> Result<(), NodeError> {
    let routes = netlink.ipv4_routes().await?;
    let ours = routes.iter().filter_map(OwnRoute::read);
    let going = ours.filter(|entry| match entry.way {
        Way::Link(link, _) | Way::Via(link, _) => Some(link) == bridge,
        Way::Blackhole => is_last,
    });
    let requests = going.map(|entry| route::delete(&entry.message()));
    for outcome in netlink.run_each(requests).await {
        gone_is_fine(outcome)?;
    }
    Ok(())
}

/// A bridge that is ours, and of which nothing is written down any more, is for the NIC in whose subnet its pods are.
async fn write_lost_records(netlink: &Netlink) -> Result<(), NodeError> {
    let records = record::all();
    let snapshot = nic::Snapshot::take(netlink).await?;
    for bridge in without_record(&snapshot.links, &records) {
        let pods = live::pods(&bridge.name)?;
        let addresses = snapshot.addresses.iter();
        let owners = addresses.filter(|(_, net)| has_any(*net, &pods));
        let mut links = owners.filter_map(|(index, _)| snapshot.at(*index));
        if let Some(nic) = links.find(|link| !link.is_marked()) {
            tracing::info!("mending: the record of the bridge {}", bridge.name);
            record::Record::new(&bridge.name, nic).write()?;
        }
    }
    Ok(())
}

fn nics_and_bridges(links: &[Link], records: &[record::Record]) -> BTreeSet<u32> {
    let ours = records.iter().flat_map(|record| {
        let bridge = links.iter().find(|it| it.name == record.bridge);
        bridge.into_iter().chain(record.nic_among(links))
    });
    let hardware = |it: &&Link| it.kind == LinkKind::Hardware && !it.is_loopback();
    let nics = links.iter().filter(hardware);
    ours.chain(nics).map(|it| it.index).collect()
}

fn without_record<'a>(
    links: &'a [Link],
    records: &[record::Record],
) -> impl Iterator<Item = &'a Link> {
    let ours = links.iter().filter(|link| {
        link.is_bridge() && link.is_marked() && link.mac == Some(bridge::ROUTER_MAC)
    });
    ours.filter(|link| records.iter().all(|record| record.bridge != link.name))
}

/// A bridge that is gone or not whole is made first: what hangs on it is named by its index.
async fn mend_bridges(netlink: &Netlink) -> Result<(), NodeError> {
    for record in record::all() {
        let (bridge, nic) =
            tokio::try_join!(netlink.link(&record.bridge), netlink.link(&record.nic))?;
        let nic = match nic {
            // It may have been renamed.
            None => netlink.link_at(record.nic_index).await?,
            nic => nic,
        };
        let Some(nic) = nic else { continue };
        if let Some(bridge) = &bridge {
            let addresses = netlink.addresses_on(bridge).await?;
            if bridge::defects(bridge, &nic, &addresses).is_empty() {
                continue;
            }
        }
        tracing::info!("mending: the bridge {}", record.bridge);
        let _lock = Lock::acquire(Path::new(LOCK))?;
        bridge::ensure(netlink, &record.bridge, &nic).await?;
    }
    Ok(())
}

impl Repair {
    fn of(what: String) -> Self {
        Self::by(what, None, Vec::new())
    }

    fn by(what: String, pod: Option<Ipv4Addr>, requests: Vec<Request>) -> Self {
        Self {
            what,
            pod,
            requests,
            is_lost_record: false,
        }
    }
}

impl Kernel {
    async fn read(netlink: &Netlink, records: &[record::Record]) -> Result<Self, NetlinkError> {
        let routes = netlink.ipv4_routes().await?;
        let rules = netlink.rules(AddressFamily::Inet).await?;
        let neighbours = netlink.neighbours().await?;
        let forwarding = netlink.forwarding().await?;
        let addresses = netlink.ipv4_nets().await?;
        let links = netlink.links().await?;
        Ok(Self {
            routes,
            rules,
            neighbours,
            forwarding,
            addresses,
            known: nics_and_bridges(&links, records),
            links,
        })
    }

    /// The NIC's first address, if it can be in the subnet of its pods.
    fn primary(&self, nic: &Link, pods: &[Pod]) -> Option<Ipv4Addr> {
        let here = self.addresses.iter().filter(|it| it.0 == nic.index);
        let nets: Vec<Ipv4Net> = here.map(|(_, net)| *net).collect();
        let first = nets
            .iter()
            .find(|net| has_any(**net, pods))
            .or(nets.first());
        first.map(Ipv4Net::addr)
    }

    /// The addresses of the pool. Where they cannot be read, those that are dropped already stay so.
    fn dropped(&self) -> BTreeSet<Ipv4Addr> {
        azure_vnet_ipam::pool(Path::new(state::DIRECTORY)).unwrap_or_else(|error| {
            tracing::warn!("the addresses for pods are not known: {error}");
            let ours = self.routes.iter().filter_map(OwnRoute::read);
            let dropped = ours.filter(|entry| entry.way == Way::Blackhole);
            dropped.map(|entry| entry.to.addr()).collect()
        })
    }

    /// The pods' links have to be ports of the bridge, up, and with a pod's settings.
    fn ports(&self, network: &Network) -> Vec<Repair> {
        let bridge = &network.bridge;
        let ports = network.pods.iter().filter_map(|pod| {
            let port = self.links.iter().find(|link| link.index == pod.ifindex)?;
            Some((pod, port))
        });
        let broken = ports.filter_map(|(pod, port)| {
            let Link { index, name, .. } = port;
            let is_member = port.master == Some(bridge.index);
            if is_member && port.is_up() && port.is_pod_port {
                return None;
            }
            let join = link::set_master(*index, name, bridge.index);
            let join = (!is_member).then_some(join);
            let settings = link::make_pod_port(*index, name, bridge::has_ipv6());
            let what = if is_member {
                format!(
                    "the port {name} of {} is down, or not set as a pod's port is",
                    pod.address
                )
            } else {
                format!(
                    "the link {name} of {} is not a port of {}",
                    pod.address, bridge.name
                )
            };
            let requests = join.into_iter().chain([settings]).collect();
            Some(Repair::by(what, Some(pod.address), requests))
        });
        broken.collect()
    }

    /// The node knows the MAC of each pod and the port behind which it is: it never asks, and believes no pod.
    fn neighbours(&self, network: &Network) -> Vec<Repair> {
        let Network { bridge, pods, .. } = network;
        let mut repairs = Vec::new();
        for pod in pods {
            let Pod {
                address,
                mac,
                host_veth,
                ifindex,
                ..
            } = pod;
            let ip = (*address).into();
            let is_known = |it: &NeighbourMessage| neighbour::says(it, bridge.index, ip, *mac);
            if !self.neighbours.iter().any(is_known) {
                let what = format!("{} does not know the MAC of {address}", bridge.name);
                let set = neighbour::set_permanent(bridge.index, &bridge.name, ip, *mac);
                repairs.push(Repair::by(what, Some(*address), vec![set]));
            }
            // Whoever else has this MAC was first.
            let is_claimed = |it: &NeighbourMessage| {
                neighbour::is_claim(it, *mac) && self.is_port(it.header.ifindex, bridge)
            };
            if !self.forwarding.iter().any(is_claimed) {
                let what = format!(
                    "{} does not know that {mac} is behind {host_veth}",
                    bridge.name
                );
                let set = neighbour::set_forwarding(*ifindex, host_veth, *mac);
                repairs.push(Repair::by(what, Some(*address), vec![set]));
            }
        }
        repairs
    }

    fn is_port(&self, index: u32, bridge: &Link) -> bool {
        let mut links = self.links.iter();
        links.any(|link| link.index == index && link.master == Some(bridge.index))
    }

    /// The routes to the pods, what drops what is for the addresses that no pod has, and the ways out: those that are missing,
    /// and those that are of nobody.
    fn routes(&self, networks: &[Network], dropped: BTreeSet<Ipv4Addr>) -> Vec<Repair> {
        let wanted = self.wanted_routes(networks, dropped);
        let there = self.own_routes();
        let stale = there.difference(&wanted).map(|entry| {
            let what = format!("the route {entry} is of no pod");
            Repair::by(what, entry.pod(), vec![route::delete(&entry.message())])
        });
        let mut repairs = lacking(&wanted, &there);
        repairs.extend(stale);
        repairs
    }

    fn own_routes(&self) -> BTreeSet<OwnRoute> {
        self.routes.iter().filter_map(OwnRoute::read).collect()
    }

    fn wanted_routes(
        &self,
        networks: &[Network],
        dropped: BTreeSet<Ipv4Addr>,
    ) -> BTreeSet<OwnRoute> {
        let mut wanted = BTreeSet::new();
        for network in networks {
            for pod in &network.pods {
                wanted.extend(to_pod(network, pod.address));
            }
        }
        wanted.extend(dropped.into_iter().map(|address| OwnRoute {
            table: MAIN,
            to: address.into(),
            metric: METRICS[2],
            way: Way::Blackhole,
        }));
        for network in networks {
            wanted.extend(self.way_out(network, networks));
        }
        wanted
    }

    /// The table of a bridge, where there are several NICs.
    fn way_out(&self, network: &Network, networks: &[Network]) -> Vec<OwnRoute> {
        let Some((nic, gateway)) = self.own_gateway(network, networks) else {
            return Vec::new();
        };
        let table = way_out::table(network.bridge.index);
        let default = OwnRoute {
            table,
            to: Ipv4Net::default(),
            metric: 0,
            way: Way::Via(nic.index, gateway),
        };
        let pods = networks.iter().flat_map(|other| {
            let pods = other.pods.iter();
            pods.map(|pod| OwnRoute {
                table,
                to: pod.address.into(),
                metric: METRICS[1],
                way: Way::Link(other.bridge.index, None),
            })
        });
        let local = way_out::local_routes(&self.routes, &self.known, table);
        pods.chain(local).chain([default]).collect()
    }

    fn own_gateway<'a>(
        &self,
        network: &'a Network,
        networks: &[Network],
    ) -> Option<(&'a Link, Ipv4Addr)> {
        let nic = network.nic.as_ref()?;
        let nics = networks.iter().filter_map(|other| other.nic.as_ref());
        let nics = nics.map(|nic| nic.index);
        let gateway = way_out::gateway(&self.routes, &self.addresses, nic, nics)?;
        Some((nic, gateway))
    }

    fn rules(&self, networks: &[Network]) -> Vec<Repair> {
        let mut wanted = Vec::new();
        for network in networks {
            if self.own_gateway(network, networks).is_some() {
                let Network {
                    bridge, primary, ..
                } = network;
                wanted.extend(way_out::rules(bridge, *primary));
            }
        }
        way_out::repairs(&self.rules, &wanted)
            .into_iter()
            .map(|(what, request)| Repair::by(what, None, vec![request]))
            .collect()
    }
}

fn has_any(net: Ipv4Net, pods: &[Pod]) -> bool {
    pods.iter().any(|pod| net.contains(&pod.address))
}

fn lacking(wanted: &BTreeSet<OwnRoute>, there: &BTreeSet<OwnRoute>) -> Vec<Repair> {
    let lacking = wanted.difference(there).map(|entry| {
        let what = format!("the route {entry} is missing");
        let put = route::put(&entry.message(), Place::Only);
        Repair::by(what, entry.pod(), vec![put])
    });
    lacking.collect()
}

fn to_pod(network: &Network, address: Ipv4Addr) -> impl Iterator<Item = OwnRoute> {
    let bridge = network.bridge.index;
    let with_source = network.primary.map(|it| (METRICS[0], Some(it)));
    let ways = with_source.into_iter().chain([(METRICS[1], None)]);
    ways.map(move |(metric, source)| OwnRoute {
        table: MAIN,
        to: address.into(),
        metric,
        way: Way::Link(bridge, source),
    })
}
