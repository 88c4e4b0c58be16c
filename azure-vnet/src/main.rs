//! `azure-vnet`: a CNI plugin where a runtime calls it, a command line where a person does.

use std::process::ExitCode;
use std::time::Instant;

use azure_vnet::error::Error;
use azure_vnet::{add, cli, del, log};
use azure_vnet_cni::{CniError, Outcome, Request};

fn main() -> ExitCode {
    log::start();
    if std::env::var_os("CNI_COMMAND").is_none() && std::env::args_os().len() > 1 {
        return cli::main();
    }
    azure_vnet_cni::main("azure-vnet", env!("CARGO_PKG_VERSION"), |request| {
        let start = Instant::now();
        let (verb, container_id, ifname) = match &request {
            Request::Add(add) => ("ADD", &add.container_id, &add.ifname),
            Request::Del(del) => ("DEL", &del.container_id, &del.ifname),
        };
        let outcome = serve(&request);
        let took = start.elapsed();
        match &outcome {
            Ok(_) => tracing::info!("{verb} {container_id} {ifname} took {took:.1?}"),
            Err(error) => tracing::error!(
                "{verb} {container_id} {ifname} failed after {took:.1?}: {}",
                error.chain()
            ),
        }
        outcome.map_err(CniError::from)
    })
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
    }
}
