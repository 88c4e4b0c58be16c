//! What rules of iptables do with a packet, worked out from their listing. Where a match asks for what is not known of the packet, both
//! answers are followed: so "all ends are drops" is sure, and "one end is" is a possibility.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Line;

/// The first packet of a connection, without a mark.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// `tcp` or `udp`; none is any.
    pub protocol: Option<&'static str>,
    /// The link by which it comes in; none in POSTROUTING.
    pub comes_in: Option<&'a str>,
    /// The link by which it goes out.
    pub goes_out: &'a str,
    /// Its source.
    pub source: Ipv4Addr,
    /// Its destination, which is no address of the node.
    pub destination: Ipv4Addr,
}

/// How a packet's way through a chain may end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// It goes on.
    Accepted,
    /// By this rule, or this policy.
    Dropped(&'a Line),
    /// By this rule it leaves with another source.
    Translated(&'a Line),
}

impl<'a> End<'a> {
    /// What drops it.
    pub fn dropped(&self) -> Option<&'a Line> {
        match self {
            Self::Dropped(line) => Some(line),
            _ => None,
        }
    }
}

/// The ends that a packet may have in a chain of the kernel, by the rules of one program; none where there is no such chain.
pub fn ends<'a>(lines: &[&'a Line], table: &str, chain: &str, probe: Probe<'_>) -> Vec<End<'a>> {
    let here = lines.iter().copied().filter(|line| line.table == table);
    let mut chains: BTreeMap<&str, Vec<&'a Line>> = BTreeMap::new();
    let mut policy = None;
    for line in here {
        if let Some(rest) = line.text.strip_prefix(':') {
            let mut words = rest.split_whitespace();
            if words.next() == Some(chain) {
                policy = Some((line, words.next() == Some("DROP")));
            }
        } else if let Some(name) = line.text.split_whitespace().nth(1) {
            chains.entry(name).or_default().push(line);
        }
    }
    let Some((policy, drops)) = policy else {
        return Vec::new();
    };
    let mut walk = Walk {
        chains,
        probe,
        known: BTreeMap::new(),
        is_marked: false,
    };
    let Passed { mut ends, goes_on } = walk.pass(chain);
    if goes_on {
        add(
            &mut ends,
            if drops {
                End::Dropped(policy)
            } else {
                End::Accepted
            },
        );
    }
    ends
}

/// What becomes of a packet in one chain.
#[derive(Clone, Debug, Default)]
struct Passed<'a> {
    ends: Vec<End<'a>>,
    /// It may come out at the chain's end.
    goes_on: bool,
}

struct Walk<'a, 'p> {
    chains: BTreeMap<&'a str, Vec<&'a Line>>,
    probe: Probe<'p>,
    /// Each chain is walked once: what it does does not depend on who leads to it, but for a mark.
    known: BTreeMap<&'a str, Passed<'a>>,
    /// Somebody may have set a mark.
    is_marked: bool,
}

impl<'a> Walk<'a, '_> {
    fn pass(&mut self, chain: &str) -> Passed<'a> {
        let Some((name, rules)) = self.chains.get_key_value(chain) else {
            return Passed {
                ends: Vec::new(),
                goes_on: true,
            };
        };
        let (name, rules) = (*name, rules.clone());
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        // The kernel takes no loop; a listing that has one is not followed twice.
        self.known.insert(name, Passed::default());
        let mut passed = Passed {
            ends: Vec::new(),
            goes_on: true,
        };
        for line in rules {
            let rule = Rule::read(&line.text, self.probe, self.is_marked);
            if rule.matches == Match::No {
                continue;
            }
            let sub = self.target(line, &rule);
            for end in sub.ends {
                add(&mut passed.ends, end);
            }
            let is_sure = rule.matches == Match::Yes;
            if rule.returns {
                if is_sure {
                    break;
                }
            } else if is_sure && !sub.goes_on {
                passed.goes_on = false;
                break;
            }
        }
        self.known.insert(name, passed.clone());
        passed
    }

    fn target(&mut self, line: &'a Line, rule: &Rule<'_>) -> Passed<'a> {
        let end = |end| Passed {
            ends: vec![end],
            goes_on: false,
        };
        match rule.target {
            "ACCEPT" => end(End::Accepted),
            "DROP" | "REJECT" => end(End::Dropped(line)),
            "MASQUERADE" | "SNAT" => end(End::Translated(line)),
            "MARK" | "CONNMARK" => {
                self.is_marked = true;
                Passed {
                    ends: Vec::new(),
                    goes_on: true,
                }
            }
            chain => self.pass(chain),
        }
    }
}

fn add<'a>(ends: &mut Vec<End<'a>>, end: End<'a>) {
    if !ends.contains(&end) {
        ends.push(end);
    }
}

/// Whether a packet is one of a rule's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Maybe,
    Yes,
}

struct Rule<'r> {
    matches: Match,
    target: &'r str,
    returns: bool,
}

impl<'r> Rule<'r> {
    fn read(text: &'r str, probe: Probe<'_>, is_marked: bool) -> Self {
        let words = words(text);
        let mut rule = Self {
            matches: Match::Yes,
            target: "",
            returns: false,
        };
        let (mut at, mut negated) = (0, false);
        while let Some(word) = words.get(at).copied() {
            at += 1;
            let value = words.get(at).copied().unwrap_or_default();
            let answer = match word {
                "!" => {
                    negated = true;
                    continue;
                }
                "-A" | "-m" | "--comment" => {
                    at += 1;
                    continue;
                }
                "-j" | "-g" => {
                    rule.target = value;
                    // What is behind it is the target's.
                    break;
                }
                "-s" => within(value, probe.source),
                "-d" => within(value, probe.destination),
                "-p" => probe
                    .protocol
                    .map_or(Match::Maybe, |protocol| yes(value == protocol)),
                "-i" => link(value, probe.comes_in),
                "-o" => link(value, Some(probe.goes_out)),
                "--ctstate" | "--state" => yes(value.split(',').any(|state| state == "NEW")),
                "--mark" if is_marked => Match::Maybe,
                "--mark" => yes(is_zero(value.split('/').next().unwrap_or_default())),
                "--dst-type" | "--src-type" if value == "LOCAL" => Match::No,
                "--dst-range" => range(value, probe.destination),
                "--src-range" => range(value, probe.source),
                word if word.starts_with('-') => Match::Maybe,
                // Another value of what is not known.
                _ => continue,
            };
            let answer = match (answer, negated) {
                (Match::Yes, true) => Match::No,
                (Match::No, true) => Match::Yes,
                (answer, _) => answer,
            };
            negated = false;
            rule.matches = rule.matches.min(answer);
        }
        rule.returns = rule.target == "RETURN";
        rule
    }
}

/// The words of a rule; what is in quotes is one.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, behind) = match rest.strip_prefix('"') {
            // A quote inside is written `\"`.
            Some(quoted) => {
                let mut from = 0;
                let end = loop {
                    match quoted[from..].find('"') {
                        Some(at) if quoted[..from + at].ends_with('\\') => from += at + 1,
                        Some(at) => break from + at,
                        None => break quoted.len(),
                    }
                };
                (&quoted[..end], quoted.get(end + 1..).unwrap_or_default())
            }
            None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        words.push(word);
        rest = behind.trim_start();
    }
    words
}

fn yes(is_so: bool) -> Match {
    if is_so { Match::Yes } else { Match::No }
}

fn within(net: &str, address: Ipv4Addr) -> Match {
    let net = net
        .parse::<Ipv4Net>()
        .or_else(|_| net.parse::<Ipv4Addr>().map(Ipv4Net::from));
    net.map_or(Match::Maybe, |net| yes(net.contains(&address)))
}

fn range(text: &str, address: Ipv4Addr) -> Match {
    let ends = text.split_once('-');
    let ends = ends.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    ends.map_or(Match::Maybe, |(from, to): (Ipv4Addr, Ipv4Addr)| {
        yes(from <= address && address <= to)
    })
}

/// A name that ends with `+` is that of all which begin like it.
fn link(pattern: &str, name: Option<&str>) -> Match {
    let Some(name) = name else {
        return Match::Maybe;
    };
    match pattern.strip_suffix('+') {
        Some(beginning) => yes(name.starts_with(beginning)),
        None => yes(name == pattern),
    }
}

fn is_zero(number: &str) -> bool {
    number.trim_start_matches("0x").trim_matches('0').is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
    const WORLD: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

    fn outcome(table: &str, chain: &str, rules: &str) -> Vec<String> {
        let line = |text: &str| Line {
            program: "iptables-nft-save",
            table: table.to_owned(),
            text: text.trim().to_owned(),
            number: 0,
        };
        let lines: Vec<Line> = rules.lines().map(line).collect();
        let lines: Vec<&Line> = lines.iter().collect();
        let probe = Probe {
            protocol: None,
            comes_in: (chain == "FORWARD").then_some("azure0"),
            goes_out: "eth0",
            source: POD,
            destination: WORLD,
        };
        let ends = ends(&lines, table, chain, probe).into_iter();
        ends.map(|end| match end {
            End::Accepted => "accepted".to_owned(),
            End::Dropped(line) => format!("dropped {}", line.text),
            End::Translated(line) => format!("translated {}", line.text),
        })
        .collect()
    }

    #[test]
    fn docker_drops_what_is_not_its_own() {
        let docker = ":FORWARD DROP [0:0]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n\
            -A FORWARD -j DOCKER-USER\n-A FORWARD -m set --match-set docker-ext dst -j DOCKER\n\
            -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
            -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A DOCKER-USER -j RETURN\n\
            -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n";
        assert_eq!(
            outcome("filter", "FORWARD", docker),
            ["dropped :FORWARD DROP [0:0]"]
        );
        let let_through = format!(
            "{docker}-A DOCKER-USER -s 10.0.0.0/8 -m comment --comment \"pods \\\"-j DROP\" -j ACCEPT\n"
        );
        // DOCKER-USER has ended with RETURN before that rule.
        assert_eq!(
            outcome("filter", "FORWARD", &let_through),
            ["dropped :FORWARD DROP [0:0]"]
        );
        let let_through = format!("{docker}-A FORWARD -i azure+ -j ACCEPT\n");
        assert_eq!(outcome("filter", "FORWARD", &let_through), ["accepted"]);
    }

    #[test]
    fn what_is_not_known_may_be_either() {
        let policy = ":FORWARD ACCEPT [0:0]\n";
        for (rule, expected) in [
            (
                "-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
                vec!["dropped -A FORWARD -j REJECT --reject-with icmp-host-prohibited"],
            ),
            (
                "-A FORWARD -p udp -j DROP",
                vec!["dropped -A FORWARD -p udp -j DROP", "accepted"],
            ),
            (
                "-A FORWARD -m mark --mark 0x10000/0x10000 -j DROP",
                vec!["accepted"],
            ),
            ("-A FORWARD ! -s 10.0.0.0/8 -j DROP", vec!["accepted"]),
            (
                "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
                vec!["accepted"],
            ),
            ("-A FORWARD -j NOWHERE", vec!["accepted"]),
        ] {
            let rules = format!("{policy}{rule}\n");
            assert_eq!(outcome("filter", "FORWARD", &rules), expected, "{rule}");
        }
        // Calico marks what it has let through.
        let calico = ":FORWARD DROP [0:0]\n-A FORWARD -j cali-FORWARD\n-A cali-FORWARD -i cali+ -j MARK --set-xmark 0x1/0x1\n\
            -A cali-FORWARD -j MARK --set-xmark 0x10000/0x10000\n-A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT\n";
        assert_eq!(
            outcome("filter", "FORWARD", calico),
            ["accepted", "dropped :FORWARD DROP [0:0]"]
        );
        assert!(outcome("filter", "FORWARD", "-A FORWARD -j DROP\n").is_empty());
    }

    #[test]
    fn rules_that_masquerade_pods_are_told_from_those_that_do_not() {
        let policy = ":POSTROUTING ACCEPT [0:0]\n";
        for rule in [
            "-A POSTROUTING -m addrtype ! --dst-type LOCAL ! -d 10.0.0.0/8 -j MASQUERADE",
            "-A POSTROUTING -m iprange ! --dst-range 168.63.129.16-168.63.129.16 ! -d 10.0.0.0/8 -j MASQUERADE",
            "-A POSTROUTING -s 10.0.0.0/20 -o eth0 -j SNAT --to-source 10.0.0.4",
            "-A POSTROUTING ! -s 172.17.0.0/16 -j MASQUERADE",
            "-A POSTROUTING -o eth0 -j OTHERS\n-A OTHERS -j MASQUERADE --random-fully",
        ] {
            let found = outcome("nat", "POSTROUTING", &format!("{policy}{rule}\n"));
            assert!(
                matches!(&found[..], [only] if only.starts_with("translated")),
                "{rule}: {found:?}"
            );
        }
        for rule in [
            "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
            "-A POSTROUTING ! -s 10.0.0.0/20 -j MASQUERADE",
            "-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully",
            "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
            "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
        ] {
            let found = outcome("nat", "POSTROUTING", &format!("{policy}{rule}\n"));
            assert_eq!(found, ["accepted"], "{rule}");
        }
    }
}
