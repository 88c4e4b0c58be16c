//! What must be so, compared with what the kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;

use super::look::{Found, Look};
use super::own_route::{self, OwnRoute, Way};
use super::repair::{METRICS, NO_FORWARDING, Remedy, Repair, has_any};
use super::{NodeError, bridge, record, settings, way_out};
use crate::datapath::Pod;
use crate::live;
use crate::netlink::link::{self, Link, LinkKind};
use crate::netlink::route::{self, MAIN, Place};
use crate::netlink::{MacAddress, Netlink, NetlinkError, Request, forwarding, neighbour};
use crate::state;

/// What was compared, and what came of it.
pub(super) struct Compared {
    pub(super) look: Look,
    /// The pods, by the names of their bridges.
    pub(super) pods: BTreeMap<String, Vec<Pod>>,
    /// The ports of all of them.
    pub(super) ports: Vec<Link>,
    pub(super) repairs: Vec<Repair>,
}

/// One bridge with its NIC and its pods. Pods reach each other without a NIC too.
struct Network {
    bridge: Link,
    nic: Option<Link>,
    /// The addresses of the NIC.
    nets: Vec<Ipv4Net>,
    primary: Option<Ipv4Addr>,
    /// What the bridge knows: IPv4 neighbours, the MACs behind its ports for good, its ports.
    neighbours: Vec<NeighbourMessage>,
    macs: Vec<MacAddress>,
    pods: Vec<Pod>,
    ports: Vec<Link>,
}

/// What the kernel has for all bridges.
struct Kernel {
    /// The routes that this plugin made.
    own: BTreeSet<OwnRoute>,
    rules: Vec<RuleMessage>,
    defaults: Vec<RouteMessage>,
    /// Of the main table, and NICs and our bridges by their indexes: where a bridge has a way out of its own.
    main: Vec<RouteMessage>,
    known: BTreeSet<u32>,
}

/// Compares with a look that was taken before, or with a new one.
///
/// The routes are listed first: whose route is listed had its record and its link before. Then come the records, what the
/// bridges know, the pods, and last the ports: a pod whose link is no port then is none, or its link has gone.
pub(super) async fn compare(netlink: &Netlink, look: Option<Look>) -> Result<Compared, NodeError> {
    let (own, rules) = Kernel::routes(netlink).await?;
    let look = match look.filter(Look::is_of_now) {
        Some(look) => look,
        None => Look::take(netlink).await?,
    };
    let lost = look.without_record.iter().map(|bridge| {
        let what = format!("the record of the bridge {} is lost", bridge.name);
        Repair::of(what, Remedy::FindRecord)
    });
    let mut repairs: Vec<Repair> = lost.collect();
    let compared = |look, pods, ports, repairs| Compared {
        look,
        pods,
        ports,
        repairs,
    };
    if look.networks.is_empty() {
        return Ok(compared(look, BTreeMap::new(), Vec::new(), repairs));
    }
    if !settings::is_forwarding()? {
        repairs.push(Repair::of(NO_FORWARDING.to_owned(), Remedy::Forward));
    }
    let mut networks = Vec::new();
    let mut pods = BTreeMap::new();
    let mut dropped = dropped(&own);
    for found in &look.networks {
        let Found { record, nic, .. } = found;
        if nic.is_none() {
            let what = format!("the NIC {} is gone", record.nic);
            repairs.push(Repair::of(what, Remedy::None));
        }
        let Some(bridge) = &found.bridge else {
            let what = format!("the bridge {} is gone", record.bridge);
            repairs.push(Repair::of(what, Remedy::MakeBridge));
            let here = live::pods(&record.bridge)?;
            dropped.extend(here.iter().map(|pod| pod.address));
            pods.insert(record.bridge.clone(), here);
            continue;
        };
        let network = Network::look(netlink, found, bridge).await?;
        dropped.extend(network.pods.iter().map(|pod| pod.address));
        pods.insert(record.bridge.clone(), network.pods.clone());
        networks.push(network);
    }
    let kernel = Kernel {
        own,
        rules,
        defaults: look.defaults.clone(),
        main: Vec::new(),
        known: BTreeSet::new(),
    };
    let kernel = kernel.with_main(netlink, &networks, &look).await?;
    for network in &networks {
        repairs.extend(network.missing_ports());
        repairs.extend(network.missing_neighbours());
    }
    repairs.extend(kernel.missing_routes(&networks, dropped));
    repairs.extend(kernel.missing_rules(&networks));
    let ports = networks.into_iter().flat_map(|it| it.ports).collect();
    Ok(compared(look, pods, ports, repairs))
}

/// What is missing for a bridge that is taken over, before its NIC leaves it. What is of other bridges is none of this one's.
pub(super) async fn taken_over(
    netlink: &Netlink,
    bridge: &Link,
    nic: &Link,
) -> Result<Vec<Repair>, NodeError> {
    let (own, rules) = Kernel::routes(netlink).await?;
    let record = record::Record::new(&bridge.name, nic);
    let found = Found::look(netlink, &record, Some(bridge.clone())).await?;
    let network = Network::look(netlink, &found, bridge).await?;
    let mut dropped = dropped(&own);
    dropped.extend(network.pods.iter().map(|pod| pod.address));
    let kernel = Kernel {
        own,
        rules,
        defaults: netlink.default_routes()?,
        main: Vec::new(),
        known: BTreeSet::new(),
    };
    let mut repairs = network.missing_neighbours();
    let wanted = kernel.wanted_routes(&[network], dropped);
    repairs.extend(lacking(&wanted, &kernel.own));
    Ok(repairs)
}

/// The addresses of the pool. Where they cannot be read, those that are dropped already stay so.
fn dropped(own: &BTreeSet<OwnRoute>) -> BTreeSet<Ipv4Addr> {
    azure_vnet_ipam::pool(Path::new(state::DIRECTORY)).unwrap_or_else(|error| {
        tracing::warn!("the addresses for pods are not known: {error}");
        let dropped = own.iter().filter(|entry| entry.way == Way::Blackhole);
        dropped.map(|entry| entry.to.addr()).collect()
    })
}

impl Repair {
    fn of(what: String, remedy: Remedy) -> Self {
        Self {
            what,
            pod: None,
            is_spare: false,
            remedy,
        }
    }

    fn by(what: String, pod: Option<Ipv4Addr>, requests: Vec<Request>) -> Self {
        Self {
            what,
            pod,
            is_spare: false,
            remedy: Remedy::Send(requests),
        }
    }
}

impl Network {
    async fn look(netlink: &Netlink, found: &Found, bridge: &Link) -> Result<Self, NodeError> {
        let neighbours = netlink.neighbours_on(bridge.index).await?;
        let macs = forwarding::fixed(&bridge.name);
        let macs = macs.map_err(|source| {
            let path = Path::new("/sys/class/net").join(&bridge.name);
            NodeError::file("read", &path.join("brforward"), source)
        })?;
        let pods = live::pods(&bridge.name)?;
        Ok(Self {
            bridge: bridge.clone(),
            nic: found.nic.clone(),
            nets: found.nets.clone(),
            primary: primary(&found.nets, &pods),
            neighbours,
            macs,
            pods,
            ports: netlink.ports_of(bridge).await?,
        })
    }

    /// The pods' links have to be ports of the bridge, up, and with a pod's settings.
    fn missing_ports(&self) -> Vec<Repair> {
        let bridge = &self.bridge;
        let broken = self.pods.iter().filter_map(|pod| {
            let Pod {
                ifindex: index,
                host_veth: name,
                ..
            } = pod;
            let port = self.ports.iter().find(|link| link.index == *index);
            let (what, join) = match port {
                Some(port) if port.is_up() && port.is_pod_port => return None,
                Some(_) => (
                    format!(
                        "the port {name} of {} is down, or not set as a pod's port is",
                        pod.address
                    ),
                    None,
                ),
                // Its DEL was faster.
                None if !live::is_link(*index) => return None,
                None => (
                    format!(
                        "the link {name} of {} is not a port of {}",
                        pod.address, bridge.name
                    ),
                    Some(link::set_master(*index, name, bridge.index)),
                ),
            };
            let settings = link::make_pod_port(*index, name, bridge::has_ipv6());
            let requests = join.into_iter().chain([settings]).collect();
            Some(Repair::by(what, Some(pod.address), requests))
        });
        broken.collect()
    }

    /// The node knows the MAC of each pod and the port behind which it is: it never asks, and believes no pod.
    fn missing_neighbours(&self) -> Vec<Repair> {
        let Self { bridge, pods, .. } = self;
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
            if !self.macs.contains(mac) {
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

    /// The gateway of its NIC, if that needs a way out of its own.
    fn own_gateway(
        &self,
        defaults: &[RouteMessage],
        networks: &[Self],
    ) -> Option<(&Link, Ipv4Addr)> {
        let nic = self.nic.as_ref()?;
        let nics = networks.iter().filter_map(|other| other.nic.as_ref());
        let nics = nics.map(|nic| nic.index);
        Some((nic, way_out::gateway(defaults, nic, &self.nets, nics)?))
    }
}

impl Kernel {
    /// The routes that this plugin made, and the rules of all.
    async fn routes(
        netlink: &Netlink,
    ) -> Result<(BTreeSet<OwnRoute>, Vec<RuleMessage>), NetlinkError> {
        let own = netlink.routes_of(own_route::PROTOCOL).await?;
        let own = own.iter().filter_map(OwnRoute::read).collect();
        Ok((own, netlink.rules(AddressFamily::Inet).await?))
    }

    /// What a way out of its own has to have of the main table. On most nodes there is none.
    async fn with_main(
        self,
        netlink: &Netlink,
        networks: &[Network],
        look: &Look,
    ) -> Result<Self, NetlinkError> {
        let has_own = |it: &Network| it.own_gateway(&self.defaults, networks).is_some();
        if !networks.iter().any(has_own) {
            return Ok(self);
        }
        let links = netlink.links().await?;
        let hardware = |it: &&Link| it.kind == LinkKind::Hardware && !it.is_loopback();
        let nics = links.iter().filter(hardware).map(|it| it.index);
        let ours = look.networks.iter();
        let ours = ours.flat_map(|it| it.bridge.iter().chain(&it.nic));
        Ok(Self {
            main: netlink.routes_in(MAIN).await?,
            known: nics.chain(ours.map(|it| it.index)).collect(),
            ..self
        })
    }

    /// The routes to the pods, what drops what is for the addresses that no pod has, and the ways out: those that are missing,
    /// and those that are of nobody.
    fn missing_routes(&self, networks: &[Network], dropped: BTreeSet<Ipv4Addr>) -> Vec<Repair> {
        let wanted = self.wanted_routes(networks, dropped);
        let stale = self.own.difference(&wanted).map(|entry| {
            let what = format!("the route {entry} is of no pod");
            Repair::by(what, entry.pod(), vec![route::delete(&entry.message())])
        });
        let mut repairs = lacking(&wanted, &self.own);
        repairs.extend(stale);
        repairs
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
        let Some((nic, gateway)) = network.own_gateway(&self.defaults, networks) else {
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
        let local = way_out::local_routes(&self.main, &self.defaults, &self.known, table);
        pods.chain(local).chain([default]).collect()
    }

    fn missing_rules(&self, networks: &[Network]) -> Vec<Repair> {
        let mut wanted = Vec::new();
        for network in networks {
            if network.own_gateway(&self.defaults, networks).is_some() {
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

/// The NIC's first address, if it can be in the subnet of its pods.
fn primary(nets: &[Ipv4Net], pods: &[Pod]) -> Option<Ipv4Addr> {
    let first = nets.iter().find(|net| has_any(**net, pods));
    first.or(nets.first()).map(Ipv4Net::addr)
}

fn lacking(wanted: &BTreeSet<OwnRoute>, there: &BTreeSet<OwnRoute>) -> Vec<Repair> {
    let lacking = wanted.difference(there).map(|entry| {
        let what = format!("the route {entry} is missing");
        let put = route::put(&entry.message(), Place::Only);
        Repair {
            is_spare: has_second(entry, there),
            ..Repair::by(what, entry.pod(), vec![put])
        }
    });
    lacking.collect()
}

/// Whether the route of the second metric stands in for this one, which the kernel deletes with the node's address.
fn has_second(entry: &OwnRoute, there: &BTreeSet<OwnRoute>) -> bool {
    let Way::Link(link, _) = entry.way else {
        return false;
    };
    let second = OwnRoute {
        metric: METRICS[1],
        way: Way::Link(link, None),
        ..entry.clone()
    };
    entry.table == MAIN && entry.metric == METRICS[0] && there.contains(&second)
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
