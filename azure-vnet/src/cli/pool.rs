//! The addresses for pods, as the IPAM plugin has recorded them.

use std::path::Path;

use azure_vnet_ipam::{Report, SubnetReport};

use crate::state;

/// No address is free for the next pod, and why not.
#[derive(Clone, Copy)]
pub struct Exhausted {
    /// How many are of pods that are gone: `azure-vnet gc` gives them back.
    pub gone: usize,
    /// How many no pod can have, for reasons of their own.
    pub unusable: usize,
}

/// The record of the default place; `None` where no address was ever asked for.
pub fn read() -> Result<Option<Report>, String> {
    azure_vnet_ipam::report(Path::new(state::DIRECTORY))
}

/// Whether no address is free; none where one is, or none was ever asked for.
pub fn exhausted(pool: &Report) -> Option<Exhausted> {
    let sum = |count: fn(&SubnetReport) -> usize| pool.subnets.iter().map(count).sum::<usize>();
    (!pool.subnets.is_empty() && sum(|subnet| subnet.free) == 0).then(|| Exhausted {
        gone: pool.leases.iter().filter(|lease| lease.gone).count(),
        unusable: sum(|subnet| subnet.unusable),
    })
}
