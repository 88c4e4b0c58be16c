//! Every recorded call of the whole program: the rows that hold for any call are judged by it.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::call::Reply;
use crate::row::VERSIONS;

/// What was observed of one call.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What came back.
    pub reply: Reply,
    /// The version in the configuration, if there was one that exists.
    pub version: Option<String>,
    /// Whether `CNI_NETNS` was empty or not set.
    pub netns_empty: bool,
}

/// The calls of one subject.
#[derive(Debug, Default)]
pub struct Journal(Mutex<Vec<Observed>>);

impl Observed {
    /// Reads the version from the configuration as it was sent.
    pub fn new(reply: &Reply, stdin: &[u8], netns_empty: bool) -> Self {
        let conf: Option<Value> = serde_json::from_slice(stdin).ok();
        let version = conf.and_then(|conf| conf["cniVersion"].as_str().map(str::to_owned));
        Self {
            reply: reply.clone(),
            version: version.filter(|version| VERSIONS.contains(&version.as_str())),
            netns_empty,
        }
    }
}

impl Journal {
    /// Adds a call.
    pub fn record(&self, observed: Observed) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(observed);
    }

    /// The calls with a configuration of this version; all calls when none is given.
    pub fn at(&self, version: Option<&str>) -> Vec<Observed> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter(|call| version.is_none() || call.version.as_deref() == version)
            .cloned()
            .collect()
    }
}
