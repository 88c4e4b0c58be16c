//! `azure-vnet teardown`: the VM as it was before its first pod, whatever the tier.

use std::path::Path;
use std::time::Duration;

use azure_vnet_testbed::PLUGIN_DIR;
use azure_vnet_testbed::process::{Error, Output, Program};

use crate::fixture::{Node, TIERS, Tier};

impl Node {
    pub fn teardown(&self, arguments: &[&str]) -> Program {
        let forced = if self.tier == Tier::ClsBpf { "1" } else { "0" };
        let program = self.vm().program(&format!("{PLUGIN_DIR}/azure-vnet"));
        program
            .unwrap()
            .env("AZURE_VNET_FORCE_CLS_BPF", forced)
            .args(["teardown"])
            .args(arguments)
    }

    /// Everything that the plugin may leave on the VM, word for word.
    fn everything(&self) -> Vec<String> {
        self.wait_for_ipv6();
        let commands = [
            "ip -d addr",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule",
            "ip -6 rule",
            "ip neighbour show nud permanent",
            "tc qdisc show",
            "tc filter show dev eth0 ingress",
            "tc filter show dev eth0 egress",
            "nft list ruleset",
            "sysctl net.ipv4.ip_forward net.ipv4.conf.all.accept_redirects net.ipv4.conf.eth0.forwarding",
        ];
        let outputs = commands.iter().map(|command| self.sh(command));
        let lines =
            outputs.flat_map(|output| output.lines().map(without_timers).collect::<Vec<_>>());
        lines
            .chain(self.vm().namespace().run(remains).unwrap())
            .collect()
    }

    /// Until detection of duplicates is over, addresses and routes come and go by themselves.
    fn wait_for_ipv6(&self) {
        for _ in 0..500 {
            if self.sh("ip -6 addr show tentative").is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{}", self.sh("ip -6 addr show tentative"));
    }
}

/// The line without what a bridge counts down (`gc_timer  296.73`).
fn without_timers(line: &str) -> String {
    let mut of_timer = false;
    let words = line.split_inclusive(' ').filter(|word| {
        let is_time =
            of_timer && (*word == " " || word.starts_with(|first: char| first.is_ascii_digit()));
        of_timer = word.trim_end().ends_with("_timer") || (of_timer && *word == " ");
        !is_time
    });
    words.collect()
}

/// Pins, and state that is not a lock nor IPAM's.
fn remains() -> Vec<String> {
    let mut found = Vec::new();
    let mut places = vec![
        Path::new("/sys/fs/bpf/azure-vnet").to_owned(),
        Path::new("/run/azure-vnet").to_owned(),
    ];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(&place).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                places.push(path);
            } else if path.extension().is_none_or(|kind| kind != "lock")
                && !name.starts_with("ipam")
            {
                found.push(path.display().to_string());
            }
        }
    }
    if Path::new("/sys/fs/bpf/azure-vnet").exists() {
        found.push("/sys/fs/bpf/azure-vnet".to_owned());
    }
    found
}

#[track_caller]
fn fails_with(output: &Output, words: &str) {
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stderr.contains(words), "{output:?}");
}

#[track_caller]
fn is_as_before(node: &Node, before: &[String], when: &str) {
    let after = node.everything();
    let differing = after.iter().zip(before).find(|(is, was)| is != was);
    assert_eq!(differing, None, "{:?}, {when}", node.tier);
    assert_eq!(
        after.len(),
        before.len(),
        "{:?}, {when}: {after:#?}",
        node.tier
    );
}

#[test]
fn the_vm_is_as_it_was_before_its_first_pod() {
    for tier in TIERS {
        let node = Node::new(tier);
        let nothing = node.teardown(&[]).output().unwrap();
        assert!(nothing.status.success(), "{nothing:?}");
        node.sh("ip addr add 10.0.15.99/20 dev eth0 label eth0:app");
        node.sh("ip rule add pref 77 iif eth0 lookup 99");
        let before = node.everything();

        let pod = node.container();
        pod.add();
        let meanwhile = node.everything();
        let refused = node.teardown(&[]).output().unwrap();
        fails_with(&refused, "1 pod is attached to azure0");
        fails_with(&refused, &pod.host_veth());
        is_as_before(&node, &meanwhile, "refused");
        let unknown = node.teardown(&["--bridge", "br7"]).output().unwrap();
        fails_with(
            &unknown,
            "br7 is not a bridge of azure-vnet on this node (it has azure0)",
        );

        pod.del().ok();
        let done = node.teardown(&["--bridge", "azure0"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        is_as_before(&node, &before, "after the last pod");

        // Once more, with a pod that lives; its DEL finds nothing left to do but IPAM's part.
        let pod = node.container();
        pod.add();
        let done = node.teardown(&["--force"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        is_as_before(&node, &before, "by force");
        pod.del().ok();
        is_as_before(&node, &before, "by force, after DEL");
    }
}

#[test]
fn killed_at_any_moment_the_next_one_ends_it() {
    for tier in TIERS {
        let node = Node::new(tier);
        let before = node.everything();
        let mut killed = 0;
        for step in 1..=20 {
            let pod = node.container();
            pod.add();
            pod.del().ok();
            let limit = Duration::from_millis(2 * step);
            match node.teardown(&[]).limit(limit).output() {
                // Longer limits would be the same.
                Ok(_) if step > 5 => break,
                Ok(_) => {}
                Err(Error::TimeLimit { .. }) => killed += 1,
                Err(error) => panic!("{error}"),
            }
            if step % 2 == 0 {
                // A DEL comes first, and finds the node between two states.
                pod.del().ok();
            }
            let done = node.teardown(&[]).output().unwrap();
            assert!(
                done.status.success(),
                "{tier:?}, killed after {limit:?}: {done:?}"
            );
            is_as_before(&node, &before, &format!("killed after {limit:?}"));
        }
        assert!(killed > 0, "{tier:?}: none was killed");
    }
}
