//! Where the node's addresses come from.

mod wireserver;

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
    /// Asks; takes at most a few seconds. Never call this while holding the store's lock.
    pub fn fetch(&self) -> Result<Found, Error> {
        match self {
            Source::Wireserver { base } => wireserver::fetch(base),
        }
    }
}
