//! The addresses for pods, as the IPAM plugin has recorded them.

use std::path::Path;

use azure_vnet_ipam::Report;

use crate::state;

/// The record of the default place; `None` where no address was ever asked for.
pub fn read() -> Result<Option<Report>, String> {
    azure_vnet_ipam::report(Path::new(state::DIRECTORY))
}
