//! The netfilter tier on a node without `nft`: by iptables and ebtables, or iptables alone.

use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::process::Output;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};

use super::{connect, on, seen_from_internet, status};

/// Program, and what its name leads to.
type Changes<'a> = &'a [(&'a str, Option<&'a str>)];

const WITHOUT_NFT: Changes<'_> = &[("nft", None)];
const ALONE: Changes<'_> = &[
    ("nft", None),
    ("ebtables-restore", None),
    ("ebtables-save", None),
];
const LEGACY: Changes<'_> = &[
    ("nft", None),
    ("iptables", Some("iptables-legacy")),
    ("iptables-save", Some("iptables-legacy-save")),
    ("iptables-restore", Some("iptables-legacy-restore")),
];

fn azure(changes: Changes<'_>) -> Azure {
    let mut azure = Azure::builder().build().unwrap();
    azure.vms[0].replace_programs(changes).unwrap();
    azure
}

fn add<'a>(vm: &'a Vm, name: &str) -> Pod<'a> {
    // CHECK is known to lists of 0.4.0 and later.
    let list = on("netfilter").at_version("1.0.0");
    vm.add_pod(&list, &PodSpec::named(name)).unwrap()
}

/// As a person types it on the node, with all of the host's programs.
fn run(vm: &Vm, line: &str) -> String {
    let mut words = line.split(' ');
    let program = vm.namespace().program(words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap()
}

fn command(vm: &Vm, command: &str) -> Output {
    let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    plugin.args([command]).output().unwrap()
}

/// Everything of ours, whoever wrote it.
fn rules(vm: &Vm) -> Vec<String> {
    let programs = [
        "iptables-nft-save",
        "iptables-legacy-save",
        "ip6tables-save",
        "ebtables-save",
    ];
    let text = programs.map(|program| run(vm, program)).concat();
    let ours = text.lines().filter(|line| line.contains("AZV-"));
    ours.map(str::to_owned).collect()
}

#[test]
fn iptables_is_taken_where_nft_is_not_there() {
    for (changes, expected, shown) in [
        (
            WITHOUT_NFT,
            "iptables",
            "azure0: netfilter (iptables), 2 pods",
        ),
        (LEGACY, "iptables", "azure0: netfilter (iptables), 2 pods"),
        (
            ALONE,
            "iptables_alone",
            "azure0: netfilter (iptables without ebtables), 2 pods",
        ),
    ] {
        let azure = azure(changes);
        let vm = &azure.vms[0];
        let pods = [add(vm, "first"), add(vm, "second")];
        for pod in &pods {
            assert_eq!(seen_from_internet(pod), vm.nic.primary, "{expected}");
            pod.check().unwrap();
        }
        assert_eq!(status(vm)["rules"], expected);
        let text = command(vm, "status").stdout;
        assert!(text.contains(shown), "{text}");
        assert_eq!(
            text.contains("not checked: ebtables is not there"),
            changes == ALONE,
            "{text}"
        );
        assert!(!run(vm, "nft list tables").contains("azure-vnet"));
        let log = run(vm, "cat /var/log/azure-vnet.log");
        assert!(!log.contains("changed by somebody"), "{log}");
        assert_eq!(azure.fabric.leaked().unwrap(), 0);

        // Kept, though nft is there by now.
        run(vm, "ln -s /usr/sbin/nft /run/testbed/programs/nft");
        let third = add(vm, "third");
        assert_eq!(seen_from_internet(&third), vm.nic.primary);
        assert_eq!(status(vm)["rules"], expected);

        let address = third.address.to_string();
        assert!(rules(vm).iter().any(|rule| rule.contains(&address)));
        third.delete().unwrap();
        assert!(!rules(vm).iter().any(|rule| rule.contains(&address)));

        for pod in pods {
            pod.delete().unwrap();
        }
        let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
        plugin.args(["teardown"]).checked().unwrap();
        assert_eq!(rules(vm), [""; 0], "{expected}");
    }
}

/// What firewall scripts do. CHECK, status and doctor say so; the next call of any kind brings all back, for all pods.
#[test]
fn flushed_rules_are_missed_and_made_again() {
    for (changes, flush) in [
        (WITHOUT_NFT, "nft flush ruleset"),
        (WITHOUT_NFT, "iptables-nft -t nat -F"),
        (WITHOUT_NFT, "iptables-nft -F FORWARD"),
        (WITHOUT_NFT, "iptables-nft -D FORWARD 1"),
        (WITHOUT_NFT, "iptables-nft -F AZV-azure0-OUT"),
        (WITHOUT_NFT, "ebtables -t nat -F"),
        (LEGACY, "iptables-legacy -F"),
        (ALONE, "iptables-nft -F INPUT"),
    ] {
        let azure = azure(changes);
        let vm = &azure.vms[0];
        let pods = [add(vm, "first"), add(vm, "second")];
        let before = rules(vm);
        run(vm, flush);
        pods[0].check().expect_err(flush);
        for shown in ["status", "doctor"] {
            let output = command(vm, shown);
            assert!(
                output.stdout.contains("iptables") || output.stdout.contains("ebtables"),
                "{flush}: {}",
                output.stdout
            );
            assert!(!output.status.success(), "{shown} after {flush}");
        }
        let [first, second] = pods;
        second.delete().unwrap();
        assert_eq!(seen_from_internet(&first), vm.nic.primary, "{flush}");
        first.check().unwrap();
        let _second = add(vm, "second");
        assert_eq!(rules(vm).len(), before.len(), "{flush}");
    }
}

/// An accepted packet does not come to what stands behind: so nothing of others stands before us for longer than until the next call.
#[test]
fn an_accept_before_our_rules_does_not_stay_there() {
    let azure = azure(WITHOUT_NFT);
    let vm = &azure.vms[0];
    let pod = add(vm, "pod");
    run(vm, "iptables-nft -I FORWARD -i azure0 -j ACCEPT");
    run(vm, "iptables-nft -A FORWARD -j AZV-azure0-FWD");
    let _other = add(vm, "other");
    let forward = run(vm, "iptables-nft -S FORWARD");
    let lines: Vec<&str> = forward.lines().collect();
    assert_eq!(
        lines,
        [
            "-P FORWARD ACCEPT",
            "-A FORWARD -j AZV-azure0-FWD",
            "-A FORWARD -i azure0 -j ACCEPT"
        ]
    );
    assert_eq!(seen_from_internet(&pod), vm.nic.primary);
}

/// From iptables to eBPF: connections that netfilter translates stay with it, new ones are ours.
#[test]
fn iptables_to_ebpf_keeps_connections() {
    let azure = azure(WITHOUT_NFT);
    let vm = &azure.vms[0];
    let pod = add(vm, "old");
    let mut connection = connect(&azure, &pod);
    vm.add_pod(&on("ebpf"), &PodSpec::named("new")).unwrap();
    connection.is_alive().unwrap();
    assert_eq!(seen_from_internet(&pod), vm.nic.primary);
    assert!(status(vm)["tier"]["ebpf"].is_string());
    assert!(!rules(vm).iter().any(|rule| rule.contains("SNAT")));
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}
