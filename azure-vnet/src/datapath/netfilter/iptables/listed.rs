//! What the tables have of ours, as `iptables-save` and its relatives list it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use sha2::{Digest as _, Sha256};

use super::super::elements::Elements;
use super::super::program::{NetfilterError, output};
use super::super::seal::Digest;
use super::layout::{self, Part};

/// All of it.
#[derive(Debug, Default)]
pub struct Listed {
    /// Table by table, as they were asked for.
    pub parts: Vec<ListedPart>,
    /// What of pods is wherever it must be.
    pub elements: Elements,
    /// What of pods is in some of these places only.
    pub torn: Elements,
    /// All the rest.
    pub form: Digest,
}

/// What is ours in one table.
#[derive(Debug, Default)]
pub struct ListedPart {
    /// Our chains.
    pub chains: BTreeSet<String>,
    /// Our chains' rules, by chain.
    rules: BTreeMap<String, Vec<String>>,
    /// Rules of the kernel's chains.
    hooks: BTreeMap<String, Vec<String>>,
}

impl Listed {
    /// Lists the tables of these parts.
    pub fn read(parts: &[Part], bridge: &str) -> Result<Self, NetfilterError> {
        let texts = parts.iter().map(|part| {
            let save = format!("{}-save", part.program);
            // ebtables-save knows no table.
            let arguments: &[&str] = if part.program == layout::EBTABLES {
                &[]
            } else {
                &["-t", part.table]
            };
            output(&save, arguments, Stdio::null())
        });
        let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
        Ok(Self::parse(parts, bridge, &texts))
    }

    /// Whether nothing of ours is there.
    pub fn is_nothing(&self) -> bool {
        !self.parts.iter().any(ListedPart::is_something)
    }

    pub(super) fn parse(parts: &[Part], bridge: &str, texts: &[String]) -> Self {
        let mut listed = Self::default();
        let mut places: BTreeMap<(&'static str, String), BTreeSet<String>> = BTreeMap::new();
        let mut form = Sha256::new();
        for (part, text) in parts.iter().zip(texts) {
            let there = ListedPart::parse(part.table, bridge, text);
            for chain in &there.chains {
                form.update(format!("{} {} {chain}\n", part.program, part.table));
                let mut at_the_head = true;
                for rule in there.rules.get(chain).into_iter().flatten() {
                    let lists = part.lists.iter().filter(|list| list.chain == *chain);
                    let mut known = lists.filter_map(|list| Some((list, list.element(rule)?)));
                    match known.next() {
                        Some((list, element)) if at_the_head => {
                            let place = format!("{} {chain} {}", part.program, list.rule);
                            places.entry((list.set, element)).or_default().insert(place);
                        }
                        // Behind the rest a pod's rule does nothing.
                        _ => {
                            at_the_head = false;
                            form.update(format!("{rule}\n"));
                        }
                    }
                }
            }
            listed.parts.push(there);
        }
        let wanted = |set: &str| {
            let lists = parts.iter().flat_map(|part| &part.lists);
            lists.filter(|list| list.set == set).count()
        };
        for ((set, element), places) in places {
            if places.len() == wanted(set) {
                listed.elements.insert(set, element);
            } else {
                listed.torn.insert(set, element);
            }
        }
        listed.form = form.finalize().into();
        listed
    }
}

impl ListedPart {
    fn parse(table: &str, bridge: &str, text: &str) -> Self {
        let mut this = Self::default();
        let mut is_ours = false;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('*') {
                is_ours = name == table;
            } else if !is_ours {
                // Of another table.
            } else if let Some(chain) = line.strip_prefix(':') {
                let chain = chain.split(' ').next().unwrap_or_default();
                if layout::is_of(bridge, chain) {
                    this.chains.insert(chain.to_owned());
                }
            } else if let Some((chain, rule)) = line
                .strip_prefix("-A ")
                .and_then(|rest| rest.split_once(' '))
            {
                let rules = if layout::is_of(bridge, chain) {
                    &mut this.rules
                } else {
                    &mut this.hooks
                };
                let rules = rules.entry(chain.to_owned()).or_default();
                rules.push(rule.to_owned());
            }
        }
        this
    }

    /// Whether anything of ours is there.
    pub fn is_something(&self) -> bool {
        !self.chains.is_empty()
    }

    /// Whether a chain has a rule.
    pub fn has(&self, (chain, rule): &(String, String)) -> bool {
        let rules = self.rules.get(chain);
        rules.is_some_and(|rules| rules.contains(rule))
    }

    /// The rules of a chain.
    pub fn rules(&self, chain: &str) -> &[String] {
        self.rules.get(chain).map(Vec::as_slice).unwrap_or_default()
    }

    /// How often one of the kernel's chains leads to ours.
    pub fn jumps(&self, hook: &str, chain: &str) -> usize {
        let jump = jump(chain);
        let rules = self.hooks.get(hook).into_iter().flatten();
        rules.filter(|rule| **rule == jump).count()
    }

    /// Whether it does so once, before anybody else's rule is asked. Other bridges of ours lead somewhere, too.
    pub fn is_first(&self, hook: &str, chain: &str) -> bool {
        let jump = jump(chain);
        let rules = self.hooks.get(hook).into_iter().flatten();
        let mut before = rules.take_while(|rule| **rule != jump);
        self.jumps(hook, chain) == 1 && before.all(|rule| layout::is_own(rule))
    }

    /// The rules of these elements that are there.
    pub fn of(&self, part: &Part, elements: &Elements) -> Vec<(String, String)> {
        let rules = part.rules_for(elements);
        rules.filter(|rule| self.has(rule)).collect()
    }
}

/// A rule that leads to a chain.
pub fn jump(chain: &str) -> String {
    format!("-j {chain}")
}
