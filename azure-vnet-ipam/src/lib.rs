//! The CNI IPAM plugin that hands out the secondary addresses of this VM's NICs.
//!
//! The walk of an ADD: [`serve`] → `add` → [`config`] → `store` → `pool` → `store`; [`source`] only where the pool has
//! nothing to give, and otherwise behind the call (`refresh`). What is public beside [`serve`] reads input from outside, and is so for the fuzz targets.

use std::fmt::Display;
use std::process::ExitCode;

use azure_vnet_cni::{CniError, Outcome, Request, delegate::Library, log};

mod add;
mod check;
pub mod config;
mod del;
mod detach;
mod error;
mod gc;
mod mac;
mod master;
mod neighbours;
mod node;
mod pool;
mod refresh;
mod salvage;
pub mod source;
mod static_address;
mod status;
mod store;

pub use pool::{LeaseReport, Report, SubnetReport};

/// This plugin, for the network plugin that has it in itself: both are one file.
pub const LIBRARY: Library = Library {
    name: env!("CARGO_PKG_NAME"),
    log: "azure-vnet-ipam.log",
    serve,
    afterwards: refresh::afterwards,
};

/// This plugin as a program: what its file does where it is called by this name.
pub fn main() -> ExitCode {
    log::start(Some(LIBRARY.log));
    let (name, version) = (LIBRARY.name, env!("CARGO_PKG_VERSION"));
    azure_vnet_cni::main(name, version, |request| {
        let outcome = log::served(request, serve);
        refresh::afterwards();
        outcome
    })
}

/// The addresses of this node and who has them, as recorded in `state_dir`; `None` if no address was ever
/// asked for here. Nothing is changed, and no source is asked.
///
/// # Errors
/// The record cannot be read.
pub fn report(state_dir: &std::path::Path) -> Result<Option<Report>, String> {
    let store = store::Store::new(state_dir);
    if !store.is_begun() {
        return Ok(None);
    }
    let mut state = store.read().map_err(|error| chain(&error))?;
    let wanted = pool::Wanted {
        is_routed: true,
        observed: pool::Observed {
            gone: store.gone(),
            ..node::observed()
        },
        ..pool::Wanted::default()
    };
    // As the next ADD would where nothing else is left.
    state.pool.reclaim(&wanted.observed, &store.of_original());
    Ok(Some(state.pool.report(&wanted, state.fetched_at / 1000)))
}

/// Every address for pods, free or in use, of the NICs whose MACs are here, as recorded in `state_dir` since boot; none
/// before the first one was asked for.
///
/// # Errors
/// The record cannot be read.
pub fn pool(
    state_dir: &std::path::Path,
) -> Result<std::collections::BTreeSet<std::net::Ipv4Addr>, String> {
    let store = store::Store::new(state_dir);
    let state = store.read().map_err(|error| chain(&error))?;
    // Where they cannot be read, each NIC may be here.
    let links = node::links().ok();
    let is_here = |mac| links.as_ref().is_none_or(|links| links.contains(&mac));
    Ok(state.pool.addresses_of(is_here).collect())
}

/// One call of the plugin.
///
/// # Errors
/// What failed, on what, and what to do; codes from 110 on are this plugin's own.
pub fn serve(request: Request) -> Result<Outcome, CniError> {
    match request {
        Request::Add(request) => Ok(Outcome::Added(add::add(&request)?)),
        Request::Del(request) => Ok(done(del::del(&request)?)),
        Request::Check(request) => Ok(done(check::check(&request)?)),
        Request::Gc(request) => Ok(done(gc::gc(&request)?)),
        Request::Status(request) => Ok(done(status::status(&request)?)),
    }
}

fn done((): ()) -> Outcome {
    Outcome::Done
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Something the operator should know though the call goes on: in the log, and on standard error.
fn warn(message: impl Display) {
    let line = message.to_string().replace('\n', " ");
    tracing::warn!("{line}");
}
