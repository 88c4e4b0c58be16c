//! No address is ever given to two live pods: calls at random, many at once, some killed, on a pool of 200 addresses, while state
//! is damaged and lost and the node reboots. A ledger watches every allocation.
//!
//! `AZURE_VNET_NEVER_TWICE_SECONDS` sets for how long; `AZURE_VNET_NEVER_TWICE_SEED` repeats a run's choices, which it prints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

#[path = "../netns/attachment/fixture.rs"]
#[allow(dead_code, reason = "the stage `attachment` uses the rest")]
mod fixture;
#[path = "never_twice/ledger.rs"]
mod ledger;
#[path = "never_twice/misfortune.rs"]
mod misfortune;
#[path = "../netns/attachment/traces.rs"]
#[allow(dead_code, reason = "the stage `attachment` uses the rest")]
mod traces;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::REPORT_PORT;
use fastrand::Rng;
use serde_json::{Value, json};
use socket2::Type;

use fixture::{Container, Node, Tier, address};
use ledger::Ledger;

const SECONDS_VARIABLE: &str = "AZURE_VNET_NEVER_TWICE_SECONDS";
const SEED_VARIABLE: &str = "AZURE_VNET_NEVER_TWICE_SEED";
const SECONDS: u64 = 45;

const POOL: u8 = 200;
/// More places for pods than there are addresses, so that the pool is exhausted again and again.
const PLACES: usize = 300;
const WORKERS: usize = 8;
/// An ADD or DEL takes some ten milliseconds, and several times that on a busy machine: kills fall into every part of it.
const LATEST_KILL_MICROSECONDS: u64 = 60_000;

/// A place for a pod, and what the runtime knows of the one that is there.
#[derive(Default)]
enum Place<'a> {
    #[default]
    Empty,
    Live(Container<'a>),
    /// Its ADD or its DEL was killed or failed: DEL has to come.
    Doubtful(Container<'a>),
}

struct World<'a> {
    node: &'a Node,
    ledger: Ledger,
    places: Vec<Mutex<Place<'a>>>,
    /// Held to read by whoever calls about one pod, to write by whoever does something to all.
    gate: RwLock<()>,
    tally: Mutex<BTreeMap<String, usize>>,
    failures: Mutex<Vec<String>>,
    /// The plugin has asked for it.
    to_drain: AtomicBool,
}

#[test]
fn no_address_is_given_to_two_live_pods() {
    let seconds = number(SECONDS_VARIABLE).unwrap_or(SECONDS);
    let seed = number(SEED_VARIABLE).unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED_VARIABLE}={seed}");
    let node = Node::with_pool(Tier::Tcx, POOL).with_ipam_by_turns();
    let world = World::new(&node);
    let end = Instant::now() + Duration::from_secs(seconds);
    let number = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let number = number.fetch_add(1, Ordering::Relaxed) as u64;
                let mut rng = Rng::with_seed(seed ^ (number << 32));
                while Instant::now() < end && world.failures.lock().unwrap().is_empty() {
                    world.step(&mut rng);
                }
            });
        }
    });
    world.addresses_in_pods_are_those_of_the_ledger();
    println!("{}", world.report(seconds));
    let failures = world.failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} failures, the first: {}",
        failures.len(),
        failures[0]
    );
    assert!(
        world.ledger.allocations() > 50,
        "too few allocations to prove anything"
    );
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number")),
    )
}

impl<'a> World<'a> {
    fn new(node: &'a Node) -> Self {
        misfortune::prepare(node.vm());
        Self {
            node,
            ledger: Ledger::default(),
            places: (0..PLACES).map(|_| Mutex::default()).collect(),
            gate: RwLock::default(),
            tally: Mutex::default(),
            failures: Mutex::default(),
            to_drain: AtomicBool::default(),
        }
    }

    fn step(&self, rng: &mut Rng) {
        if self.to_drain.swap(false, Ordering::Relaxed) {
            self.drain();
        }
        match rng.u32(..1000) {
            0..4 => self.reboot(rng),
            4..17 => self.collect(),
            17..50 => self.note(&misfortune::damage(self.node.vm(), rng)),
            _ => self.visit(rng),
        }
    }

    /// A call about one pod.
    fn visit(&self, rng: &mut Rng) {
        let _gate = self.gate.read().unwrap();
        let Ok(mut place) = self.places[rng.usize(..PLACES)].try_lock() else {
            return; // Runtimes serialise the calls about a container.
        };
        *place = match std::mem::take(&mut *place) {
            Place::Empty => self.add(rng),
            Place::Live(container) if rng.u8(..10) < 4 => {
                self.works(&container);
                Place::Live(container)
            }
            Place::Live(container) | Place::Doubtful(container) => self.del(container, rng),
        };
    }

    fn add(&self, rng: &mut Rng) -> Place<'a> {
        let container = self.node.container();
        if rng.u8(..6) == 0 {
            let limit = Duration::from_micros(rng.u64(..LATEST_KILL_MICROSECONDS));
            let killed = container.add_or_kill(limit);
            // Nobody has read the answer of one that ended: the runtime knows nothing of it.
            self.note(if killed {
                "ADD killed"
            } else {
                "ADD too fast to be killed"
            });
            return Place::Doubtful(container);
        }
        match container.call("ADD", &json!({})).added() {
            Ok(result) => {
                self.note("ADD");
                self.granted(&container, &result);
                Place::Live(container)
            }
            Err(answer) => {
                match misfortune::reason(&answer) {
                    Some(reason) => {
                        self.note(&format!("ADD refused: {reason}"));
                        self.to_drain
                            .fetch_or(reason == misfortune::DAMAGED, Ordering::Relaxed);
                    }
                    None => self.fail(format!("ADD: {answer}")),
                }
                Place::Doubtful(container)
            }
        }
    }

    fn granted(&self, container: &Container<'_>, result: &Value) {
        let address = address(result);
        if !self.node.vm().nic.pool.contains(&address) {
            self.fail(format!("{address} is none of the pool"));
        }
        if let Err(other) = self.ledger.grant(address, &container.id) {
            self.fail(format!(
                "{address} was given to {} while {other} has it",
                container.id
            ));
        }
    }

    fn del(&self, container: Container<'a>, rng: &mut Rng) -> Place<'a> {
        // From here on the address may be given to another.
        self.ledger.give_back(&container.id);
        if rng.u8(..6) == 0 {
            let limit = Duration::from_micros(rng.u64(..LATEST_KILL_MICROSECONDS));
            self.note(if container.call_or_kill("DEL", limit) {
                "DEL killed"
            } else {
                "DEL"
            });
            return Place::Doubtful(container);
        }
        match container.del().silent() {
            Ok(()) => {
                self.note("DEL");
                Place::Empty
            }
            Err(answer) => {
                self.fail(format!("DEL: {answer}"));
                Place::Doubtful(container)
            }
        }
    }

    fn works(&self, container: &Container<'_>) {
        let to = SocketAddrV4::new(INTERNET[0], REPORT_PORT);
        match ask(Type::STREAM, container.namespace(), None, to) {
            Ok(seen) if seen == self.node.vm().nic.primary => self.note("pod works"),
            outcome => self.fail(format!(
                "{} reaches the internet: {outcome:?}",
                container.id
            )),
        }
    }

    /// GC: what the runtime does not know to be live goes.
    fn collect(&self) {
        let _gate = self.gate.write().unwrap();
        let mut valid = Vec::new();
        for place in &self.places {
            let mut place = place.lock().unwrap();
            match &*place {
                Place::Live(container) => {
                    valid.push(json!({ "containerID": container.id, "ifname": container.ifname }));
                }
                // The runtime has forgotten it.
                Place::Doubtful(_) => *place = Place::Empty,
                Place::Empty => {}
            }
        }
        match self
            .node
            .call("GC", &json!({ "cni.dev/valid-attachments": valid }))
            .silent()
        {
            Ok(()) => self.note("GC"),
            Err(answer) => match misfortune::reason(&answer) {
                Some(reason) => self.note(&format!("GC failed: {reason}")),
                None => self.fail(format!("GC: {answer}")),
            },
        }
    }

    /// What the plugin's message says where nobody knows any more which addresses are in use.
    fn drain(&self) {
        let _gate = self.gate.write().unwrap();
        for place in &self.places {
            if let Place::Live(container) | Place::Doubtful(container) =
                std::mem::take(&mut *place.lock().unwrap())
            {
                self.ledger.give_back(&container.id);
                if let Err(answer) = container.del().silent() {
                    self.fail(format!("DEL: {answer}"));
                }
            }
        }
        misfortune::remove_records(self.node.vm());
        self.note("drained");
    }

    /// All pods end at once, and the next ADD finds another boot.
    fn reboot(&self, rng: &mut Rng) {
        let _gate = self.gate.write().unwrap();
        self.addresses_in_pods_are_those_of_the_ledger();
        for place in &self.places {
            *place.lock().unwrap() = Place::Empty;
        }
        self.ledger.clear();
        self.note(misfortune::reboot(self.node, rng));
    }

    /// The kernel's word: every live pod has the address that the ledger has for it.
    fn addresses_in_pods_are_those_of_the_ledger(&self) {
        for place in &self.places {
            let place = place.lock().unwrap();
            if let Place::Live(container) = &*place {
                let seen = misfortune::address_in(container);
                let known = self.ledger.address_of(&container.id);
                if seen != known {
                    self.fail(format!(
                        "{} has {seen:?}, the ledger says {known:?}",
                        container.id
                    ));
                }
            }
        }
    }

    fn note(&self, what: &str) {
        *self
            .tally
            .lock()
            .unwrap()
            .entry(what.to_owned())
            .or_default() += 1;
    }

    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }

    fn report(&self, seconds: u64) -> String {
        let tally = self.tally.lock().unwrap();
        let lines = tally
            .iter()
            .map(|(what, times)| format!("{times:>7}  {what}\n"));
        format!(
            "{seconds} s, {} allocations of {POOL} addresses, at most {} live at once\n{}",
            self.ledger.allocations(),
            self.ledger.most(),
            lines.collect::<String>()
        )
    }
}
