//! `azure-vnet-ipam`: see the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    azure_vnet_cni::main(
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        azure_vnet_ipam::serve,
    )
}
