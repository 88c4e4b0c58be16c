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

/// True for a rule about what comes from `subnet`.
pub fn is_from(rule: &RuleMessage, subnet: Ipv4Net) -> bool {
    let source = RuleAttribute::Source(subnet.network().into());
    rule.header.src_len == subnet.prefix_len() && rule.attributes.contains(&source)
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

fn text(rule: &RuleMessage) -> String {
    format!("with priority {}", priority(rule))
}
