//! Every error of the plugin, and its CNI code.

use azure_vnet_cni::{CniError, code};
use azure_vnet_files::LockError;

use crate::{check, master, pool, source, store};

/// No address is free.
const EXHAUSTED: u32 = code::PLUGIN;
/// The requested address or subnet cannot be had.
const UNAVAILABLE: u32 = code::PLUGIN + 1;
/// The record of the addresses in use cannot be read or written.
const STATE: u32 = code::PLUGIN + 2;
/// CHECK: the reservation is not as ADD left it.
const DIFFERENCE: u32 = code::PLUGIN + 3;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] CniError),
    #[error(transparent)]
    Master(#[from] master::Error),
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error("another call has just asked where this VM's addresses are, in vain: {problem}")]
    NotAnswered { problem: String },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Pool(#[from] pool::Error),
    #[error(transparent)]
    Difference(#[from] check::Difference),
}

impl From<Error> for CniError {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Config(own) => return own.clone(),
            // The wireserver restarts with the host's agent; a lock is held for milliseconds.
            Error::Source(_)
            | Error::NotAnswered { .. }
            | Error::Store(store::Error::Lock(LockError::Busy { .. }) | store::Error::GivenUp) => {
                code::TRY_AGAIN
            }
            Error::Store(_) => STATE,
            Error::Pool(
                pool::Error::Empty | pool::Error::Exhausted { .. } | pool::Error::OutOfReach(_),
            ) => EXHAUSTED,
            Error::Master(_) => code::INVALID_CONFIG,
            Error::Pool(
                pool::Error::UnknownSubnet { .. }
                | pool::Error::UnknownAddress { .. }
                | pool::Error::UnknownNic { .. }
                | pool::Error::OnNode { .. }
                | pool::Error::OnUnknownPod { .. }
                | pool::Error::Taken { .. }
                | pool::Error::HoldsAnother { .. },
            ) => UNAVAILABLE,
            Error::Difference(_) => DIFFERENCE,
        };
        CniError::from_error(code, &error)
    }
}
