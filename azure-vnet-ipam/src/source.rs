//! Where the node's addresses come from.

mod error;
pub mod file;
mod http;
pub mod imds;
pub mod listing;
pub mod wireserver;

use std::{path::PathBuf, time::Duration};

use crate::pool::Subnet;

pub use error::Error;

/// A source of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Azure's host agent.
    Wireserver {
        /// URL without path, `http` only.
        base: String,
    },
    /// Azure's instance metadata service.
    Imds {
        /// URL without path, `http` only.
        base: String,
    },
    /// A list that the operator keeps, on Azure or anywhere else.
    File {
        /// Where it is.
        path: PathBuf,
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
            Source::Imds { base } => imds::fetch(base, limit),
            Source::File { path } => file::fetch(path),
        }
    }

    /// Whether an answer costs less than deferring the question would.
    pub fn is_local(&self) -> bool {
        match self {
            Source::Wireserver { .. } | Source::Imds { .. } => false,
            Source::File { .. } => true,
        }
    }
}
