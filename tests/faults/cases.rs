//! The cases of a scenario: which steps there are, what is done to each, and what has to be true afterwards.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::aftermath::{add, del, first_add};
use crate::bench::Bench;
use crate::call::{How, Traced, trace};
use crate::fixture::{Node, Tier};
use crate::table::{self, Row, Verdict};

/// VMs at work at the same time, for each scenario.
const WORKERS: usize = 3;

/// How many first ADDs are disturbed: the move of the node's network is the same in every tier, and netfilter has no programs to
/// verify, so that its take less time.
const FIRST_ADDS: [usize; 3] = [35, 35, 140];

/// `all` runs every case, whatever time it takes.
const ALL_VARIABLE: &str = "AZURE_VNET_FAULTS";

/// The call that is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// The ADD of a pod on a node that has others.
    Add,
    /// Its DEL.
    Del,
    /// The first ADD of a node, which moves its network to a bridge.
    FirstAdd,
}

impl Scenario {
    fn verb(self) -> &'static str {
        match self {
            Self::Add | Self::FirstAdd => "ADD",
            Self::Del => "DEL",
        }
    }

    /// The calls that may follow one that was killed.
    fn followers(self) -> &'static [&'static str] {
        match self {
            Self::Add => &["DEL", "ADD", "GC"],
            Self::Del => &["DEL", "GC"],
            Self::FirstAdd => &["ADD", "DEL", "GC"],
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
    fn of_child(&self) -> bool {
        self.traced.step.program != "azure-vnet"
    }
}

/// Runs all cases of a scenario, prints the table, and fails if any case does.
pub fn run(scenario: Scenario, tier: Tier) {
    let start = Instant::now();
    let steps = steps(scenario, tier);
    let all = cases(scenario, &steps);
    let count = all.len();
    let chosen = chosen(scenario, tier, all);
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
    if scenario == Scenario::FirstAdd {
        return trace(&node.container(), "ADD");
    }
    let _bench = Bench::new(&node);
    let container = node.container();
    if scenario == Scenario::Del {
        container.add();
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
            case(How::Orphaned, "DEL");
        }
    }
    cases
}

/// All of them, or a fixed choice: each step is failed; each is killed with one call after it, another in each tier; and of a first
/// ADD, for which a VM is booted, as many as [`FIRST_ADDS`] of those that change something: each request of the move of the node's
/// network is killed, and the rest are taken evenly, others in each tier.
fn chosen(scenario: Scenario, tier: Tier, mut cases: Vec<Case>) -> Vec<Case> {
    if std::env::var_os(ALL_VARIABLE).is_some_and(|value| value == "all") {
        return cases;
    }
    let followers = scenario.followers();
    let turn = |number: usize| followers[(number + tier as usize) % followers.len()];
    cases.retain(|case| {
        !followers.contains(&case.then) || case.of_child() || case.then == turn(case.number)
    });
    if scenario == Scenario::FirstAdd {
        cases.retain(|case| case.traced.seen.changes);
        let of_move = |case: &Case| case.how == How::Killed && is_of_move(case, &cases);
        let (mut kept, others): (Vec<_>, Vec<_>) =
            (0..cases.len()).partition(|at| of_move(&cases[*at]));
        let room = FIRST_ADDS[tier as usize].saturating_sub(kept.len());
        let stride = others.len().div_ceil(room.max(1));
        let others = others.into_iter().zip(tier as usize + 1..);
        kept.extend(others.filter_map(|(case, at)| at.is_multiple_of(stride).then_some(case)));
        let mut at = 0..;
        cases.retain(|_| at.next().is_some_and(|at| kept.contains(&at)));
    }
    cases
}

/// A netlink request of the move of the node's network, which ends when the NIC has no address any more.
fn is_of_move(case: &Case, all: &[Case]) -> bool {
    let is_end = |case: &&Case| case.traced.step.what == "RTM_DELADDR";
    let end = all.iter().rev().find(is_end).map_or(0, |case| case.number);
    case.traced.seen.message.is_some() && case.number <= end
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
    if scenario == Scenario::FirstAdd {
        while let Some(case) = take() {
            record(case, caught(|| first_add(tier, case)));
        }
        return;
    }
    let mut case = take();
    while case.is_some() {
        let node = Node::new(tier);
        let mut bench = Bench::new(&node);
        while let Some(current) = case {
            let verdict = caught(|| match scenario {
                Scenario::Del => del(&mut bench, current),
                _ => add(&mut bench, current),
            });
            let spoilt = verdict.is_err();
            record(current, verdict);
            case = take();
            if spoilt {
                break;
            }
        }
    }
}

fn caught(case: impl FnOnce() -> Verdict) -> Verdict {
    catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}
