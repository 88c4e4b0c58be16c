//! `azure-vnet`: a CNI plugin where a runtime calls it, a command line where a person does.

use std::process::ExitCode;
use std::time::Instant;

use azure_vnet::error::Error;
use azure_vnet::{add, check, cli, del, gc, log, status};
use azure_vnet_cni::{CniError, Outcome, Request};

fn main() -> ExitCode {
    log::start();
    if std::env::var_os("CNI_COMMAND").is_none() && std::env::args_os().len() > 1 {
        return cli::main();
    }
    azure_vnet_cni::main("azure-vnet", env!("CARGO_PKG_VERSION"), |request| {
        let start = Instant::now();
        let call = name(&request);
        let outcome = serve(&request);
        let took = start.elapsed();
        match &outcome {
            // Runtimes ask for it twice a second.
            Ok(_) if matches!(&request, Request::Status(_)) => {
                tracing::debug!("{call} took {took:.1?}");
            }
            Ok(_) => tracing::info!("{call} took {took:.1?}"),
            Err(error) => tracing::error!("{call} failed after {took:.1?}: {}", error.chain()),
        }
        outcome.map_err(CniError::from)
    })
}

/// What a call is called in the log.
fn name(request: &Request) -> String {
    match request {
        Request::Add(add) => format!("ADD {} {}", add.container_id, add.ifname),
        Request::Del(del) => format!("DEL {} {}", del.container_id, del.ifname),
        Request::Check(check) => format!("CHECK {} {}", check.container_id, check.ifname),
        Request::Gc(gc) => format!("GC {}", gc.conf.name()),
        Request::Status(status) => format!("STATUS {}", status.conf.name()),
    }
}

/// One thread does everything: calls are short, and many run at once as processes.
fn serve(request: &Request) -> Result<Outcome, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    match request {
        Request::Add(request) => runtime.block_on(add::add(request)).map(Outcome::Added),
        Request::Del(request) => runtime.block_on(del::del(request)).map(|()| Outcome::Done),
        Request::Check(request) => {
            let checked = runtime.block_on(check::check(request));
            checked.map(|()| Outcome::Done)
        }
        Request::Gc(request) => runtime.block_on(gc::gc(request)).map(|()| Outcome::Done),
        Request::Status(request) => {
            let ready = runtime.block_on(status::status(request));
            ready.map(|()| Outcome::Done)
        }
    }
}
