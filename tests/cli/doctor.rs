//! `azure-vnet doctor`: what somebody breaks on purpose is named, with its fix.

use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::{Azure, CONFIG_DIR, PLUGIN_DIR, Vm};
use serde_json::Value;

use crate::golden::{assert_fits, assert_golden};
use crate::scene::{json_of, list, pods, pretty, printed, run};

/// The shipped configuration, installed as an administrator does.
pub fn configure(vm: &Vm) {
    vm.write_file(
        &format!("{CONFIG_DIR}/10-azure.conflist"),
        &list("auto").to_json(),
    )
    .unwrap();
}

pub fn shell(vm: &Vm, line: &str) {
    let line = line.replace("azure-vnet gc", &format!("{PLUGIN_DIR}/azure-vnet gc"));
    let mut words = words(&line).into_iter();
    let program = vm.program(&words.next().unwrap()).unwrap();
    program.args(words).checked().unwrap();
}

/// As a shell takes them: a quoted one may have spaces.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split(' ').map(str::to_owned).collect::<Vec<_>>(),
        _ => vec![format!("\u{0}{part}\u{0}")],
    });
    // What touches a quote is one word with it.
    let joined = words.collect::<Vec<_>>().join("\u{1}");
    let joined = joined
        .replace("\u{1}\u{0}", "\u{0}")
        .replace("\u{0}\u{1}", "\u{0}");
    let words = joined.split('\u{1}').map(|word| word.replace('\u{0}', ""));
    words.filter(|word| !word.is_empty()).collect()
}

/// Does what doctor says first, to the letter, and looks again, until nothing is wrong; a sentence may follow the commands.
#[track_caller]
pub fn follow(vm: &Vm) {
    for _ in 0..8 {
        let report: Value = serde_json::from_str(&run(vm, &["doctor", "--json"]).stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let worst = ["problem", "warning"].iter().find_map(|verdict| {
            findings
                .iter()
                .find(|finding| finding["verdict"] == *verdict)
        });
        let Some(finding) = worst else { return };
        let fix = finding["fix"].as_str().unwrap();
        for command in fix.split(", ").next().unwrap().split("; ") {
            shell(vm, command);
        }
    }
    assert_eq!(wrong(vm), [], "after eight commands");
}

/// What it finds wrong now: check and verdict.
pub fn wrong(vm: &Vm) -> Vec<(String, String)> {
    let output = run(vm, &["doctor", "--json"]);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let has_problem = report["problems"].as_u64().unwrap() > 0;
    assert_eq!(
        output.status.code(),
        Some(i32::from(has_problem)),
        "{output:?}"
    );
    let findings = report["findings"].as_array().unwrap().iter();
    let wrong = findings.filter(|finding| finding["verdict"] != "ok");
    wrong
        .inspect(|finding| assert!(finding["fix"].is_string(), "{finding}"))
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap().to_owned();
            (text("check"), text("verdict"))
        })
        .collect()
}

#[test]
fn nothing_is_wrong_with_a_healthy_node() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "ebpf");
    let text = printed(vm, 0, &["doctor", "--all"]);
    assert_fits(&text);
    assert_golden("doctor-healthy.txt", &text);
    assert_eq!(wrong(vm), []);
}

#[test]
fn before_anything_is_installed() {
    let azure = Azure::builder().build().unwrap();
    let text = printed(&azure.vms[0], 0, &["doctor"]);
    assert_fits(&text);
    assert_golden("doctor-not-set-up.txt", &text);
}

/// A rule as the original's installer left it; and a second copy of the configuration, which is nothing to name.
#[test]
fn what_masquerades_pods_is_named() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "ebpf");
    let rule = "POSTROUTING -m addrtype ! --dst-type local ! -d 10.0.0.0/8 -j MASQUERADE";
    shell(vm, &format!("iptables -t nat -A {rule}"));
    let text = printed(vm, 1, &["doctor"]);
    assert_fits(&text);
    assert_golden("doctor-masquerade.txt", &text);
    let json = json_of(vm, 1, &["doctor"]);
    assert_golden("doctor-masquerade.json", &pretty(&json));
    shell(vm, &format!("iptables -t nat -D {rule}"));
    shell(
        vm,
        "cp /etc/cni/net.d/10-azure.conflist /etc/cni/net.d/05-x.conflist",
    );
    assert_eq!(wrong(vm), []);
}

/// Done to the letter and in order; a sentence may follow the command.
#[test]
fn the_command_that_is_named_mends_it() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "ebpf");
    for broken in what_can_break(vm)
        .into_iter()
        .chain(["iptables -P FORWARD DROP".into()])
    {
        shell(vm, &broken);
        let fixes = fixes(vm);
        assert!(!fixes.is_empty(), "{broken}");
        for fix in &fixes {
            let commands = fix.split(", or ").next().unwrap();
            for command in commands.split("; ") {
                shell(vm, command.split(',').next().unwrap());
            }
        }
        assert_eq!(wrong(vm), [], "{broken}: {fixes:?}");
    }
}

/// What the node knows of its pods, taken away by somebody.
fn what_can_break(vm: &Vm) -> Vec<String> {
    let listed = json_of(vm, 0, &["pods"]);
    let veth = listed["pods"][0]["host_veth"].as_str().unwrap();
    vec![
        format!("ip link set {veth} nomaster"),
        format!("ip link set {veth} down"),
        format!("bridge link set dev {veth} learning on"),
        "ip link set azure0 down".into(),
        "ip link set azure0 address 02:00:00:00:00:01".into(),
        "ip link set azure0 mtu 1400".into(),
        "ip address flush dev azure0".into(),
        "ip route flush dev azure0".into(),
        "ip route flush type blackhole".into(),
        "ip neighbour flush dev azure0 nud permanent".into(),
        "ip link delete azure0".into(),
        "find /sys/fs/bpf/azure-vnet -name to_uplink -path */links/* -delete".into(),
        "rm -r /sys/fs/bpf/azure-vnet".into(),
    ]
}

/// ADD, DEL of another pod, and a DEL of one that never was: each mends all of it for all pods.
#[test]
fn any_next_call_mends_it() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "ebpf");
    for broken in what_can_break(vm) {
        shell(vm, &broken);
        assert_ne!(wrong(vm), [], "{broken}");
        let pod = vm.add_pod(&list("ebpf"), &PodSpec::named("next")).unwrap();
        assert_eq!(wrong(vm), [], "ADD after {broken}");
        shell(vm, &broken);
        assert_ne!(wrong(vm), [], "{broken}");
        pod.delete().unwrap();
        assert_eq!(wrong(vm), [], "DEL after {broken}");
    }
}

/// The fixes of all problems that there are; what two have in common once.
fn fixes(vm: &Vm) -> Vec<String> {
    let report = json_of(vm, 1, &["doctor"]);
    let findings = report["findings"].as_array().unwrap().iter();
    let problems = findings.filter(|finding| finding["verdict"] == "problem");
    let mut fixes: Vec<_> = problems
        .map(|problem| problem["fix"].as_str().unwrap().to_owned())
        .collect();
    fixes.dedup();
    fixes
}

#[test]
fn a_configuration_that_is_refused_or_comes_second() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    vm.write_file(
        "/etc/cni/net.d/10-azure.conflist",
        r#"{"cniVersion":"1.0.0","name":"azure","plugins":[{"type":"azure-vnet","mode":"tunnel","ipam":{"type":"nobody"}}]}"#,
    )
    .unwrap();
    vm.write_file(
        "/etc/cni/net.d/05-other.conf",
        r#"{"name":"other","type":"bridge"}"#,
    )
    .unwrap();
    let named = |check: &str, verdict: &str| (check.to_owned(), verdict.to_owned());
    assert_eq!(
        wrong(vm),
        [
            named("configuration_order", "warning"),
            named("configuration", "problem"),
            named("plugins", "problem")
        ]
    );
}

/// Before the first pod, where a configuration says which tier is wanted.
#[test]
fn a_node_that_leaves_no_ports_is_named_before_an_add_fails() {
    for (datapath, verdict) in [
        ("ebpf", Some("problem")),
        ("auto", Some("warning")),
        ("netfilter", None),
        ("off", None),
    ] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        vm.write_file(
            &format!("{CONFIG_DIR}/10-azure.conflist"),
            &list(datapath).to_json(),
        )
        .unwrap();
        let before = wrong(vm);
        shell(vm, "sysctl -qw net.ipv4.ip_local_port_range=1024\t65535");
        let new: Vec<_> = wrong(vm)
            .into_iter()
            .filter(|it| !before.contains(it))
            .collect();
        let expected = verdict.map(|verdict| ("ports_free".to_owned(), verdict.to_owned()));
        assert_eq!(new, Vec::from_iter(expected), "{datapath}");
    }
}

/// The pod's namespace went without a DEL.
#[test]
fn what_is_left_of_a_pod_is_found_and_collected() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let [_web, db] = pods(&azure, "ebpf");
    vm.remove_sandbox(&db.attachment.netns).unwrap();
    let listed = json_of(vm, 0, &["pods"]);
    let veth = listed["pods"][1]["host_veth"].as_str().unwrap();
    shell(vm, &format!("ip link delete {veth}"));
    let mut checks: Vec<String> = wrong(vm).into_iter().map(|(check, _)| check).collect();
    // Its routes are named as well.
    checks.dedup();
    assert_eq!(checks, ["datapath", "maps"]);

    let text = printed(vm, 0, &["gc", "--dry-run"]);
    assert_eq!(text, "default/db (10.0.0.6) would go\n");
    assert_golden(
        "gc-dry-run.json",
        &pretty(&json_of(vm, 0, &["gc", "--dry-run"])),
    );
    assert_golden("gc.txt", &printed(vm, 0, &["gc"]));
    assert_eq!(wrong(vm), []);
    let left = json_of(vm, 0, &["pods"]);
    assert_eq!(left["pods"].as_array().unwrap().len(), 1);
    assert_eq!(
        json_of(vm, 0, &["status"])["pool"]["leases"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        printed(vm, 0, &["gc"]),
        "Nothing is left of pods that are gone.\n"
    );
}

/// The pod was there before the network was called otherwise, and nobody will ask for the old name any more.
#[test]
fn gc_gives_back_what_is_of_a_network_that_was_renamed() {
    let azure = Azure::builder().pool(2).build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let [_web, db] = pods(&azure, "ebpf");
    vm.remove_sandbox(&db.attachment.netns).unwrap();
    let listed = json_of(vm, 0, &["pods"]);
    let veth = listed["pods"][1]["host_veth"].as_str().unwrap();
    shell(vm, &format!("ip link delete {veth}"));
    // The pool is full of it, and the way out is said.
    let full = vm.add_pod(&list("ebpf"), &PodSpec::named("next"));
    let full = full.err().unwrap().to_string();
    assert!(
        full.contains("azure-vnet gc") && !full.contains("add ipconfigs"),
        "{full}"
    );
    let status = printed(vm, 1, &["status"]);
    assert!(status.contains("azure-vnet gc gives back 1"), "{status}");

    let mut renamed = list("ebpf");
    renamed.name.replace_range(.., "renamed");
    vm.write_file("/etc/cni/net.d/10-azure.conflist", &renamed.to_json())
        .unwrap();
    assert_eq!(printed(vm, 0, &["gc"]), "default/db (10.0.0.6) went\n");
    let pool = json_of(vm, 0, &["status"])["pool"].take();
    assert_eq!(pool["leases"].as_array().unwrap().len(), 1, "{pool}");
    assert_eq!(pool["subnets"][0]["free"], 1, "{pool}");
}

/// A pod that lives is not touched, and without a configuration nothing is half done.
#[test]
fn gc_knows_what_it_does() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let [_web, db] = pods(&azure, "ebpf");
    assert_eq!(
        printed(vm, 0, &["gc"]),
        "Nothing is left of pods that are gone.\n"
    );
    assert_eq!(
        json_of(vm, 0, &["pods"])["pods"].as_array().unwrap().len(),
        2
    );

    vm.remove_sandbox(&db.attachment.netns).unwrap();
    let listed = json_of(vm, 0, &["pods"]);
    shell(
        vm,
        &format!(
            "ip link delete {}",
            listed["pods"][1]["host_veth"].as_str().unwrap()
        ),
    );
    let text = printed(vm, 1, &["gc"]);
    assert_fits(&text);
    assert!(
        text.contains("PROBLEM: default/db") && text.contains("/etc/cni/net.d"),
        "{text}"
    );
    assert_eq!(
        json_of(vm, 1, &["pods"])["pods"].as_array().unwrap().len(),
        2
    );
}

/// What a maintainer needs, for root alone and without secrets; a file that is there stays as it is.
#[test]
fn a_bundle_has_what_there_is_but_no_secrets() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    vm.write_file(
        &format!("{CONFIG_DIR}/20-other.conf"),
        r#"{"name":"other","type":"bridge","etcd":{"password":"hunter2"}}"#,
    )
    .unwrap();
    let _pods = pods(&azure, "ebpf");
    shell(vm, "iptables -P FORWARD ACCEPT");
    printed(vm, 0, &["doctor", "--bundle", "/run/bundle.json"]);
    let read = || {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata("/run/bundle.json")?.permissions().mode();
        std::io::Result::Ok((mode, std::fs::read_to_string("/run/bundle.json")?))
    };
    let (mode, text) = vm.namespace().run(read).unwrap().unwrap();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!text.contains("hunter2"), "{text}");
    let bundle: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bundle["status"]["health"], "healthy");
    assert_eq!(
        bundle["configurations"]["/etc/cni/net.d/20-other.conf"]["etcd"]["password"],
        "removed"
    );
    for list in [
        "findings",
        "links",
        "addresses",
        "routes",
        "rules",
        "neighbours",
        "firewall",
    ] {
        assert!(!bundle[list].as_array().unwrap().is_empty(), "{list}");
    }
    assert!(
        bundle["metrics"]
            .as_str()
            .unwrap()
            .contains("azure_vnet_check")
    );
    let files = bundle["files"].as_object().unwrap();
    for file in [
        "/run/azure-vnet/ipam.json",
        "/run/azure-vnet/node-azure0.json",
        "/etc/resolv.conf",
    ] {
        assert!(files.contains_key(file), "{file}: {:?}", files.keys());
    }
    let refused = run(vm, &["doctor", "--bundle", "/run/bundle.json"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(refused.stderr.contains("/run/bundle.json"), "{refused:?}");
}

/// What changes is printed, and nothing else.
#[test]
fn a_watch_prints_what_has_changed() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    configure(vm);
    let _pods = pods(&azure, "ebpf");
    let plugin = format!("{PLUGIN_DIR}/azure-vnet");
    let watch = vm.program("timeout").unwrap();
    let watch = watch.args(["30", &plugin, "doctor", "--watch", "1", "--json"]);
    let printed = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch.output().unwrap().stdout);
        while !watcher.is_finished() {
            for line in [
                "ip route del default",
                "ip route add default via 10.0.0.1 dev eth0",
            ] {
                shell(vm, line);
                std::thread::sleep(std::time::Duration::from_secs(4));
            }
        }
        watcher.join().unwrap()
    });
    let reports: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for problems in [0, 1] {
        assert!(
            reports.iter().any(|it| it["problems"] == problems),
            "{printed}"
        );
    }
    assert!(reports.windows(2).all(|two| two[0] != two[1]), "{printed}");
}
