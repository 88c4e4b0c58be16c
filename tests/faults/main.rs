//! Faults at the steps of a call: a traced one lists them (every system call, of the plugin and of the programs that it runs, which
//! changes something outside the process or opens what it reads); then calls fail there, and calls are killed there. A failed ADD
//! leaves nothing, a killed call leaves nothing behind the next, and the pod that stands beside keeps working. After a teardown, in
//! the end, the VM is what it was before its first pod; and where the original plugin was before, its pods live through it all.
//!
//! `AZURE_VNET_FAULTS=all` has every step fail and every change killed, `100-120` these steps; otherwise it is a fixed choice, which
//! the tables name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod aftermath;
mod bench;
mod call;
mod cases;
mod choice;
#[path = "../netns/attachment/fixture.rs"]
#[allow(dead_code, reason = "the stage `attachment` uses the rest")]
mod fixture;
mod interceptor;
mod original;
#[path = "../netns/attachment/picture.rs"]
mod picture;
mod step;
mod table;
#[path = "../netns/attachment/traces.rs"]
#[allow(dead_code, reason = "the stage `attachment` uses the rest")]
mod traces;

use cases::{Scenario, run};
use fixture::Tier;

#[test]
fn add_tcx() {
    run(Scenario::Add, Tier::Tcx);
}

#[test]
fn add_cls_bpf() {
    run(Scenario::Add, Tier::ClsBpf);
}

#[test]
fn add_netfilter() {
    run(Scenario::Add, Tier::Netfilter);
}

#[test]
fn del_tcx() {
    run(Scenario::Del, Tier::Tcx);
}

#[test]
fn del_cls_bpf() {
    run(Scenario::Del, Tier::ClsBpf);
}

#[test]
fn del_netfilter() {
    run(Scenario::Del, Tier::Netfilter);
}

#[test]
fn first_add_tcx() {
    run(Scenario::FirstAdd, Tier::Tcx);
}

#[test]
fn first_add_cls_bpf() {
    run(Scenario::FirstAdd, Tier::ClsBpf);
}

#[test]
fn first_add_netfilter() {
    run(Scenario::FirstAdd, Tier::Netfilter);
}

#[test]
fn teardown_tcx() {
    run(Scenario::Teardown, Tier::Tcx);
}

#[test]
fn teardown_cls_bpf() {
    run(Scenario::Teardown, Tier::ClsBpf);
}

#[test]
fn teardown_netfilter() {
    run(Scenario::Teardown, Tier::Netfilter);
}

#[test]
fn upgrade_tcx() {
    run(Scenario::Upgrade, Tier::Tcx);
}

#[test]
fn upgrade_cls_bpf() {
    run(Scenario::Upgrade, Tier::ClsBpf);
}

#[test]
fn upgrade_netfilter() {
    run(Scenario::Upgrade, Tier::Netfilter);
}
