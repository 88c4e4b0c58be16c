//! Is each Azure private to its owner, and gone with it?

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::Host;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::{Azure, NETNS_DIR, PLUGIN_DIR, Verdicts, Vm};
use socket2::Type;

use crate::{REPORT_OF_INTERNET, eventually, ip, know_gateway, send};

#[test]
fn vm_has_files_of_its_own() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    assert_eq!(vm.links().unwrap(), ["eth0", "lo"]);
    let marker = format!("testbed-{}", std::process::id());
    for dir in [
        "/run",
        "/etc/cni/net.d",
        "/opt/cni",
        "/var/lib/cni",
        "/var/log",
        "/etc/kubernetes",
    ] {
        let path = format!("{dir}/{marker}");
        vm.write_file(&path, "x").unwrap();
        assert!(!std::fs::exists(&path).unwrap(), "{path} is on the host");
    }
    let mounts = vm
        .program("cat")
        .unwrap()
        .arg("/proc/self/mounts")
        .checked()
        .unwrap();
    assert!(
        mounts
            .lines()
            .any(|line| line.starts_with("bpf /sys/fs/bpf bpf")),
        "{mounts}"
    );
    let plugins = vm.program("ls").unwrap().arg(PLUGIN_DIR).checked().unwrap();
    assert!(
        ["portmap", "loopback", "host-local"]
            .iter()
            .all(|name| plugins.lines().any(|line| line == *name)),
        "{plugins}"
    );
}

#[test]
fn programs_are_stopped_at_their_limit() {
    let azure = Azure::builder().build().unwrap();
    let slow = azure.vms[0]
        .program("sleep")
        .unwrap()
        .arg("60")
        .limit(Duration::from_millis(100))
        .checked();
    assert!(
        slow.unwrap_err()
            .to_string()
            .contains("`sleep 60` did not end within 100ms")
    );
}

/// Two at once have the same addresses and names, and nothing to do with each other.
#[test]
fn several_azures_live_side_by_side() {
    let [one, two] = [(), ()].map(|()| Azure::builder().build().unwrap());
    let stranger = Ipv4Addr::new(10, 0, 9, 9);
    know_gateway(&one.vms[0]);
    ip(&one.vms[0], &format!("address add {stranger}/32 dev lo"));
    send(one.vms[0].namespace(), stranger, INTERNET[0]);
    eventually(|| (one.fabric.verdicts(0).unwrap().ip == 1).then_some(()));
    assert_eq!(two.fabric.verdicts(0).unwrap(), Verdicts::default());
    drop(one);
    let seen = ask(
        Type::STREAM,
        two.vms[0].namespace(),
        None,
        REPORT_OF_INTERNET,
    )
    .unwrap();
    assert_eq!(seen, two.vms[0].nic.primary);
}

/// A veth whose other end is in a namespace vanishes exactly when the kernel has removed that namespace.
#[test]
fn nothing_is_left_after_drop() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let keeper = Namespace::network().unwrap();
    let sandbox = azure.vms[0]
        .new_sandbox(&format!("{NETNS_DIR}/pod"))
        .unwrap();
    let hosts = [&azure.internet, &azure.on_prem, &azure.peered].map(Host::namespace);
    let vms = azure.vms.iter().map(Vm::namespace);
    for (number, namespace) in vms
        .chain(hosts)
        .chain([azure.fabric.namespace(), &sandbox])
        .enumerate()
    {
        tie(&keeper, &format!("tie{number}"), &namespace.net_path());
    }
    assert_eq!(ties(&keeper), 7);
    drop((azure, sandbox));
    eventually(|| (ties(&keeper) == 0).then_some(()));
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the victim must not be killed by anything but this test"
)]
fn nothing_is_left_after_sigkill() {
    let keeper = Namespace::network().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "lifetime::build_and_wait_to_be_killed",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let paths = lines
        .find_map(|line| {
            line.unwrap()
                .split_once("NAMESPACES ")
                .map(|(_, paths)| paths.to_owned())
        })
        .unwrap();
    for (number, path) in paths.split(' ').enumerate() {
        tie(&keeper, &format!("tie{number}"), path);
    }
    assert_eq!(ties(&keeper), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually(|| (ties(&keeper) == 0).then_some(()));
}

#[test]
#[ignore = "not a test: the victim of nothing_is_left_after_sigkill"]
fn build_and_wait_to_be_killed() {
    let azure = Azure::builder().build().unwrap();
    println!(
        "NAMESPACES {} {}",
        azure.fabric.namespace().net_path(),
        azure.vms[0].namespace().net_path()
    );
    std::thread::sleep(Duration::from_secs(30));
}

fn tie(keeper: &Namespace, name: &str, other: &str) {
    let veth = [
        "link", "add", name, "type", "veth", "peer", "name", name, "netns", other,
    ];
    keeper.program("ip").unwrap().args(veth).checked().unwrap();
}

fn ties(keeper: &Namespace) -> usize {
    let links = keeper
        .program("ip")
        .unwrap()
        .args(["-o", "link"])
        .checked()
        .unwrap();
    links.lines().filter(|line| line.contains(": tie")).count()
}
