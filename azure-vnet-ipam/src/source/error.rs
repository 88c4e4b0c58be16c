//! Why the addresses of this VM are not known.

use std::{io, path::PathBuf, time::Duration};

use azure_vnet_files::ReadError;

use super::{file, http::MAX_BYTES};

/// Why a source did not say which addresses this VM has.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its meaning")]
pub enum Error {
    #[error(
        "no answer from {name} at {url} within {} s; is this an Azure VM, and may this process connect to it?",
        limit.as_secs()
    )]
    Request {
        name: &'static str,
        url: String,
        limit: Duration,
        #[source]
        cause: minreq::Error,
    },
    #[error("{name} at {url} answered with status {status}")]
    Status {
        name: &'static str,
        url: String,
        status: u16,
    },
    #[error("reading the answer of {name} at {url} failed")]
    Read {
        name: &'static str,
        url: String,
        #[source]
        cause: io::Error,
    },
    #[error("the answer of {name} at {url} is larger than {MAX_BYTES} bytes")]
    TooLarge { name: &'static str, url: String },
    #[error("the answer of {name} at {url} is not the expected {form}: {problem}")]
    Form {
        name: &'static str,
        url: String,
        form: &'static str,
        problem: String,
    },
    #[error(
        "cannot read the list of addresses, {}; put it there, or name another with ipam.file",
        path.display()
    )]
    File {
        path: PathBuf,
        #[source]
        cause: ReadError,
    },
    #[error("the list of addresses, {}, is not the expected JSON: {problem}", path.display())]
    FileForm {
        path: PathBuf,
        problem: file::NotAList,
    },
}

impl Error {
    /// Whether the same question may be answered in a moment: the service restarts, is busy, or is being updated.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Error::Request { .. } | Error::Read { .. } => true,
            // IMDS: 410 while it is updated, 429 when it was asked too often.
            Error::Status { status, .. } => matches!(status, 410 | 429 | 500..),
            Error::TooLarge { .. }
            | Error::Form { .. }
            | Error::File { .. }
            | Error::FileForm { .. } => false,
        }
    }
}
