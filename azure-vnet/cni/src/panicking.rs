//! A defect of the plugin must reach the runtime as an error object, not as silence.
//!
//! With `panic = "unwind"` the panic is caught and reported like any error, after the undo guards have run.
//! With `panic = "abort"` nothing can be caught, so the hook itself reports and ends the process.

use std::{
    io::{self, Write},
    panic, process,
    sync::{Mutex, OnceLock, PoisonError},
};

use crate::{
    error::{CniError, code},
    version::Version,
};

static VERSION: OnceLock<Version> = OnceLock::new();
static MESSAGE: Mutex<String> = Mutex::new(String::new());

/// Installs the hook.
pub(crate) fn report_to_runtime() {
    panic::set_hook(Box::new(|info| {
        let message = info.to_string();
        let _ = writeln!(io::stderr(), "{message}");
        *MESSAGE.lock().unwrap_or_else(PoisonError::into_inner) = message;
        if cfg!(panic = "abort") {
            let version = VERSION.get().copied().unwrap_or(Version::NEWEST);
            let _ = writeln!(io::stdout(), "{}", error().to_json(version));
            process::exit(1);
        }
    }));
}

/// The version in which a later panic is reported.
pub(crate) fn reply_in(version: Version) {
    // A process serves one request; only tests come here twice.
    let _ = VERSION.set(version);
}

/// The error for the panic that was just caught.
pub(crate) fn error() -> CniError {
    let message = MESSAGE.lock().unwrap_or_else(PoisonError::into_inner);
    CniError::new(
        code::INTERNAL,
        "the plugin panicked; this is a defect, please report it",
    )
    .with_details(message.clone())
}
