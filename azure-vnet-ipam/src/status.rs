//! STATUS: could an ADD get an address?

use std::time::Duration;

use azure_vnet_cni::{CniError, Status};

use crate::{
    config::Config,
    error::Error,
    master, node, refresh,
    store::{self, State, Store},
    warn,
};

/// For an answer of the source: runtimes ask every few seconds, and the host agent answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds if an ADD could; an error says why not and what to do. Nothing is changed and no lock is taken,
/// and the source is asked only where an ADD would ask and wait. Pods whose addresses the VM has lost are named on
/// standard error: they are no reason to keep new ones away.
pub fn status(request: &Status) -> Result<(), CniError> {
    let config = Config::read(&request.conf)?;
    ready(config).map_err(|error| {
        let error = CniError::from(error);
        CniError::not_available(error.msg).with_details(error.details)
    })
}

fn ready(mut config: Config) -> Result<(), Error> {
    config.wanted.observed = node::observed();
    config.wanted.master = master::of(&config)?;
    let store = Store::new(&config.state_dir);
    store.is_writable()?;
    let mut state = store.read()?;
    let has_snapshot = state.has_snapshot();
    if !has_snapshot {
        ask(&config, &mut state)?;
    }
    state
        .pool
        .lost()
        .map(refresh::notice_of_loss)
        .for_each(warn);
    let outcome = match state.pool.choose(&config.wanted) {
        // Somebody may have added addresses to the NIC since.
        Err(error) if error.may_pass() && has_snapshot && is_old(&config, &state) => {
            if let Err(cause) = ask(&config, &mut state) {
                warn(CniError::from(cause).msg);
            }
            state.pool.choose(&config.wanted)
        }
        outcome => outcome,
    };
    if outcome.is_ok() {
        return Ok(());
    }
    config.wanted.observed.gone = store.gone();
    state
        .pool
        .reclaim(&config.wanted.observed, &store.of_original());
    state.pool.choose(&config.wanted)?;
    Ok(())
}

/// Many calls may find a full pool full within the time for which an answer is good.
fn is_old(config: &Config, state: &State) -> bool {
    state.is_due(store::now(), config.query_interval)
}

/// Into this copy of the state alone: recording is for ADD.
fn ask(config: &Config, state: &mut State) -> Result<(), Error> {
    let found = config.source.fetch(PATIENCE)?;
    state.learn(found.subnets, store::now());
    Ok(())
}
