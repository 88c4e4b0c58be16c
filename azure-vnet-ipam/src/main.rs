//! `azure-vnet-ipam`: the CNI IPAM plugin that hands out the secondary addresses of this VM's NICs.
//!
//! The walk of an ADD: `add` → `config` → `store` → `source` (only when the snapshot is old) → `pool` → `store`.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use azure_vnet_cni::{CniError, Outcome, Request};

mod add;
mod config;
mod del;
mod error;
mod pool;
mod source;
mod store;

const NAME: &str = env!("CARGO_PKG_NAME");

fn main() -> ExitCode {
    azure_vnet_cni::main(NAME, env!("CARGO_PKG_VERSION"), |request| match request {
        Request::Add(request) => add::add(&request)
            .map(Outcome::Added)
            .map_err(CniError::from),
        Request::Del(request) => del::del(&request)
            .map(|()| Outcome::Done)
            .map_err(CniError::from),
    })
}

/// Something the operator should know though the call goes on: one line on standard error.
fn warn(message: impl Display) {
    let line = message.to_string().replace('\n', " ");
    // With standard error gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "{NAME}: {line}");
}
