//! The CNI IPAM plugin that hands out the secondary addresses of this VM's NICs.
//!
//! The walk of an ADD: [`serve`] → `add` → [`config`] → `store` → [`source`] (only when the snapshot is old) →
//! `pool` → `store`. What is public beside [`serve`] reads input from outside, and is so for the fuzz targets.

use std::{
    fmt::Display,
    io::{self, Write},
};

use azure_vnet_cni::{CniError, Outcome, Request};

mod add;
mod check;
pub mod config;
mod del;
mod error;
mod gc;
mod mac;
mod master;
mod node;
mod pool;
pub mod source;
mod static_address;
mod status;
mod store;

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

/// Something the operator should know though the call goes on: one line on standard error.
fn warn(message: impl Display) {
    let line = message.to_string().replace('\n', " ");
    // With standard error gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "{}: {line}", env!("CARGO_PKG_NAME"));
}
