#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ipnet::Ipv4Net;

use super::super::tests::{pod, uplink};
use super::listed::ListedPart;
use super::*;
use crate::masquerade::{Preset, Source};

/// Tables as they would be listed after a script, which only adds.
fn listed(parts: &[Part], elements: &Elements) -> Listed {
    let nothing = Listed::parse(parts, "azure0", &vec![String::new(); parts.len()]);
    let texts: Vec<String> = (parts.iter().zip(&nothing.parts))
        .map(|(part, there)| {
            let script = script::install(part, there, elements);
            script.replace(" 1 ", " ").replace("-I ", "-A ")
        })
        .collect();
    Listed::parse(parts, "azure0", &texts)
}

fn locked() -> Uplink {
    with(Preset::Locked)
}

fn with(preset: Preset) -> Uplink {
    let mut uplink = uplink();
    let subnet: Ipv4Net = "10.0.0.0/20".parse().unwrap();
    uplink.source = Source::On {
        ranges: None,
        link_local: None,
        rules: preset.rules(),
    };
    uplink.policy = uplink.source.policy(subnet, None);
    uplink
}

#[test]
fn the_text_of_a_node_with_one_pod() {
    let parts = layout::parts(Rules::Iptables, &locked());
    let there = ListedPart::default();
    let elements = Elements::of(&[pod("azv1", 1, 5)]);
    let texts = parts
        .iter()
        .map(|part| script::install(part, &there, &elements));
    let text: String = texts.collect();
    assert_eq!(text, include_str!("text.txt"));
}

#[test]
fn what_was_installed_is_recognised() {
    let pods = [pod("azv1", 1, 5), pod("azv2", 2, 6), pod("azv3", 1, 7)];
    // The classic policy keeps what goes to one address, as a pod's rule does.
    for (rules, preset) in [
        (Rules::Iptables, Preset::Locked),
        (Rules::Iptables, Preset::Classic),
        (Rules::IptablesAlone, Preset::Classic),
    ] {
        let parts = layout::parts(rules, &with(preset));
        let elements = Elements::of(&pods);
        let there = listed(&parts, &elements);
        assert!(there.torn.is_empty(), "{:?}", there.torn);
        let known = |set| there.elements.in_set(set).collect::<Vec<_>>();
        assert_eq!(known("pods"), ["10.0.0.5", "10.0.0.6", "10.0.0.7"]);
        if rules == Rules::Iptables {
            assert_eq!(there.elements, elements);
        }
        // Pods make no difference to the rest.
        let without = listed(&parts, &Elements::default());
        assert_eq!(there.form, without.form);
        assert!(without.elements.is_empty() && without.torn.is_empty());
        for (part, there) in parts.iter().zip(&there.parts) {
            let nothing = Elements::default();
            assert_eq!(script::change(part, there, &nothing, &nothing), "");
        }
    }
}

#[test]
fn names_of_chains_are_short_enough() {
    let mut uplink = locked();
    uplink.bridge = "b".repeat(15);
    for rules in [Rules::Iptables, Rules::IptablesAlone] {
        for part in layout::parts(rules, &uplink) {
            for (chain, _) in &part.chains {
                assert!(chain.len() <= 28, "{chain}");
                assert!(layout::is_of(&uplink.bridge, chain), "{chain}");
            }
            let known = |chain: &String| part.chains.iter().any(|(name, _)| name == chain);
            assert!(part.lists.iter().all(|list| known(&list.chain)));
            assert!(part.jumps.iter().all(|(_, chain)| known(chain)));
        }
    }
}

fn filter(lines: &str) -> ListedPart {
    let parts = layout::lists(Rules::Iptables, "azure0");
    let text = format!("*filter\n:FORWARD DROP [0:0]\n{lines}COMMIT\n");
    let mut listed = Listed::parse(&parts[2..], "azure0", &[text]);
    listed.parts.remove(0)
}

#[test]
fn the_jump_is_put_first_and_once() {
    let part = &layout::lists(Rules::Iptables, "azure0")[2];
    let nothing = Elements::default();
    let change = |lines: &str| script::change(part, &filter(lines), &nothing, &nothing);
    let ours = "-A FORWARD -j AZV-azure0-FWD\n";
    let others = "-A FORWARD -j DOCKER-USER\n";
    assert_eq!(change(&format!("{ours}{others}")), "");
    let other_bridge = "-A FORWARD -j AZV-azure1-FWD\n";
    assert_eq!(change(&format!("{other_bridge}{ours}")), "");
    let first = "-I FORWARD 1 -j AZV-azure0-FWD\nCOMMIT\n";
    assert_eq!(change(others), format!("*filter\n{first}"));
    let one = "-D FORWARD -j AZV-azure0-FWD\n";
    assert_eq!(
        change(&format!("{others}{ours}")),
        format!("*filter\n{one}{first}")
    );
    assert_eq!(
        change(&format!("{ours}{ours}")),
        format!("*filter\n{one}{one}{first}")
    );
}

#[test]
fn a_rule_that_is_in_one_place_only_is_torn() {
    let parts = layout::lists(Rules::IptablesAlone, "azure0");
    let texts = [
        "*nat\n:AZV-azure0-POST - [0:0]\n-A AZV-azure0-POST -s 10.0.0.5/32 -g AZV-azure0-NAT\n",
        "*filter\n:AZV-azure0-FWD - [0:0]\n",
    ];
    let there = Listed::parse(&parts[..2], "azure0", &texts.map(String::from));
    assert!(there.elements.is_empty());
    assert_eq!(there.torn.in_set("pods").collect::<Vec<_>>(), ["10.0.0.5"]);
}

#[test]
fn chains_of_another_policy_go() {
    let parts = layout::parts(Rules::Iptables, &uplink());
    let before = listed(
        &layout::parts(Rules::Iptables, &locked()),
        &Elements::default(),
    );
    let text = script::install(&parts[2], &before.parts[2], &Elements::default());
    for line in [":AZV-azure0-O1 - [0:0]\n", "-X AZV-azure0-O1\n"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.ends_with("COMMIT\n"));
}

#[test]
fn everything_of_one_bridge_is_removed_and_nothing_of_another() {
    let part = &layout::lists(Rules::Iptables, "azure0")[2];
    let there = filter(
        ":AZV-azure0-FWD - [0:0]\n:AZV-azure0-OWN - [0:0]\n:AZV-azure01-FWD - [0:0]\n:KUBE-FORWARD - [0:0]\n\
         -A FORWARD -j KUBE-FORWARD\n-A FORWARD -j AZV-azure0-FWD\n-A FORWARD -j AZV-azure0-FWD\n",
    );
    assert_eq!(
        script::remove(part, &there),
        "*filter\n-D FORWARD -j AZV-azure0-FWD\n-D FORWARD -j AZV-azure0-FWD\n\
         :AZV-azure0-FWD - [0:0]\n:AZV-azure0-OWN - [0:0]\n-X AZV-azure0-FWD\n-X AZV-azure0-OWN\nCOMMIT\n"
    );
    assert_eq!(script::remove(part, &ListedPart::default()), "");
}
