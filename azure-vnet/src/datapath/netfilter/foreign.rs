//! The packet filter rules of others, as their own programs list them: what could be in our way. Only read.

pub mod chains;
pub mod traversal;

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;

use super::iptables::is_own;
use super::program::{NetfilterError, is_there, output};

/// Each lists what it knows, in the form of iptables-restore(8). One machine may have rules of both kinds.
const IPTABLES: [&str; 2] = ["iptables-nft-save", "iptables-legacy-save"];
/// What there is where nobody has told the two apart.
const ONLY_IPTABLES: [&str; 1] = ["iptables-save"];
const EBTABLES: [&str; 1] = ["ebtables-save"];

const NFT: &str = "nft";

/// A line of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The program that listed it, and that its siblings belong to.
    pub program: &'static str,
    /// The table's name.
    pub table: String,
    /// `-A CHAIN ...` for a rule, `:CHAIN POLICY ...` for a chain.
    pub text: String,
    /// Of a rule: its place in its chain, from 1, with the rules that are ours counted.
    pub number: usize,
}

impl Line {
    /// The program that changes what this one is of.
    pub fn tool(&self) -> &'static str {
        self.program.trim_end_matches("-save")
    }

    /// The chain that it is of.
    pub fn chain(&self) -> &str {
        let mut words = self.text.trim_start_matches(':').split_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "-A" {
            words.next().unwrap_or_default()
        } else {
            first
        }
    }
}

/// The lines of all iptables tables but those of our own chains; programs that are not installed list nothing.
pub fn iptables() -> Result<Vec<Line>, NetfilterError> {
    all(installed(), &[])
}

/// Whether a program is there that lists rules.
pub fn is_listable() -> bool {
    let mut programs = IPTABLES.iter().chain(&ONLY_IPTABLES).chain([&NFT]);
    programs.any(|program| is_there(program))
}

/// The same of the table `filter` alone, whatever the number of Services in the others. The program of the older kind would make that
/// table where there is none, and is run only if there is.
pub fn iptables_filter(has_legacy: bool) -> Result<Vec<Line>, NetfilterError> {
    let programs = match installed() {
        [nft, _legacy] if !has_legacy => &[*nft][..],
        all => all,
    };
    all(programs, &["-t", "filter"])
}

fn installed() -> &'static [&'static str] {
    if IPTABLES.iter().any(|program| is_there(program)) {
        &IPTABLES
    } else {
        &ONLY_IPTABLES
    }
}

/// What nft lists of one chain, each rule with its handle; `None` where nft is not installed.
pub fn nft_chain(chain: &chains::Chain) -> Result<Option<String>, NetfilterError> {
    let chains::Chain {
        family,
        table,
        name,
        ..
    } = chain;
    if !is_there(NFT) {
        return Ok(None);
    }
    let arguments = ["-a", "list", "chain", family, table, name];
    output(NFT, &arguments, Stdio::null()).map(Some)
}

/// Rules of nftables that translate, or take packets from connection tracking, each with its table: but for ours, and for those that
/// [`iptables`] lists. Where `nft` is not there, there are none.
pub fn nftables() -> Result<Vec<(String, String)>, NetfilterError> {
    let text = match output(NFT, &["list", "ruleset"], Stdio::null()) {
        Err(NetfilterError::Run { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            String::new()
        }
        result => result?,
    };
    Ok(translating(&text))
}

fn translating(text: &str) -> Vec<(String, String)> {
    const STATEMENTS: [&str; 5] = ["notrack", "masquerade", "snat", "dnat", "redirect"];
    const OF_IPTABLES: [&str; 4] = ["ip filter", "ip nat", "ip mangle", "ip raw"];
    let mut table = "";
    let mut rules = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        }
        let is_theirs = !table.contains(" azure-vnet-") && !OF_IPTABLES.contains(&table);
        let mut words = line.split_whitespace();
        if is_theirs && words.any(|word| STATEMENTS.contains(&word)) {
            rules.push((table.to_owned(), line.trim().to_owned()));
        }
    }
    rules
}

/// The lines of all ebtables tables.
pub fn ebtables() -> Result<Vec<Line>, NetfilterError> {
    all(&EBTABLES, &[])
}

fn all(programs: &[&'static str], arguments: &[&str]) -> Result<Vec<Line>, NetfilterError> {
    let mut lines = Vec::new();
    for program in programs {
        lines.extend(parse(program, &listing(program, arguments)?));
    }
    Ok(lines)
}

fn listing(program: &str, arguments: &[&str]) -> Result<String, NetfilterError> {
    match output(program, arguments, Stdio::null()) {
        Err(NetfilterError::Run { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(String::new())
        }
        result => result,
    }
}

fn parse(program: &'static str, text: &str) -> Vec<Line> {
    let mut table = String::new();
    let mut lines = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        let rule = line.strip_prefix("-A ");
        let chain = rule.and_then(|rule| rule.split_whitespace().next());
        let number = chain.map_or(0, |chain| {
            let number = numbers.entry(chain).or_default();
            *number += 1;
            *number
        });
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
            numbers.clear();
        } else if (line.starts_with("-A ") || line.starts_with(':')) && !is_own(line) {
            lines.push(Line {
                program,
                table: table.clone(),
                text: line.to_owned(),
                number,
            });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_others_that_translate_are_found() {
        let text = "table ip nat {\n\tchain POSTROUTING {\n\t\tcounter masquerade\n\t}\n}\n\
                    table ip azure-vnet-azure0 {\n\tchain postrouting {\n\t\tsnat to 10.0.0.4\n\t}\n}\n\
                    table inet other {\n\tchain pre {\n\t\ttype filter hook prerouting priority raw;\n\
                    \t\tudp dport 53 notrack\n\t\tudp dport 54 accept\n\t}\n}\n";
        let expected = ("inet other".to_owned(), "udp dport 53 notrack".to_owned());
        assert_eq!(translating(text), [expected]);
    }

    #[test]
    fn lines_are_of_the_table_before_them() {
        let text = "# Generated\n*nat\n:POSTROUTING ACCEPT [0:0]\n:AZV-azure0-POST - [0:0]\n\
                    -A POSTROUTING -j AZV-azure0-POST\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n\
                    *filter\n:FORWARD DROP [1:2]\nCOMMIT\n";
        let lines = parse("iptables-save", text);
        let shown: Vec<_> = lines
            .iter()
            .map(|line| (line.table.as_str(), line.text.as_str(), line.number))
            .collect();
        assert_eq!(
            shown,
            [
                ("nat", ":POSTROUTING ACCEPT [0:0]", 0),
                ("nat", "-A POSTROUTING -j MASQUERADE", 2),
                ("filter", ":FORWARD DROP [1:2]", 0),
            ]
        );
    }
}
