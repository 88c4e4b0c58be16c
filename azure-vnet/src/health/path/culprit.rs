//! Who sends a packet the wrong way: a rule or a route of somebody else, and the command that takes it away.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::Node;
use crate::netlink::route::lookup::{Packet, Way};
use crate::netlink::{route, rule};
use crate::node::{is_own_route, is_way_out};

/// The command for whatever decides about a packet; none where that is nobody else's doing.
pub fn command(node: &Node<'_>, packet: Packet, way: &Way) -> Option<String> {
    match way {
        Way::Out { table, .. } if !is_usual(*table) => rule_of(node, packet, *table).map(|it| it.1),
        Way::Out { .. } => route_of(node, packet.to, route::MAIN),
        Way::Local => None,
        Way::Nowhere(_) => refusing(node, packet),
    }
}

/// The rule of others that leads a packet to a table, in words, and what deletes it.
pub fn rule_of(node: &Node<'_>, packet: Packet, table: u32) -> Option<(String, String)> {
    if is_usual(table) {
        return None;
    }
    let mut rules = node.rules.iter();
    let found = rules.find(|it| rule::table(it) == table && is_about(node, it, packet))?;
    let priority = rule::priority(found);
    let from = rule::text(found);
    Some((
        from.trim().to_owned(),
        format!("ip rule del pref {priority}"),
    ))
}

/// The command that takes an address off the link that has it.
pub fn address(node: &Node<'_>, address: Ipv4Addr) -> Option<String> {
    let mut there = node.addresses.iter();
    let (link, net) = there.find(|(_, net)| net.addr() == address)?;
    Some(format!("ip address delete {net} dev {}", node.name(*link)))
}

/// A rule that refuses, or a route that does in the main table or one that a rule of others leads to.
fn refusing(node: &Node<'_>, packet: Packet) -> Option<String> {
    let foreign = node.rules.iter().find(|it| {
        let is_foreign = !is_usual(rule::table(it)) || it.header.action != RuleAction::ToTable;
        let refuses = || {
            it.header.action != RuleAction::ToTable
                || matching(node, packet.to, rule::table(it)).is_some_and(is_refusal)
        };
        is_foreign && is_about(node, it, packet) && refuses()
    });
    match foreign {
        Some(found) => Some(format!("ip rule del pref {}", rule::priority(found))),
        None => route_of(node, packet.to, route::MAIN),
    }
}

/// Whether a rule asks for what a packet has. A look-up has no mark, protocol or ports.
fn is_about(node: &Node<'_>, rule: &RuleMessage, packet: Packet) -> bool {
    let within = |prefix: IpAddr, length: u8, address: Ipv4Addr| match prefix {
        IpAddr::V4(prefix) => Ipv4Net::new(prefix, length).is_ok_and(|net| net.contains(&address)),
        IpAddr::V6(_) => false,
    };
    let own = || (Ipv4Addr::UNSPECIFIED, "lo".to_owned());
    let (source, link) = packet
        .from
        .map_or_else(own, |(source, link)| (source, node.name(link)));
    let holds = rule.attributes.iter().all(|it| match it {
        RuleAttribute::Destination(prefix) => within(*prefix, rule.header.dst_len, packet.to),
        RuleAttribute::Source(prefix) => within(*prefix, rule.header.src_len, source),
        RuleAttribute::Iifname(name) => *name == link,
        RuleAttribute::FwMark(mark) => *mark == 0,
        RuleAttribute::Oifname(_)
        | RuleAttribute::IpProtocol(_)
        | RuleAttribute::SourcePortRange(_)
        | RuleAttribute::DestinationPortRange(_) => false,
        _ => true,
    });
    holds != rule.header.flags.contains(RuleFlags::Invert)
}

/// What deletes the route that decides in a table, where it is neither ours nor the kernel's own.
fn route_of(node: &Node<'_>, to: Ipv4Addr, table: u32) -> Option<String> {
    let found = matching(node, to, table)
        .filter(|it| !is_own_route(it) && it.header.protocol != RouteProtocol::Kernel)?;
    let length = found.header.destination_prefix_length;
    let kind = match found.header.kind {
        RouteType::BlackHole => "blackhole ",
        RouteType::Unreachable => "unreachable ",
        RouteType::Prohibit => "prohibit ",
        _ => "",
    };
    let mut text = match destination(found) {
        Some(address) => format!("ip route del {kind}{address}/{length}"),
        None => format!("ip route del {kind}default"),
    };
    if kind.is_empty()
        && let Some(link) = route::links(found).first()
    {
        let _ = write!(text, " dev {}", node.name(*link));
    }
    let metric = found.attributes.iter().find_map(|it| match it {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    if let Some(metric) = metric {
        let _ = write!(text, " metric {metric}");
    }
    Some(text)
}

/// The route that the kernel takes for `to` in a table: of the longest prefix, of the lowest metric.
fn matching<'a>(node: &'a Node<'_>, to: Ipv4Addr, table: u32) -> Option<&'a RouteMessage> {
    let there = node.routes.iter().filter(|it| route::table(it) == table);
    let covers = |it: &&RouteMessage| {
        let length = u32::from(it.header.destination_prefix_length);
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        let prefix = destination(it).map_or(0, Ipv4Addr::to_bits);
        to.to_bits() & mask == prefix & mask
    };
    // The kernel lists the lowest metric first, and of equals the first is taken.
    there
        .filter(covers)
        .rev()
        .max_by_key(|it| it.header.destination_prefix_length)
}

fn destination(found: &RouteMessage) -> Option<Ipv4Addr> {
    found.attributes.iter().find_map(|it| match it {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}

fn is_refusal(found: &RouteMessage) -> bool {
    matches!(
        found.header.kind,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
    )
}

/// Tables that the kernel has by itself, and ours.
fn is_usual(table: u32) -> bool {
    /// `RT_TABLE_UNSPEC`, `RT_TABLE_DEFAULT`, `RT_TABLE_MAIN`, `RT_TABLE_LOCAL`.
    const KERNELS: [u32; 4] = [0, 253, 254, 255];
    KERNELS.contains(&table) || is_way_out(table)
}
