//! Where the node's addresses come from.

pub mod listing;
pub mod wireserver;

use std::time::Duration;

use crate::pool::Subnet;

pub use wireserver::Error;

/// A source of addresses.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// Azure's host agent.
    Wireserver {
        /// URL without path, `http` only.
        base: String,
    },
}

/// What a source knows of this VM.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Without primary and reserved addresses.
    pub subnets: Vec<Subnet>,
    /// What was left out though it should not have been there.
    pub warnings: Vec<String>,
}

impl Source {
    /// Asks, and waits for at most `limit`. Never call this while holding the store's lock.
    pub fn fetch(&self, limit: Duration) -> Result<Found, Error> {
        match self {
            Source::Wireserver { base } => wireserver::fetch(base, limit),
        }
    }
}
