//! Which cases are run: all of them, or a fixed choice, in which each tier has others.

use crate::call::How;
use crate::cases::{Case, Scenario};
use crate::fixture::Tier;

/// `all` runs every case, whatever time it takes; `100-120` those of these steps.
pub const ALL_VARIABLE: &str = "AZURE_VNET_FAULTS";

/// Where the journal of the move of the node's network is.
const JOURNAL: &str = "/run/azure-vnet/node-";
const STATE: &str = "/run/azure-vnet/";

impl Scenario {
    /// How many cases are run at the most, by tier, where each takes its time. The move of the node's network is the same in every tier,
    /// and netfilter has no programs to verify, so that its take less.
    fn limit(self, tier: Tier) -> Option<usize> {
        let limits = match self {
            Self::Add | Self::Del => return None,
            Self::FirstAdd => [35, 35, 140],
            Self::Teardown => [6, 6, 30],
            Self::Upgrade => [4, 4, 20],
        };
        Some(limits[tier as usize])
    }
}

/// Each step is failed; each is killed with one call after it, another in each tier; and where the scenario has a limit, as many of
/// those that change something: first of all each step of the move of the node's network is killed, and the rest are taken evenly.
pub fn of(scenario: Scenario, tier: Tier, mut cases: Vec<Case>) -> Vec<Case> {
    match std::env::var(ALL_VARIABLE).as_deref() {
        Ok("all") => return cases,
        Ok(range) => {
            if let Some((Ok(first), Ok(last))) =
                range.split_once('-').map(|(a, b)| (a.parse(), b.parse()))
            {
                cases.retain(|case| (first..=last).contains(&case.number));
                return cases;
            }
        }
        Err(_) => {}
    }
    let followers = scenario.followers();
    let turn = |number: usize| followers[(number + tier as usize) % followers.len()];
    cases.retain(|case| {
        !followers.contains(&case.then) || case.of_child() || case.then == turn(case.number)
    });
    let Some(limit) = scenario.limit(tier) else {
        return cases;
    };
    cases.retain(|case| case.traced.seen.changes);
    let (of_move, others): (Vec<_>, Vec<_>) =
        (0..cases.len()).partition(|at| is_of_move(&cases[*at], &cases));
    let mut kept = evenly(of_move, limit, tier);
    kept.extend(evenly(others, limit - kept.len(), tier));
    let mut at = 0..;
    cases.retain(|_| at.next().is_some_and(|at| kept.contains(&at)));
    cases
}

/// At most so many, from all parts, and others in each tier.
fn evenly(cases: Vec<usize>, room: usize, tier: Tier) -> Vec<usize> {
    if cases.len() <= room {
        return cases;
    }
    let stride = cases.len().div_ceil(room.max(1));
    let numbered = cases.into_iter().zip(tier as usize + 1..);
    let chosen = numbered.filter_map(|(case, at)| at.is_multiple_of(stride).then_some(case));
    chosen.take(room).collect()
}

/// A kill at a netlink request or at a file of the state, from the first word of the journal to the last.
fn is_of_move(case: &Case, all: &[Case]) -> bool {
    let is_journal = |case: &&Case| case.traced.step.what.contains(JOURNAL);
    let number = |case: Option<&Case>| case.map_or(0, |case| case.number);
    let first = number(all.iter().find(is_journal));
    let last = number(all.iter().rev().find(is_journal));
    let Case { traced, how, .. } = case;
    let is_request_or_file = traced.seen.message.is_some() || traced.step.what.contains(STATE);
    *how == How::Killed && is_request_or_file && (first..=last).contains(&case.number)
}
