//! The life of a node with pods, from boot to boot. After a step that it did not stand it is booted again, so that each step
//! is judged alone.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, Error, PLUGIN_DIR, Verdicts, dhcp, dns};

use crate::machine::{Booted, Machine, RELEASE, Tier};
use crate::manager::{Command, Manager};
use crate::picture::Picture;
use crate::reach::Neighbourhood;
use crate::report;
use crate::table::Table;

/// The machine's number among those of the simulation.
pub const MACHINE: usize = 1;
/// A lease that ends while the test looks on.
const SHORT_LEASE: u32 = 60;
/// How long a node may take to be whole again. Managers take a second or two.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long a lease may take. A client that heard nothing at first asks again when it likes.
const LEASE_LIMIT: Duration = Duration::from_mins(1);
/// What a manager does, it begins at once, but not before the program that told it has ended.
const SETTLE: Duration = Duration::from_millis(1500);
/// The version from which on there is CHECK.
const WITH_CHECK: &str = "1.0.0";

/// Boots a machine with the manager and lets everything happen to it; fails, with the table, when a step was not stood.
pub fn every_step(manager: &'static Manager, tier: Tier) {
    let azure = Azure::builder().vms(1).machines(1).pool(8).build().unwrap();
    let machine = Machine::new(&azure, MACHINE, manager, tier, None);
    let neighbourhood = Neighbourhood::new(&azure);
    let mut table = Table::new(manager.name, tier);

    early(&machine, &neighbourhood, &mut table);
    let mut steps = manager.steps.iter();
    loop {
        let booted = machine.boot(dhcp::FOR_EVER, true);
        let life = Life::begin(&booted, &machine, &neighbourhood, &mut table);
        let Some(life) = life else { break };
        let stands = steps.by_ref().all(|step| {
            let failed_at_once = || life.run_all(step.commands);
            life.step(step.name, &mut table, failed_at_once)
        });
        if stands {
            life.end(&mut table);
            break;
        }
    }
    let leases = machine.boot(SHORT_LEASE, true);
    if let Some(life) = Life::begin(&leases, &machine, &neighbourhood, &mut table) {
        life.lease_ends(&mut table);
    }
    drop(leases);
    let leases = machine.boot(SHORT_LEASE, true);
    if let Some(life) = Life::begin(&leases, &machine, &neighbourhood, &mut table) {
        life.changed_address(&mut table);
    }
    report(&table.to_string());
    assert!(table.holds(), "{table}");
}

/// The first boot: the release is installed, and a pod is to be added before there is a lease.
fn early(machine: &Machine<'_>, neighbourhood: &Neighbourhood<'_>, table: &mut Table) {
    let booted = machine.boot(dhcp::FOR_EVER, false);
    booted.install(RELEASE);
    let start = Instant::now();
    let mut failed = Vec::new();
    let list = machine.list();
    let too_early = booted.vm.add_pod(&list, &PodSpec::named("early"));
    if let Err(error) = &too_early {
        report(&format!(
            "{}: before the lease: {}",
            machine.manager.name,
            all_of(error)
        ));
    }
    if !matches!(too_early, Ok(_) | Err(Error::Plugin(_))) {
        failed.push("the ADD before the lease says nothing".into());
    }
    booted.dhcp.be_silent(false);
    wait_for_lease(&booted, machine);
    match booted.vm.add_pod(&list, &PodSpec::named("first")) {
        Ok(pod) => {
            let mut pods = vec![pod];
            pods.extend(too_early.ok());
            let life = Life::of(&booted, machine, neighbourhood, None, pods);
            failed.extend(life.patiently_wrong());
        }
        Err(error) => failed.push(format!("ADD: {}", all_of(&error))),
    }
    table.add("ADD before the lease", start.elapsed(), failed);
}

/// A machine that has its lease and a pod.
pub struct Life<'a> {
    booted: &'a Booted<'a>,
    machine: &'a Machine<'a>,
    neighbourhood: &'a Neighbourhood<'a>,
    /// What there was of the NIC before the first pod.
    before: Option<Picture>,
    /// What the fabric had refused before the step.
    refused: Cell<Verdicts>,
    pods: Vec<Pod<'a>>,
}

impl<'a> Life<'a> {
    /// With what there is now.
    pub fn of(
        booted: &'a Booted<'a>,
        machine: &'a Machine<'a>,
        neighbourhood: &'a Neighbourhood<'a>,
        before: Option<Picture>,
        pods: Vec<Pod<'a>>,
    ) -> Self {
        Self {
            booted,
            machine,
            neighbourhood,
            before,
            refused: Cell::new(machine.refused()),
            pods,
        }
    }

    /// Adds the first pods of a boot. Nothing more is to be seen of a node that cannot have them.
    fn begin(
        booted: &'a Booted<'a>,
        machine: &'a Machine<'a>,
        neighbourhood: &'a Neighbourhood<'a>,
        table: &mut Table,
    ) -> Option<Self> {
        wait_for_lease(booted, machine);
        let start = Instant::now();
        let before = Picture::take_settled(booted, machine.manager.has_resolved());
        let mut life = Self::of(booted, machine, neighbourhood, Some(before), Vec::new());
        let mut failed = Vec::new();
        for name in ["first", "second"] {
            match booted.vm.add_pod(&machine.list(), &PodSpec::named(name)) {
                Ok(pod) => life.pods.push(pod),
                Err(error) => failed.push(format!("ADD: {}", all_of(&error))),
            }
        }
        if !life.pods.is_empty() {
            failed.extend(life.patiently_wrong());
        }
        table.add("reboot, first pods", start.elapsed(), failed);
        (!life.pods.is_empty()).then_some(life)
    }

    /// Something happens, and then the node must be whole, and a pod can come and go.
    pub fn step(
        &self,
        name: &str,
        table: &mut Table,
        happen: impl FnOnce() -> Vec<String>,
    ) -> bool {
        let start = Instant::now();
        self.refused.set(self.machine.refused());
        let mut failed = happen();
        std::thread::sleep(SETTLE);
        failed.extend(patiently(|| self.off_the_network()));
        let remarks = self.missed();
        let refused = self.calls();
        if refused.is_some() {
            failed.extend(refused);
        } else if failed.is_empty() {
            failed.extend(
                self.patiently_wrong()
                    .into_iter()
                    .map(|what| what + " after DEL"),
            );
        }
        table.add_with(name, start.elapsed(), failed, remarks)
    }

    /// ADD, CHECK and DEL of one more pod; what the one says that fails.
    pub fn calls(&self) -> Option<String> {
        self.pod_comes_and_goes().err().map(|error| all_of(&error))
    }

    fn pod_comes_and_goes(&self) -> Result<(), Error> {
        let list = self.machine.list().at_version(WITH_CHECK);
        let pod = self.booted.vm.add_pod(&list, &PodSpec::named("passing"))?;
        pod.check()?;
        pod.delete()
    }

    /// Waits until the lease that was there has ended, had it not been renewed.
    fn lease_ends(&self, table: &mut Table) {
        self.step("past the lease's end", table, || {
            let renewed = self.booted.dhcp.acknowledged();
            std::thread::sleep(Duration::from_secs(u64::from(SHORT_LEASE) + 5));
            if self.booted.dhcp.acknowledged() == renewed {
                return vec!["not renewed".into()];
            }
            Vec::new()
        });
    }

    /// The NIC is given another address; the next call of any kind makes pods leave with it.
    fn changed_address(mut self, table: &mut Table) {
        let (machine, booted) = (self.machine, self.booted);
        let former = machine.primary();
        let new = Ipv4Addr::from_bits(former.to_bits() + 200);
        machine.readdress(booted, new);
        self.before = self.before.map(|picture| picture.with(former, new));
        let life = self;
        life.step("changed address", table, || {
            let mut failed = life.run_all(&[machine.manager.ask_anew]);
            let start = Instant::now();
            while !has_address(booted, new) && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(100));
            }
            // A client that has lost its address says so once more with it.
            life.refused.set(machine.refused());
            failed.extend(life.calls());
            failed
        });
    }

    /// Takes everything away again; what there is of the NIC is as it was.
    pub fn end(mut self, table: &mut Table) {
        let start = Instant::now();
        let mut failed = Vec::new();
        for pod in std::mem::take(&mut self.pods) {
            failed.extend(pod.delete().err().map(|error| all_of(&error)));
        }
        failed.extend(self.run(&[&format!("{PLUGIN_DIR}/azure-vnet"), "teardown"]));
        failed.extend(self.patiently_wrong());
        let links = self.booted.vm.links().unwrap();
        if links != ["eth0", "lo"] {
            failed.push(format!("links are left: {links:?}"));
        }
        table.add("teardown", start.elapsed(), failed);
    }

    pub fn run_all(&self, commands: &[Command]) -> Vec<String> {
        commands.iter().filter_map(|line| self.run(line)).collect()
    }

    /// Runs a program on the node; what it says if it fails.
    fn run(&self, line: &[&str]) -> Option<String> {
        let program = self.booted.vm.program(line[0]).unwrap();
        let ended = program.args(&line[1..]).checked();
        ended
            .err()
            .map(|error| error.to_string().replace('\n', ", "))
    }

    /// What is wrong with the node and does not go away by itself.
    pub fn patiently_wrong(&self) -> Vec<String> {
        patiently(|| {
            let mut wrong = self.off_the_network();
            wrong.extend(self.complaints());
            wrong
        })
    }

    /// What node and pods cannot do, and what of the NIC is not as its manager has made it.
    fn off_the_network(&self) -> Vec<String> {
        let (booted, primary) = (self.booted, self.machine.primary());
        let mut wrong = self
            .neighbourhood
            .unreachable(&booted.vm, primary, &self.pods);
        let found = booted.output(&["getent", "hosts", dns::NAME]);
        if !found.stdout.starts_with(&dns::ADDRESS.to_string()) {
            wrong.push("names do not resolve".into());
        }
        if !has_address(booted, primary) {
            wrong.push("not one address on the NIC".into());
        }
        let (before, now) = (self.refused.get(), self.machine.refused());
        for (kind, spoofed) in [
            ("MAC", now.mac - before.mac),
            ("ARP", now.arp - before.arp),
            ("IPv4", now.ip - before.ip),
            ("IPv6", now.ip6 - before.ip6),
        ] {
            if spoofed > 0 {
                wrong.push(format!("{spoofed} frames spoofed by {kind}"));
            }
        }
        if let Some(before) = &self.before {
            let now = Picture::take(booted, self.machine.manager.has_resolved());
            wrong.extend(before.difference(&now));
        }
        wrong
    }

    /// What our own commands miss now; the next call of any kind mends it.
    fn missed(&self) -> Vec<String> {
        let missed = self.complaints().into_iter();
        missed
            .map(|said| format!("before the next call, {said}"))
            .collect()
    }

    /// What our own commands say is wrong. Without pods they may say that nothing is set up.
    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for command in ["doctor", "status"]
            .into_iter()
            .filter(|_| !self.pods.is_empty())
        {
            let output = self
                .booted
                .output(&[&format!("{PLUGIN_DIR}/azure-vnet"), command]);
            if !output.status.success() {
                let mut lines = output.stdout.lines().chain(output.stderr.lines());
                let said = lines.find(|line| line.contains("PROBLEM"));
                complaints.push(format!("{command}: {}", said.unwrap_or_default().trim()));
            }
        }
        complaints
    }
}

/// Looks until nothing is wrong any more; what is, if that takes too long.
fn patiently(look: impl Fn() -> Vec<String>) -> Vec<String> {
    let start = Instant::now();
    loop {
        let wrong = look();
        if wrong.is_empty() || start.elapsed() > PATIENCE {
            return wrong;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// An error with all that it came from.
fn all_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Whether the NIC has this address and no other.
fn has_address(booted: &Booted<'_>, address: Ipv4Addr) -> bool {
    let listed = booted.output(&["ip", "-4", "-brief", "address", "show", "dev", "eth0"]);
    let addresses: Vec<_> = listed.stdout.split_whitespace().skip(2).collect();
    let address = format!("{address}/");
    matches!(addresses[..], [only] | [only, "metric", _] if only.starts_with(&address))
}

/// Waits until the manager has done its work, and shows what it says if it does not.
pub fn wait_for_lease(booted: &Booted<'_>, machine: &Machine<'_>) {
    let primary = machine.primary();
    let start = Instant::now();
    loop {
        let found = booted.output(&["getent", "hosts", dns::NAME]);
        if has_address(booted, primary) && found.status.success() {
            return;
        }
        assert!(
            start.elapsed() < LEASE_LIMIT,
            "no lease, or names do not resolve:\n{}",
            booted.account()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
