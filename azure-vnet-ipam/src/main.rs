//! `azure-vnet-ipam`: see the library beside this file.

use std::process::ExitCode;

use azure_vnet_cni::log;
use dlmalloc::GlobalDlmalloc;

/// A call is over before memory is worth giving back (docs/decisions/0023-musl.md).
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

const LOG: &str = "azure-vnet-ipam.log";

fn main() -> ExitCode {
    log::start(Some(LOG));
    azure_vnet_cni::main(
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        |request| log::served(request, azure_vnet_ipam::serve),
    )
}
