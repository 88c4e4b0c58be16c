//! When and how the source is asked again.
//!
//! An ADD that can be served is served from the snapshot, however old. If the snapshot was due, the question is put
//! by a process that goes on when the call is over ([`later`]): a process that lives for milliseconds cannot wait
//! for a network, and a source that does not answer must cost nothing. One call of those that find it due does so.
//! An ADD that cannot be served asks and waits ([`now`]); of many such calls one asks, and all take its answer.
//! See docs/decisions/0009-a-snapshot-is-served-however-old.md.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    chain,
    config::Config,
    detach,
    error::Error,
    pool::Lease,
    source::{self, Found, Source},
    store::{self, State, Store},
    warn,
};

/// For an answer that a call waits for. The host agent is one hop away and answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// For an answer that nobody waits for.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(15);

/// What calls in the background want to be said is said by the next one that has somebody to say it to.
const MAX_NOTICES: usize = 20;

/// Asks, and records the answer. If there is none, an old snapshot is as good as it gets. `seen` is the number of
/// outcomes in the state that was not enough: another one since then is as good as one of our own.
///
/// # Errors
/// There is no answer and no snapshot, or the record cannot be had.
pub fn now(config: &Config, store: &Store, seen: u64) -> Result<(), Error> {
    let _turn = store.turn(PATIENCE)?;
    let state = store.lock()?.state;
    if state.outcomes != seen {
        return from_another(&state);
    }
    let asked_at = store::now();
    let answer = config.source.fetch(PATIENCE);
    let mut locked = store.lock()?;
    let (notices, outcome) = learn(&mut locked.state, answer, asked_at);
    locked.commit()?;
    notices.iter().for_each(warn);
    Ok(outcome?)
}

/// Another call has asked while this one waited for its turn.
fn from_another(state: &State) -> Result<(), Error> {
    if state.has_snapshot() {
        return Ok(());
    }
    let problem = state.problem.clone();
    Err(Error::NotAnswered { problem })
}

/// What is to be asked in the background when the call is over: then there is one thread again.
static LATER: Mutex<Option<(Source, Store)>> = Mutex::new(None);

/// Asks in the background, when the call is over.
pub fn later(source: &Source, store: &Store) {
    *LATER.lock().unwrap_or_else(PoisonError::into_inner) = Some((source.clone(), store.clone()));
}

/// Begins what [`later`] has put off, and returns at once.
pub fn afterwards() {
    let later = LATER.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((source, store)) = later else { return };
    if let Err(cause) = detach::run(|| in_background(&source, &store)) {
        warn(format_args!(
            "cannot look for new addresses in the background: {cause}"
        ));
    }
}

fn in_background(source: &Source, store: &Store) {
    let asked_at = store::now();
    let answer = source.fetch(BACKGROUND_PATIENCE);
    // Without the record there is nothing to be said either; the next call has the same problem, and a reader.
    let Ok(mut locked) = store.lock() else { return };
    let (notices, _) = learn(&mut locked.state, answer, asked_at);
    locked.state.notices.extend(notices);
    locked.state.notices.truncate(MAX_NOTICES);
    let _ = locked.commit();
}

/// Puts the answer into the state. Returns what should be said, and an error if there is neither an answer nor a
/// snapshot.
fn learn(
    state: &mut State,
    answer: Result<Found, source::Error>,
    asked_at: u64,
) -> (Vec<String>, Result<(), source::Error>) {
    state.outcomes += 1;
    match answer {
        Ok(found) => {
            let mut notices = found.warnings;
            // The same mistakes are in every answer.
            if state.pool.is_as(&found.subnets) {
                notices.clear();
            }
            let lost = state.learn(found.subnets, asked_at);
            notices.extend(lost.iter().map(notice_of_loss));
            (notices, Ok(()))
        }
        Err(cause) => {
            let problem = chain(&cause);
            let is_new = state.problem.is_empty();
            state.asked_at = asked_at.max(state.asked_at);
            state.problem.clone_from(&problem);
            if !state.has_snapshot() {
                return (vec![], Err(cause));
            }
            let age = asked_at.saturating_sub(state.fetched_at) / 1000;
            let notice = format!("{problem}; going on with what was known {age} s earlier");
            (Vec::from_iter(is_new.then_some(notice)), Ok(()))
        }
    }
}

/// What to say of an attachment whose address is not this VM's any more.
pub fn notice_of_loss(lease: &Lease) -> String {
    format!(
        "{} is not an ipconfig of this VM any more, but {} has it and reaches nothing beyond this node; delete it, \
         or add the ipconfig again",
        lease.address, lease.key
    )
}
