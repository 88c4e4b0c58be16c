//! The cases of a scenario: which steps there are, what is done to each, and what has to be true afterwards.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::aftermath::{add, del, first_add, teardown, upgrade};
use crate::bench::Bench;
use crate::call::{How, TEARDOWN, Traced, trace};
use crate::choice::{self, ALL_VARIABLE};
use crate::fixture::{Node, Tier};
use crate::original::Original;
use crate::table::{self, Row, Verdict};

/// VMs at work at the same time, for each scenario.
const WORKERS: usize = 3;

/// The call that is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// The ADD of a pod on a node that has others.
    Add,
    /// Its DEL.
    Del,
    /// The first ADD of a node, which moves its network to a bridge.
    FirstAdd,
    /// The way back: `azure-vnet teardown` of a node whose last pod is gone.
    Teardown,
    /// The first ADD of a node that the original plugin has set up, and whose pods live.
    Upgrade,
}

impl Scenario {
    fn verb(self) -> &'static str {
        match self {
            Self::Add | Self::FirstAdd | Self::Upgrade => "ADD",
            Self::Del => "DEL",
            Self::Teardown => TEARDOWN,
        }
    }

    /// The calls that may follow one that was killed.
    pub fn followers(self) -> &'static [&'static str] {
        match self {
            Self::Add => &["DEL", "ADD", "GC"],
            Self::Del => &["DEL", "GC"],
            Self::FirstAdd => &["ADD", "DEL", "GC"],
            Self::Teardown => &[TEARDOWN, "ADD", "DEL"],
            // The DEL is that of a pod of the original.
            Self::Upgrade => &["ADD", "DEL"],
        }
    }
}

/// One call that is disturbed.
pub struct Case {
    /// Number of the step, from 1.
    pub number: usize,
    /// The step.
    pub traced: Traced,
    /// What is done to it.
    pub how: How,
    /// The call that follows one that was killed.
    pub then: &'static str,
}

impl Case {
    /// A step of a program that the plugin runs.
    pub fn of_child(&self) -> bool {
        self.traced.step.program != "azure-vnet"
    }
}

/// Runs all cases of a scenario, prints the table, and fails if any case does.
pub fn run(scenario: Scenario, tier: Tier) {
    let start = Instant::now();
    let steps = steps(scenario, tier);
    let all = cases(scenario, &steps);
    let count = all.len();
    let chosen = choice::of(scenario, tier, all);
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(scenario, tier, &chosen, &next, &rows));
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|row: &Row| (row.number, row.how, row.then));
    let title = format!(
        "{scenario:?}, {tier:?}: {} steps, {} of {count} cases ({ALL_VARIABLE}=all runs all), {:.1} s",
        steps.len(),
        rows.len(),
        start.elapsed().as_secs_f32()
    );
    println!("{}", table::text(&title, &rows));
    rows.retain(|row| row.verdict.is_err());
    assert!(
        rows.is_empty(),
        "{}",
        table::text(&format!("{} cases failed; {title}", rows.len()), &rows)
    );
}

fn steps(scenario: Scenario, tier: Tier) -> Vec<Traced> {
    let node = Node::new(tier);
    // In the order of the cases, as a container's number is in the names of files.
    let _bench = matches!(scenario, Scenario::Add | Scenario::Del).then(|| Bench::new(&node));
    let _original = (scenario == Scenario::Upgrade).then(|| Original::new(&node));
    let container = node.container();
    if matches!(scenario, Scenario::Del | Scenario::Teardown) {
        container.add();
    }
    if scenario == Scenario::Teardown {
        container.del().ok();
    }
    trace(&container, scenario.verb())
}

fn cases(scenario: Scenario, steps: &[Traced]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, traced) in steps.iter().enumerate() {
        let mut case = |how, then| {
            cases.push(Case {
                number: at + 1,
                traced: traced.clone(),
                how,
                then,
            });
        };
        let of_plugin = traced.step.program == "azure-vnet";
        case(How::Fails, "");
        if traced.seen.message.is_some() {
            case(How::Refused, "");
        }
        if !traced.seen.changes {
            continue;
        }
        if of_plugin {
            for then in scenario.followers() {
                case(How::Killed, then);
            }
        } else {
            case(How::Killed, "");
            let beside = if scenario == Scenario::Teardown {
                TEARDOWN
            } else {
                "DEL"
            };
            case(How::Orphaned, beside);
        }
    }
    cases
}

/// Takes cases and runs them on a VM of its own, which serves until something went wrong on it.
fn work(
    scenario: Scenario,
    tier: Tier,
    cases: &[Case],
    next: &AtomicUsize,
    rows: &Mutex<Vec<Row>>,
) {
    let take = || cases.get(next.fetch_add(1, Ordering::Relaxed));
    let record = |case: &Case, verdict| {
        let Case {
            number,
            traced,
            how,
            then,
        } = case;
        let row = Row {
            number: *number,
            traced: traced.clone(),
            how: *how,
            then,
            verdict,
        };
        rows.lock().unwrap().push(row);
    };
    // These need a VM that nothing was ever done to.
    let alone = match scenario {
        Scenario::FirstAdd => Some(first_add as fn(Tier, &Case) -> Verdict),
        Scenario::Upgrade => Some(upgrade as fn(Tier, &Case) -> Verdict),
        Scenario::Add | Scenario::Del | Scenario::Teardown => None,
    };
    if let Some(alone) = alone {
        while let Some(case) = take() {
            record(case, caught(|| alone(tier, case)));
        }
        return;
    }
    let mut case = take();
    while case.is_some() {
        let node = Node::new(tier);
        let mut place = Place::new(scenario, &node);
        while let Some(current) = case {
            let verdict = caught(|| place.run(current));
            let spoilt = verdict.is_err();
            record(current, verdict);
            case = take();
            if spoilt {
                break;
            }
        }
    }
}

/// A VM that one case after the other is run on.
enum Place<'a> {
    Add(Bench<'a>),
    Del(Bench<'a>),
    Teardown(&'a Node, Vec<String>),
}

impl<'a> Place<'a> {
    fn new(scenario: Scenario, node: &'a Node) -> Self {
        match scenario {
            Scenario::Teardown => {
                without_duplicate_detection(node);
                Self::Teardown(node, node.picture())
            }
            Scenario::Del => Self::Del(Bench::new(node)),
            _ => Self::Add(Bench::new(node)),
        }
    }

    fn run(&mut self, case: &Case) -> Verdict {
        match self {
            Self::Add(bench) => add(bench, case),
            Self::Del(bench) => del(bench, case),
            Self::Teardown(node, before) => teardown(node, before, case),
        }
    }
}

/// No case waits a second for each link-local address.
fn without_duplicate_detection(node: &Node) {
    for link in ["all", "default", "eth0"] {
        node.sh(&format!("sysctl -w net.ipv6.conf.{link}.accept_dad=0"));
    }
}

fn caught(case: impl FnOnce() -> Verdict) -> Verdict {
    catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}
