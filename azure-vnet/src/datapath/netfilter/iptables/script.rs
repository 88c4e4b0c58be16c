//! What is given to `iptables-restore` and its relatives, table by table. A chain that is declared is emptied.

use std::fmt::Write as _;

use super::super::elements::Elements;
use super::layout::{EBTABLES, Part};
use super::listed::{ListedPart, jump};

/// All of a table anew, in the place of what is there.
pub fn install(part: &Part, there: &ListedPart, elements: &Elements) -> String {
    let mut lines = Vec::new();
    let known = |chain: &String| part.chains.iter().any(|(name, _)| name == chain);
    let stale: Vec<&String> = (there.chains.iter())
        .filter(|chain| !known(chain))
        .collect();
    let names = part.chains.iter().map(|(name, _)| name);
    lines.extend(
        names
            .chain(stale.iter().copied())
            .map(|chain| declared(part, chain)),
    );
    for (chain, rule) in part.rules_for(elements) {
        lines.push(format!("-A {chain} {rule}"));
    }
    for (chain, rules) in &part.chains {
        lines.extend(rules.iter().map(|rule| format!("-A {chain} {rule}")));
    }
    lines.extend(jumps(part, there));
    lines.extend(stale.iter().map(|chain| format!("-X {chain}")));
    transaction(part, &lines)
}

/// What has to be added and deleted; nothing if nothing has to.
pub fn change(part: &Part, there: &ListedPart, missing: &Elements, surplus: &Elements) -> String {
    let mut lines: Vec<String> = (part.rules_for(missing))
        .map(|(chain, rule)| format!("-I {chain} 1 {rule}"))
        .collect();
    lines.extend((part.rules_for(surplus)).map(|(chain, rule)| format!("-D {chain} {rule}")));
    lines.extend(jumps(part, there));
    transaction(part, &lines)
}

/// Deletes rules that are there.
pub fn forget(part: &Part, rules: &[(String, String)]) -> String {
    let lines: Vec<String> = (rules.iter())
        .map(|(chain, rule)| format!("-D {chain} {rule}"))
        .collect();
    transaction(part, &lines)
}

/// Takes our chains away, and what leads to them.
pub fn remove(part: &Part, there: &ListedPart) -> String {
    let mut lines = Vec::new();
    for (hook, chain) in &part.jumps {
        let count = there.jumps(hook, chain);
        lines.extend((0..count).map(|_| format!("-D {hook} {}", jump(chain))));
    }
    lines.extend(there.chains.iter().map(|chain| declared(part, chain)));
    lines.extend(there.chains.iter().map(|chain| format!("-X {chain}")));
    transaction(part, &lines)
}

/// All of it but what is of pods, and the order of the tables.
pub fn text(parts: &[Part]) -> String {
    let nothing = ListedPart::default();
    let texts = (parts.iter()).map(|part| {
        let mut text = format!("{}\n", part.program);
        text.push_str(&install(part, &nothing, &Elements::default()));
        let lists = part.lists.iter();
        text.extend(lists.map(|list| format!("{} {}\n", list.chain, list.rule)));
        text
    });
    texts.collect()
}

/// Leads to our chains once and first.
fn jumps(part: &Part, there: &ListedPart) -> Vec<String> {
    let mut lines = Vec::new();
    for (hook, chain) in &part.jumps {
        if there.is_first(hook, chain) {
            continue;
        }
        let jump = jump(chain);
        let count = there.jumps(hook, chain);
        lines.extend((0..count).map(|_| format!("-D {hook} {jump}")));
        lines.push(format!("-I {hook} 1 {jump}"));
    }
    lines
}

fn declared(part: &Part, chain: &str) -> String {
    match part.program {
        EBTABLES => format!(":{chain} RETURN"),
        _ => format!(":{chain} - [0:0]"),
    }
}

fn transaction(part: &Part, lines: &[String]) -> String {
    let mut text = String::new();
    if lines.is_empty() {
        return text;
    }
    let _ = writeln!(text, "*{}", part.table);
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text.push_str("COMMIT\n");
    text
}
