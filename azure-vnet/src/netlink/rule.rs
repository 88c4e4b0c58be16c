//! Routing rules, as the kernel's whole messages: a rule that names a link by which packets come in
//! or go out is of no use to the link that takes its place, unless it is made to name that one.

use ipnet::Ipv4Net;
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{Label, Netlink, NetlinkError, Request};

impl Netlink {
    /// All routing rules of a family, in the order in which they are asked.
    pub async fn rules(&self, family: AddressFamily) -> Result<Vec<RuleMessage>, NetlinkError> {
        let label = Label {
            operation: "list",
            subject: "the routing rules".to_owned(),
        };
        let mut wanted = RuleMessage::default();
        wanted.header.family = family;
        let listed = self.dump(RouteNetlinkMessage::GetRule(wanted), label).await;
        let entries = match listed {
            // A kernel without rules, or without the family.
            Err(error) if matches!(error.errno(), Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT)) => {
                return Ok(Vec::new());
            }
            listed => listed?,
        };
        Ok(entries
            .into_iter()
            .filter_map(|entry| match entry {
                RouteNetlinkMessage::NewRule(rule) => Some(without_state(rule)),
                _ => None,
            })
            .collect())
    }
}

/// Adds a rule after those of its priority, whether there is an equal one or not.
pub fn append(rule: &RuleMessage) -> Request {
    let message = RouteNetlinkMessage::NewRule(rule.clone());
    Request::new("add the routing rule", text(rule), message).flags(NLM_F_CREATE)
}

/// Deletes the first rule that is as this one.
pub fn delete(rule: &RuleMessage) -> Request {
    let message = RouteNetlinkMessage::DelRule(rule.clone());
    Request::new("delete the routing rule", text(rule), message)
}

/// The rule that has what comes from `subnet` looked up in `table`, with this priority.
pub fn from(subnet: Ipv4Net, table: u32, priority: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet;
    rule.header.src_len = subnet.prefix_len();
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Source(subnet.network().into()),
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(table),
    ];
    rule
}

/// The rule that has what comes in by `link` looked up in `table`, with this priority.
pub fn coming_in(link: &str, table: u32, priority: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Iifname(link.to_owned()),
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(table),
    ];
    rule
}

/// True when both ask the same at the same place and lead to the same table, whatever else the kernel lists of one.
pub fn same(a: &RuleMessage, b: &RuleMessage) -> bool {
    let key = |rule: &RuleMessage| {
        let mut asked: Vec<RuleAttribute> = rule
            .attributes
            .iter()
            .filter(|it| {
                matches!(
                    it,
                    RuleAttribute::Iifname(_)
                        | RuleAttribute::Oifname(_)
                        | RuleAttribute::Source(_)
                        | RuleAttribute::Destination(_)
                        | RuleAttribute::FwMark(_)
                )
            })
            .cloned()
            .collect();
        asked.sort_by_key(|it| format!("{it:?}"));
        (rule.header.src_len, priority(rule), table(rule), asked)
    };
    key(a) == key(b)
}

/// The table that a rule has things looked up in.
pub fn table(rule: &RuleMessage) -> u32 {
    let table = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        });
    table.unwrap_or(rule.header.table.into())
}

/// Where among the rules this one is asked; the lowest first.
pub fn priority(rule: &RuleMessage) -> u32 {
    let priority = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
    // The kernel leaves the attribute out of the first rule of all, `0: from all lookup local`.
    priority.unwrap_or(0)
}

/// The rule with every mention of the link called `from` replaced by `to`.
pub fn moved(rule: &RuleMessage, from: &str, to: &str) -> RuleMessage {
    let mut rule = rule.clone();
    for attribute in &mut rule.attributes {
        match attribute {
            RuleAttribute::Iifname(name) | RuleAttribute::Oifname(name) if name == from => {
                to.clone_into(name);
            }
            _ => {}
        }
    }
    rule
}

/// What the kernel reports of a rule but does not take: whether its link and its target are there.
fn without_state(mut rule: RuleMessage) -> RuleMessage {
    rule.header.flags &= RuleFlags::Invert;
    rule
}

/// What people call a rule.
pub fn text(rule: &RuleMessage) -> String {
    let from = rule.attributes.iter().find_map(|it| match it {
        RuleAttribute::Iifname(name) => Some(format!("iif {name}")),
        RuleAttribute::Source(source) => Some(format!("from {source}")),
        _ => None,
    });
    let from = from.unwrap_or_default();
    format!("{from} lookup {} pref {}", table(rule), priority(rule))
}
