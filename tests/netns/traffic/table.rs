//! The rows of the table.

use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::traffic::{HOST_PORT, Scenario};

use super::{Way, offences};

#[test]
fn tcx_beside_bridges_that_call_iptables() {
    every_row(Way::Tcx, true);
}

#[test]
fn tcx_beside_bridges_that_do_not() {
    every_row(Way::Tcx, false);
}

#[test]
fn cls_bpf_beside_bridges_that_call_iptables() {
    every_row(Way::ClsBpf, true);
}

#[test]
fn cls_bpf_beside_bridges_that_do_not() {
    every_row(Way::ClsBpf, false);
}

#[test]
fn netfilter_beside_bridges_that_call_iptables() {
    every_row(Way::Netfilter, true);
}

#[test]
fn netfilter_beside_bridges_that_do_not() {
    every_row(Way::Netfilter, false);
}

#[test]
fn iptables_beside_bridges_that_call_iptables() {
    every_row(Way::Iptables, true);
}

#[test]
fn iptables_beside_bridges_that_do_not() {
    every_row(Way::Iptables, false);
}

/// All rows with sources unchecked, checked strictly, and loosely; what deviates is told at the end, all of it.
fn every_row(way: Way, bridge_nf: bool) {
    let deviating: Vec<_> = ["0", "1", "2"]
        .into_iter()
        .flat_map(|rp_filter| {
            let rows = deviating(way, bridge_nf, rp_filter);
            rows.into_iter()
                .map(move |row| format!("rp_filter {rp_filter}: {row}"))
        })
        .collect();
    assert!(deviating.is_empty(), "{deviating:#?}");
}

fn deviating(way: Way, bridge_nf: bool, rp_filter: &str) -> Vec<String> {
    let azure = way.azure();
    for vm in &azure.vms {
        vm.set_bridge_nf(bridge_nf).unwrap();
        vm.set_rp_filter(rp_filter).unwrap();
    }
    let list = way.list();
    let add = |vm: usize, spec: PodSpec| azure.vms[vm].add_pod(&list, &spec).unwrap();
    let pods = [
        add(0, PodSpec::named("web").host_port(HOST_PORT, REPORT_PORT)),
        add(0, PodSpec::named("other")),
    ];
    let remote = [add(1, PodSpec::named("remote"))];
    let rows = Scenario::new(&azure, &pods, &remote).unwrap().rows();
    println!("{way:?}, rp_filter {rp_filter}: {} rows", rows.len());
    let mut deviating: Vec<_> = rows
        .iter()
        .filter(|row| !row.ok())
        .map(|row| format!("{}: {:?} instead of {}", row.kind, row.seen, row.expected))
        .collect();
    let leaked = azure.fabric.leaked().unwrap();
    for (count, what) in [
        (
            offences(&azure),
            "frames that the fabric refused or returned",
        ),
        (leaked, "packets out of range with a pod's address"),
    ] {
        if count != 0 {
            deviating.push(format!("{count} {what}"));
        }
    }
    deviating
}
