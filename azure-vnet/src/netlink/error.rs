//! What can go wrong with a netlink request.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{ErrorMessage, NlasIterator};
use rustix::io::Errno;

use super::Label;

/// A netlink request that did not succeed. The errno is kept as the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The socket could not be opened: no permission, or out of file descriptors.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused the request.
    #[error("cannot {operation} {subject}{}", in_words(detail.as_deref()))]
    Refused {
        /// What was asked, as a verb.
        operation: &'static str,
        /// The link, address or route it was asked for.
        subject: String,
        /// The kernel's own words, where it has some (extended acknowledgement).
        detail: Option<String>,
        /// The errno.
        #[source]
        cause: io::Error,
    },
    /// The kernel did not answer in time: something holds the RTNL lock.
    #[error("cannot {operation} {subject}: no answer from the kernel within {limit:?}")]
    TimedOut {
        /// What was asked, as a verb.
        operation: &'static str,
        /// The link, address or route it was asked for.
        subject: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection ended before the answer came.
    #[error("cannot {operation} {subject}: the netlink connection was closed")]
    Closed {
        /// What was asked, as a verb.
        operation: &'static str,
        /// The link, address or route it was asked for.
        subject: String,
    },
    /// The table changed during every try to read it.
    #[error("cannot {operation} {subject}: the table kept changing while it was read; try again")]
    Interrupted {
        /// What was asked, as a verb.
        operation: &'static str,
        /// The table that was asked for.
        subject: String,
    },
}

impl NetlinkError {
    /// The errno of a refusal.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { cause, .. } | Self::Open(cause) => Errno::from_io_error(cause),
            _ => None,
        }
    }

    /// True when the kernel refused because the thing is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// True when the kernel refused because the thing is not there: nothing is left to delete.
    pub fn is_gone(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NODEV | Errno::NOENT | Errno::SRCH | Errno::NXIO | Errno::ADDRNOTAVAIL)
        )
    }

    pub(super) fn refused(label: &Label, refusal: &ErrorMessage) -> Self {
        Self::Refused {
            operation: label.operation,
            subject: label.subject.clone(),
            detail: kernel_words(refusal),
            cause: refusal.to_io(),
        }
    }

    pub(super) fn failed(label: &Label, cause: io::Error) -> Self {
        Self::Refused {
            operation: label.operation,
            subject: label.subject.clone(),
            detail: None,
            cause,
        }
    }

    pub(super) fn timed_out(label: &Label, limit: Duration) -> Self {
        Self::TimedOut {
            operation: label.operation,
            subject: label.subject.clone(),
            limit,
        }
    }

    pub(super) fn closed(label: &Label) -> Self {
        Self::Closed {
            operation: label.operation,
            subject: label.subject.clone(),
        }
    }

    pub(super) fn interrupted(label: &Label) -> Self {
        Self::Interrupted {
            operation: label.operation,
            subject: label.subject.clone(),
        }
    }
}

/// `Ok` also when there was nothing to delete.
pub fn gone_is_fine(outcome: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match outcome {
        Err(error) if error.is_gone() => Ok(()),
        other => other,
    }
}

fn in_words(detail: Option<&str>) -> String {
    detail
        .map(|words| format!(" ({words})"))
        .unwrap_or_default()
}

/// The text of an extended acknowledgement: it follows the header of our request.
fn kernel_words(refusal: &ErrorMessage) -> Option<String> {
    const REQUEST_HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let attributes = refusal.header.get(REQUEST_HEADER..)?;
    let text = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?
        .value()
        .to_vec();
    let text = String::from_utf8_lossy(&text);
    Some(text.trim_end_matches('\0').to_owned()).filter(|text| !text.is_empty())
}
