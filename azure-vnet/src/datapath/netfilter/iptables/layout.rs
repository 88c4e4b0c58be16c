//! Which chains there are, what leads to them, and what each pod has in them.

use super::super::Rules;
use super::super::elements::Elements;
use super::{can_run, policy, wall};
use crate::datapath::Uplink;

/// Its tables are of frames.
pub const EBTABLES: &str = "ebtables";

const IPTABLES: &str = "iptables";
const IP6TABLES: &str = "ip6tables";

/// What `iptables` is another name for.
const SIBLINGS: [&str; 2] = ["iptables-nft", "iptables-legacy"];

/// What is ours in one table of one program.
#[derive(Clone, Debug)]
pub struct Part {
    /// The program, to which `-save` and `-restore` are added.
    pub program: &'static str,
    /// The table.
    pub table: &'static str,
    /// The kernel's chains, and which of ours each leads to.
    pub jumps: Vec<(&'static str, String)>,
    /// What each pod has.
    pub lists: Vec<List>,
    /// Our chains, with what stands behind what pods have.
    pub chains: Vec<(String, Vec<String>)>,
}

/// A rule for each element of a set, at the head of a chain.
#[derive(Clone, Debug)]
pub struct List {
    /// Of [`Elements`].
    pub set: &'static str,
    /// The chain.
    pub chain: String,
    /// `{}` is a part of the element; in the order of its parts.
    pub rule: String,
}

impl Part {
    /// For people.
    pub fn named(&self) -> String {
        format!("the {} table {}", self.program, self.table)
    }

    /// Chain and rule for each element.
    pub fn rules_for(&self, elements: &Elements) -> impl Iterator<Item = (String, String)> {
        (self.lists.iter()).flat_map(|list| {
            let elements = elements.in_set(list.set);
            elements.map(|element| (list.chain.clone(), list.rule(element)))
        })
    }
}

impl List {
    /// The rule for one element.
    pub fn rule(&self, element: &str) -> String {
        let fill = |rule: String, part: &str| rule.replacen("{}", part, 1);
        element.split(' ').fold(self.rule.clone(), fill)
    }

    /// The element that a rule of the chain is for.
    pub fn element(&self, rule: &str) -> Option<String> {
        let mut pieces = self.rule.split("{}");
        let mut rest = rule.strip_prefix(pieces.next()?)?;
        let mut parts = Vec::new();
        for piece in pieces {
            let end = rest.find([' ', '/']).unwrap_or(rest.len());
            parts.push(&rest[..end]);
            rest = rest[end..].strip_prefix(piece)?;
        }
        rest.is_empty().then(|| parts.join(" "))
    }
}

/// All that must be there. Translation is there before the rest, so that nothing leaves without it.
pub fn parts(rules: Rules, uplink: &Uplink) -> Vec<Part> {
    let bridge = &uplink.bridge;
    let mut parts = lists(rules, bridge);
    for part in &mut parts {
        part.chains = match (part.program, part.table) {
            (EBTABLES, _) => wall::chains(uplink),
            (IP6TABLES, _) => {
                let drop = format!("-i {bridge} -j DROP");
                vec![(own(bridge, "V6"), vec![drop])]
            }
            (_, "nat") => translation(uplink),
            _ => forwarding(rules, uplink),
        };
    }
    parts
}

/// The same without the rules that are nobody's.
pub fn lists(rules: Rules, bridge: &str) -> Vec<Part> {
    let pods = |chain: &str, rule: &str| List {
        set: "pods",
        chain: own(bridge, chain),
        rule: rule.to_owned(),
    };
    let own = |chain: &str| own(bridge, chain);
    let mut nat = part(IPTABLES, "nat");
    nat.jumps = vec![("POSTROUTING", own("POST"))];
    nat.lists = vec![pods("POST", &format!("-s {{}}/32 -g {}", own("NAT")))];
    let mut filter = part(IPTABLES, "filter");
    filter.jumps = vec![("FORWARD", own("FWD"))];
    filter.lists = vec![
        pods("FWD", &format!("-s {{}}/32 -g {}", own("OWN"))),
        pods("OWN", "-d {}/32 -j RETURN"),
    ];
    if rules == Rules::Iptables {
        filter.lists.push(pods("ELSE", "-d {}/32 -j RETURN"));
        let mut frames = part(EBTABLES, "nat");
        frames.jumps = vec![("PREROUTING", own("IN"))];
        frames.lists = wall::lists(bridge);
        return vec![frames, nat, filter];
    }
    filter.jumps.push(("INPUT", own("IN")));
    // What listens for the node alone is for no pod, though the kernel may route it (`route_localnet`).
    filter
        .lists
        .push(pods("IN", "-s {}/32 ! -d 127.0.0.0/8 -j RETURN"));
    let mut parts = vec![nat, filter];
    if can_run(IP6TABLES) && std::fs::exists("/proc/net/if_inet6").unwrap_or(false) {
        let mut six = part(IP6TABLES, "filter");
        six.jumps = vec![("FORWARD", own("V6")), ("INPUT", own("V6"))];
        parts.push(six);
    }
    parts
}

/// What is left for the connections that netfilter translates already.
pub fn drained(bridge: &str) -> Part {
    let mut nat = part(IPTABLES, "nat");
    nat.jumps = vec![("POSTROUTING", own(bridge, "POST"))];
    let asks = "-m conntrack --ctstate ESTABLISHED -j RETURN".to_owned();
    nat.chains = vec![(own(bridge, "POST"), vec![asks])];
    nat
}

/// Every table that may have something of ours, by the programs that are there.
pub fn everything(bridge: &str) -> Vec<Part> {
    let tables = [
        (IPTABLES, "filter"),
        (IPTABLES, "nat"),
        (EBTABLES, "nat"),
        (IP6TABLES, "filter"),
    ];
    those_to_be_had(&tables, bridge)
}

/// The same of what `iptables` is, or was, another name for.
pub fn siblings(bridge: &str) -> Vec<Part> {
    let tables = SIBLINGS.map(|program| [(program, "filter"), (program, "nat")]);
    those_to_be_had(tables.as_flattened(), bridge)
}

fn those_to_be_had(tables: &[(&'static str, &'static str)], bridge: &str) -> Vec<Part> {
    let there = (tables.iter()).filter(|(program, _)| can_run(program));
    there
        .map(|&(program, table)| {
            let mut part = part(program, table);
            part.jumps = match (program, table) {
                (EBTABLES, _) => vec![("PREROUTING", own(bridge, "IN"))],
                (IP6TABLES, _) => {
                    vec![("FORWARD", own(bridge, "V6")), ("INPUT", own(bridge, "V6"))]
                }
                (_, "nat") => vec![("POSTROUTING", own(bridge, "POST"))],
                _ => vec![
                    ("FORWARD", own(bridge, "FWD")),
                    ("INPUT", own(bridge, "IN")),
                ],
            };
            part
        })
        .collect()
}

/// As the documented rule has it, for the pods of this node only. A table of translation does not drop: what the rules close has not
/// come here, but if the node itself sends it in a pod's name; that leaves with the node's address.
fn translation(uplink: &Uplink) -> Vec<(String, Vec<String>)> {
    let Uplink {
        bridge, address, ..
    } = uplink;
    let own = |chain| own(bridge, chain);
    let translate = format!("-j SNAT --to-source {address}");
    let ways = policy::Ways {
        masquerade: &translate,
        drop: &translate,
    };
    let mut chains = vec![(own("POST"), Vec::new())];
    chains.extend(policy::chains(uplink, "NAT", Vec::new(), &ways));
    chains
}

/// What a rule closes is closed to the flows that pods begin. A packet that connection tracking cannot place, or was told to leave
/// alone, would pass the table of translation unseen and leave with the pod's address, so it is dropped where it would leave the
/// ranges. So is what comes over the bridge from nobody's address: nothing would translate it. Without a wall a pod could
/// send that, so then it does not pass at all.
fn forwarding(rules: Rules, uplink: &Uplink) -> Vec<(String, Vec<String>)> {
    let bridge = &uplink.bridge;
    let own = |chain| own(bridge, chain);
    let leave = format!("-g {}", own("OUT"));
    let ways = policy::Ways {
        masquerade: &leave,
        drop: "-j DROP",
    };
    let replies = "-m conntrack --ctdir REPLY -j RETURN".to_owned();
    let lost = "-m conntrack --ctstate INVALID,UNTRACKED -j DROP".to_owned();
    let strangers = match rules {
        Rules::IptablesAlone => format!("-i {bridge} -j DROP"),
        Rules::Nft | Rules::Iptables => format!("-g {}", own("ELSE")),
    };
    let mut chains = vec![(own("FWD"), vec![strangers]), (own("OUT"), vec![lost])];
    chains.extend(policy::chains(uplink, "OWN", vec![replies], &ways));
    if rules == Rules::IptablesAlone {
        chains.push((own("IN"), vec![format!("-i {bridge} -j DROP")]));
    } else {
        let ways = policy::Ways {
            masquerade: "-j DROP",
            drop: "-j DROP",
        };
        // Behind what pods have, so that a prefix of one address is not taken for a pod.
        let not_ours = format!("! -i {bridge} -j RETURN");
        chains.extend(policy::chains(uplink, "ELSE", vec![not_ours], &ways));
    }
    chains
}

fn part(program: &'static str, table: &'static str) -> Part {
    Part {
        program,
        table,
        jumps: Vec::new(),
        lists: Vec::new(),
        chains: Vec::new(),
    }
}

/// The name of a chain: at most 28 bytes, of which 15 are the bridge's.
pub fn own(bridge: &str, chain: &str) -> String {
    format!("{PREFIX}{bridge}-{chain}")
}

/// Whether a chain is one of this bridge's.
pub fn is_of(bridge: &str, chain: &str) -> bool {
    let named = chain.rsplit_once('-').map(|(head, _)| head);
    named.and_then(|head| head.strip_prefix(PREFIX)) == Some(bridge)
}

/// Whether a line of a listing is about a chain of any bridge of ours.
pub fn is_own(line: &str) -> bool {
    let words = line.split([' ', ':']);
    words.clone().any(|word| word.starts_with(PREFIX))
}

const PREFIX: &str = "AZV-";
