//! `azure-vnet`: a CNI plugin where a runtime calls it, a command line where a person does. Under the name `azure-vnet-ipam` it is
//! that plugin.

use std::path::Path;
use std::process::ExitCode;

use azure_vnet::error::Error;
use azure_vnet::{LOG, add, check, cli, del, gc, status};
use azure_vnet_cni::{CniError, Outcome, Request, log};
use dlmalloc::GlobalDlmalloc;

/// A call is over before memory is worth giving back (docs/decisions/0023-musl.md).
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> ExitCode {
    if is_called(azure_vnet_ipam::LIBRARY.name) {
        return azure_vnet_ipam::main();
    }
    if std::env::var_os("CNI_COMMAND").is_none() && std::env::args_os().len() > 1 {
        return cli::main();
    }
    log::start(Some(LOG));
    azure_vnet_cni::main("azure-vnet", env!("CARGO_PKG_VERSION"), |request| {
        log::served(request, |request| serve(&request).map_err(CniError::from))
    })
}

fn is_called(name: &str) -> bool {
    let path = std::env::args_os().next();
    path.is_some_and(|path| Path::new(&path).file_name().is_some_and(|it| it == name))
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
