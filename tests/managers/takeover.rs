//! A node that v0.1.0 has set up, where the NIC is a port of the bridge, gets this version. The next call takes it over, whether or not
//! its manager has torn it in the meantime.

use std::path::PathBuf;
use std::time::Instant;

use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::steady::Steady;
use azure_vnet_testbed::{Azure, dhcp};

use crate::life::{Life, MACHINE, wait_for_lease};
use crate::machine::{Booted, FORMER_RELEASE, Machine, RELEASE, Tier};
use crate::manager::{Command, Manager};
use crate::picture::Picture;
use crate::reach::Neighbourhood;
use crate::report;
use crate::table::Table;

/// Names the folder with the plugins of v0.1.0.
const EARLIER: &str = "AZURE_VNET_EARLIER";

/// Takes over a node with the manager, whole and torn; fails, with the table, when it does not come out whole.
pub fn of_v0_1_0(manager: &'static Manager, tier: Tier) {
    let azure = Azure::builder().vms(1).machines(1).pool(8).build().unwrap();
    let machine = Machine::new(&azure, MACHINE, manager, tier, Some(&earlier()));
    let neighbourhood = Neighbourhood::new(&azure);
    let mut table = Table::new(manager.name, tier);
    takes_over(&machine, &neighbourhood, &mut table, "takeover", &[]);
    let torn = manager.steps[0].commands;
    takes_over(&machine, &neighbourhood, &mut table, "takeover, torn", torn);
    report(&table.to_string());
    assert!(table.holds(), "{table}");
}

fn earlier() -> PathBuf {
    let path = std::env::var_os(EARLIER);
    path.unwrap_or_else(|| {
        panic!("{EARLIER} is not set: run `cargo xtask test --stage managers --managers`")
    })
    .into()
}

fn takes_over(
    machine: &Machine<'_>,
    neighbourhood: &Neighbourhood<'_>,
    table: &mut Table,
    name: &str,
    tear: &[Command],
) {
    let booted = machine.boot(dhcp::FOR_EVER, true);
    wait_for_lease(&booted, machine);
    let before = Picture::take_settled(&booted, machine.manager.has_resolved());
    booted.install(FORMER_RELEASE);
    let pods = ["first", "second"].map(|name| pod(machine, &booted, name));
    // What is torn is off the network, and its connections with it.
    let steady = tear.is_empty().then(|| {
        let (node, pod) = (booted.vm.namespace(), pods[0].namespace());
        // To two hosts, since v0.1.0 mixes up the pings of a node and its pod to one.
        [
            (node, &machine.azure.peered),
            (pod, &machine.azure.internet),
        ]
        .map(|(from, to)| Steady::start(from, to).unwrap())
    });
    let life = Life::of(&booted, machine, neighbourhood, Some(before), pods.into());

    let start = Instant::now();
    let mut failed = life.run_all(tear);
    booted.install(RELEASE);
    failed.extend(life.calls());
    let mut remarks = Vec::new();
    for steady in steady.into_iter().flatten() {
        match steady.end() {
            Ok(tally) => remarks.push(tally.to_string()),
            Err(error) => failed.push(format!("a connection: {error}")),
        }
    }
    failed.extend(life.patiently_wrong());
    table.add_with(name, start.elapsed(), failed, remarks);
    let step = &machine.manager.steps[0];
    life.step(step.name, table, || life.run_all(step.commands));
    life.end(table);
}

fn pod<'a>(machine: &Machine<'_>, booted: &'a Booted<'_>, name: &str) -> Pod<'a> {
    let spec = PodSpec::named(name);
    booted.vm.add_pod(&machine.list(), &spec).unwrap()
}
