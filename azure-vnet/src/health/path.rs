//! The path of packets, asked of the kernel: node to gateway, platform and world; node to pod, pod to node, pod to world, world to pod.
//! In this order, and what hangs on something broken is not asked: the first problem is the one to mend.

mod culprit;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;
use rustix::io::Errno;

use super::manager::Manager;
use super::{Check, Finding};
use crate::datapath::{Pod, view};
use crate::live;
use crate::netlink::link::Link;
use crate::netlink::route::lookup::{Packet, Way};
use crate::netlink::{Netlink, NetlinkError, route};
use crate::node::record::{self, Record};
use crate::sysctl;

/// DNS, DHCP, wireserver, and the source of health probes.
const PLATFORM: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Some address of the internet, of Azure's own ranges, to ask for the way there; a public resolver's might be blocked on purpose. Nothing
/// is sent.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(13, 64, 0, 1);

/// Pods that STATUS asks about, which runtimes call every few seconds. What befalls one pod alone is doctor's to say.
const FEW: usize = 8;

/// What the node's network is made of, read once.
struct Node<'a> {
    netlink: &'a Netlink,
    links: &'a [Link],
    addresses: Vec<(u32, Ipv4Net)>,
    routes: Vec<RouteMessage>,
    rules: Vec<RuleMessage>,
}

/// One bridge with its NIC.
struct Network<'a> {
    node: &'a Node<'a>,
    record: &'a Record,
    nic: &'a Link,
    manager: Manager,
    net: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    pods: Vec<Pod>,
}

/// A problem ends the path, or the kernel could not be asked.
enum Stop {
    Broken,
    Failed(NetlinkError),
}

impl From<NetlinkError> for Stop {
    fn from(error: NetlinkError) -> Self {
        Self::Failed(error)
    }
}

/// The first thing that breaks, unless an ADD would mend it.
pub async fn first_break(netlink: &Netlink) -> Result<Option<Finding>, NetlinkError> {
    let links = netlink.links().await?;
    let findings = look(netlink, &links, FEW).await?;
    let mut problems = findings.into_iter().filter(Finding::is_problem);
    Ok(problems.find(|finding| !finding.is_mended_by_add))
}

/// What is found on the paths of all bridges, and on those of as many pods of each; nothing where there is no bridge yet.
pub async fn look(
    netlink: &Netlink,
    links: &[Link],
    pods: usize,
) -> Result<Vec<Finding>, NetlinkError> {
    let records = record::all();
    let mut findings = Vec::new();
    if records.is_empty() {
        return Ok(findings);
    }
    let mut routes = netlink.routes().await?;
    routes.retain(|it| it.header.address_family == AddressFamily::Inet);
    let node = Node {
        netlink,
        links,
        addresses: netlink.ipv4_nets().await?,
        routes,
        rules: netlink.rules(AddressFamily::Inet).await?,
    };
    for record in &records {
        match node.walk(record, pods, &mut findings).await {
            Ok(()) | Err(Stop::Broken) => {}
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
    Ok(findings)
}

impl Node<'_> {
    async fn walk(
        &self,
        record: &Record,
        pods: usize,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Stop> {
        let mut network = self.nic(record, findings)?;
        network.pods.truncate(pods);
        network.gateway(findings).await?;
        network.node_to(Check::Platform, PLATFORM, findings).await?;
        network
            .node_to(Check::DefaultRoute, WORLD, findings)
            .await?;
        network.forwarding(findings)?;
        let Some(bridge) = self.links.iter().find(|link| link.name == record.bridge) else {
            // The check `datapath` names it.
            return Err(Stop::Broken);
        };
        network.pods(bridge, findings).await
    }

    /// The NIC, with an address.
    fn nic<'a>(
        &'a self,
        record: &'a Record,
        findings: &mut Vec<Finding>,
    ) -> Result<Network<'a>, Stop> {
        let Some(nic) = record.nic_among(self.links) else {
            let found = format!("the NIC {} of {} is gone", record.nic, record.bridge);
            let fix = "attach it to the VM again (az vm nic add), or reboot the node";
            return stop(findings, Finding::problem(Check::Nic, found, fix));
        };
        let manager = Manager::of(&nic.name, nic.index);
        findings.push(Finding::ok(
            Check::NicManager,
            format!("{} is configured by {manager}", nic.name),
        ));
        if !nic.is_up() {
            let found = format!("{} is down", nic.name);
            let fix = format!("ip link set {} up; {}", nic.name, self.again(record, nic));
            return stop(findings, Finding::problem(Check::Nic, found, fix));
        }
        let pods = live::pods(&record.bridge).unwrap_or_default();
        let here = self.addresses.iter().filter(|(link, _)| *link == nic.index);
        let nets: Vec<Ipv4Net> = here.map(|(_, net)| *net).collect();
        let of_pods = |net: &&Ipv4Net| pods.iter().any(|pod| net.contains(&pod.address));
        let Some(net) = nets.iter().find(of_pods).or(nets.first()).copied() else {
            let found = format!(
                "{} has no IPv4 address: its lease has ended, or somebody removed it",
                nic.name
            );
            let fix = self.again(record, nic);
            return stop(findings, Finding::problem(Check::Nic, found, fix));
        };
        findings.push(Finding::ok(
            Check::Nic,
            format!("{} is up and has {}", nic.name, net.addr()),
        ));
        let defaults = self
            .routes
            .iter()
            .filter(|it| route::is_default(it) && route::uses(it, nic.index));
        Ok(Network {
            node: self,
            record,
            nic,
            manager,
            net,
            gateway: defaults
                .clone()
                .find_map(route::default_gateway)
                .or_else(|| first_host(net)),
            pods,
        })
    }

    /// The command that gives a NIC its address and routes again.
    fn again(&self, record: &Record, nic: &Link) -> String {
        let manager = Manager::of(&nic.name, nic.index);
        let here = self.addresses.iter().find(|(link, _)| *link == nic.index);
        let net = here.map(|(_, net)| *net).or_else(|| last_address(record));
        manager.again(&nic.name, net, net.and_then(first_host))
    }

    fn name(&self, link: u32) -> String {
        let link_there = self.links.iter().find(|it| it.index == link);
        link_there.map_or_else(|| format!("link {link}"), |it| it.name.clone())
    }
}

impl Network<'_> {
    async fn gateway(&self, findings: &mut Vec<Finding>) -> Result<(), Stop> {
        let Some(gateway) = self.gateway else {
            return Ok(());
        };
        self.node_to(Check::Gateway, gateway, findings).await?;
        let is_silent = self
            .node
            .netlink
            .is_silent(self.nic.index, gateway)
            .await
            .unwrap_or(false);
        if is_silent {
            findings.pop();
            let nic = &self.nic.name;
            let finding = Finding::problem(
                Check::Gateway,
                format!(
                    "the gateway {gateway} does not answer on {nic}: the fabric does not hear this NIC"
                ),
                format!(
                    "ip neigh flush {gateway} dev {nic}, and if it stays so: a firewall drops ARP (nft list ruleset), the NIC is detached, or it has another MAC than Azure knows"
                ),
            );
            return stop(findings, finding);
        }
        Ok(())
    }

    /// What the node itself sends leaves by a NIC.
    async fn node_to(
        &self,
        check: Check,
        to: Ipv4Addr,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Stop> {
        let packet = Packet { to, from: None };
        let way = self.node.netlink.way_of(packet).await?;
        let name = name_of(to, self.gateway);
        let Network { node, nic, .. } = self;
        let again = || self.manager.again(&nic.name, Some(self.net), self.gateway);
        let fix = || culprit::command(node, packet, &way).unwrap_or_else(again);
        match way {
            Way::Out { link, .. } if link == nic.index || node.is_nic(link) => {
                let found = format!("the node reaches {name} by {}", node.name(link));
                findings.push(Finding::ok(check, found));
                Ok(())
            }
            // A way that somebody has chosen for the node, such as a VPN. What pods do is asked below.
            Way::Out { link, .. } if check == Check::DefaultRoute => {
                let found = format!(
                    "the node's own way to {name} is {}, not {}",
                    node.name(link),
                    nic.name
                );
                findings.push(Finding::warning(check, found, fix()));
                Ok(())
            }
            Way::Out { link, .. } => {
                let found = format!(
                    "the node would send what is for {name} by {}, not {}",
                    node.name(link),
                    nic.name
                );
                stop(findings, Finding::problem(check, found, fix()))
            }
            Way::Local => {
                let found = format!("the node takes {name} for itself");
                stop(findings, Finding::problem(check, found, fix()))
            }
            Way::Nowhere(errno) => {
                let found = format!(
                    "the node has no way to {name} ({}): its NIC was down, or somebody changed the routes",
                    words(errno)
                );
                stop(findings, Finding::problem(check, found, fix()))
            }
        }
    }

    fn forwarding(&self, findings: &mut Vec<Finding>) -> Result<(), Stop> {
        const FIX: &str = "and find out what switched it off (/etc/sysctl.d)";
        let is_on = |path: &str| !matches!(sysctl::read(path), Ok(Some(value)) if value == "0");
        if !is_on("net/ipv4/ip_forward") {
            let finding = Finding::problem(
                Check::Forwarding,
                "net.ipv4.ip_forward is not 1: this node does not route for its pods",
                format!("sysctl -w net.ipv4.ip_forward=1, {FIX}"),
            );
            let is_mended_by_add = true;
            return stop(
                findings,
                Finding {
                    is_mended_by_add,
                    ..finding
                },
            );
        }
        for link in [&self.record.bridge, &self.nic.name] {
            let path = format!("net/ipv4/conf/{link}/forwarding");
            if !is_on(&path) {
                let finding = Finding::problem(
                    Check::Forwarding,
                    format!(
                        "net.ipv4.conf.{link}.forwarding is 0: what comes in by {link} is not routed"
                    ),
                    // By slashes, since a link's name may have a dot.
                    format!("sysctl -w {path}=1, {FIX}"),
                );
                return stop(findings, finding);
            }
        }
        let found = format!(
            "net.ipv4.ip_forward is 1, also for {} and {}",
            self.record.bridge, self.nic.name
        );
        findings.push(Finding::ok(Check::Forwarding, found));
        Ok(())
    }

    async fn pods(&self, bridge: &Link, findings: &mut Vec<Finding>) -> Result<(), Stop> {
        let Network {
            node,
            nic,
            net,
            pods,
            ..
        } = self;
        let outside = self.gateway.unwrap_or(PLATFORM);
        let (mut foreign, mut chosen) = (None, None);
        for check in [
            Check::NodeToPod,
            Check::PodToNode,
            Check::PodToPod,
            Check::PodToOut,
            Check::OutToPod,
        ] {
            for (at, pod) in pods.iter().enumerate() {
                let pod = pod.address;
                // Of a single pod, itself: a Service may lead back to it.
                let other = pods[(at + 1) % pods.len()].address;
                let from_pod = Some((pod, bridge.index));
                let (to, from, wanted) = match check {
                    Check::NodeToPod => (pod, None, Some(bridge.index)),
                    Check::PodToNode => (net.addr(), from_pod, None),
                    Check::PodToPod => (other, from_pod, Some(bridge.index)),
                    Check::PodToOut => (WORLD, from_pod, Some(nic.index)),
                    _ => (pod, Some((outside, nic.index)), Some(bridge.index)),
                };
                let packet = Packet { to, from };
                let way = node.netlink.way_of(packet).await?;
                let is_right = match way {
                    Way::Out { link, .. } => Some(link) == wanted,
                    Way::Local => wanted.is_none(),
                    Way::Nowhere(_) => false,
                };
                let is_chosen = matches!(way, Way::Out { link, .. } if check == Check::PodToOut && link != bridge.index && !node.is_nic(link));
                if is_chosen {
                    chosen = chosen.or_else(|| Some(self.chosen(pod, packet, &way)));
                    continue;
                }
                if !is_right {
                    return stop(findings, self.wrong(check, pod, packet, &way));
                }
                if let Way::Out { table, .. } = way
                    && foreign.is_none()
                {
                    foreign = culprit::rule_of(node, packet, table).map(|rule| (check, rule));
                }
            }
        }
        if pods.is_empty() {
            return Ok(());
        }
        let name = &bridge.name;
        let is_chosen = chosen.is_some();
        findings.extend(chosen);
        for (check, found) in [
            (
                Check::NodeToPod,
                format!("the node reaches each pod by {name}"),
            ),
            (
                Check::PodToNode,
                format!("the node takes what pods of {name} send it"),
            ),
            (
                Check::PodToPod,
                format!("what pods of {name} send to each other goes to it"),
            ),
            (
                Check::PodToOut,
                format!(
                    "what pods of {name} send to the world leaves by {}",
                    nic.name
                ),
            ),
            (
                Check::OutToPod,
                format!("what comes in by {} for pods goes to {name}", nic.name),
            ),
        ] {
            if check != Check::PodToOut || !is_chosen {
                findings.push(Finding::ok(check, found));
            }
        }
        findings.push(match foreign {
            None => Finding::ok(Check::Rules, "no rule of others decides about pods' packets"),
            Some((check, (rule, command))) => Finding::warning(
                Check::Rules,
                format!("a rule of others decides before azure-vnet about {}: {rule}; it leads to the right link now", check.name()),
                command,
            ),
        });
        Ok(())
    }

    /// A way to the world that is no NIC's, such as a VPN: somebody wants it so, and who masquerades there is theirs.
    fn chosen(&self, pod: Ipv4Addr, packet: Packet, way: &Way) -> Finding {
        let finding = self.wrong(Check::PodToOut, pod, packet, way);
        let fix = finding.fix.unwrap_or_default();
        let found = format!(
            "{}, which is no NIC: azure-vnet does not masquerade there",
            finding.found
        );
        Finding::warning(
            Check::PodToOut,
            found,
            format!("{fix}, unless it is meant to be so"),
        )
    }

    /// What to say of a packet that does not take its way.
    fn wrong(&self, check: Check, pod: Ipv4Addr, packet: Packet, way: &Way) -> Finding {
        let node = self.node;
        let what = match check {
            Check::NodeToPod => format!("what the node sends to the pod {pod}"),
            Check::PodToNode => format!("what the pod {pod} sends to the node"),
            Check::PodToPod => format!("what the pod {pod} sends to the pod {}", packet.to),
            Check::PodToOut => format!("what the pod {pod} sends to the world"),
            _ => format!("what comes in for the pod {pod}"),
        };
        let becomes = match way {
            Way::Out { link, table, .. } => {
                let by = node.name(*link);
                format!("leaves by {by}, as table {table} has it")
            }
            Way::Local => "is taken by the node itself".to_owned(),
            Way::Nowhere(Errno::XDEV) => {
                "is dropped by the reverse path filter (rp_filter)".to_owned()
            }
            Way::Nowhere(errno) => format!("goes nowhere ({})", words(*errno)),
        };
        let found = format!("{what} {becomes}");
        let fix = match way {
            Way::Nowhere(Errno::XDEV) if check == Check::OutToPod => {
                let nic = &self.nic.name;
                Some(format!("sysctl -w net/ipv4/conf/{nic}/rp_filter=2"))
            }
            Way::Out { table, .. } if check == Check::PodToNode && *table == route::MAIN => {
                // The kernel's own entry, which comes with the address.
                let (address, nic) = (packet.to, &self.nic.name);
                Some(format!(
                    "ip route replace local {address} dev {nic} table local"
                ))
            }
            Way::Local if check != Check::PodToNode => culprit::address(node, packet.to),
            _ => culprit::command(node, packet, way),
        };
        match fix {
            Some(fix) => Finding::problem(check, found, fix),
            None => Finding::mended(check, found),
        }
    }
}

impl Node<'_> {
    /// A link to the fabric: one with a bridge of ours, or with a default route.
    fn is_nic(&self, link: u32) -> bool {
        let records = record::all();
        let mut nics = records
            .iter()
            .filter_map(|record| record.nic_among(self.links));
        let defaults = self.routes.iter().filter(|it| route::is_default(it));
        let is_hardware = self
            .links
            .iter()
            .any(|it| it.index == link && it.mac.is_some() && !it.is_bridge());
        nics.any(|nic| nic.index == link)
            || is_hardware && defaults.flat_map(route::links).any(|it| it == link)
    }
}

fn stop<T>(findings: &mut Vec<Finding>, finding: Finding) -> Result<T, Stop> {
    findings.push(finding);
    Err(Stop::Broken)
}

fn name_of(to: Ipv4Addr, gateway: Option<Ipv4Addr>) -> String {
    match to {
        WORLD => "the world".to_owned(),
        to if Some(to) == gateway => format!("its gateway {to}"),
        to => to.to_string(),
    }
}

/// Why the kernel has no way.
fn words(errno: Errno) -> &'static str {
    match errno {
        Errno::INVAL => "a blackhole route",
        Errno::ACCESS => "a route that prohibits it",
        Errno::NETUNREACH => "no route",
        Errno::NODEV => "the link is down",
        Errno::XDEV => "rp_filter",
        _ => "unreachable",
    }
}

/// Azure's gateway is the first host of the subnet.
fn first_host(net: Ipv4Net) -> Option<Ipv4Addr> {
    net.trunc().hosts().next().filter(|_| net.prefix_len() < 31)
}

/// What the NIC had when the programs were told of it.
fn last_address(record: &Record) -> Option<Ipv4Net> {
    let uplink = view::uplink(&record.bridge).ok()??;
    let address = Ipv4Addr::from(uplink.address);
    let pool = azure_vnet_ipam::report(std::path::Path::new(crate::state::DIRECTORY)).ok()??;
    let subnets = pool.subnets.iter().map(|it| it.subnet);
    let subnet = subnets.into_iter().find(|it| it.contains(&address))?;
    Ipv4Net::new(address, subnet.prefix_len()).ok()
}
