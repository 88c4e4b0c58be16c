//! The CNI protocol, shared by `azure-vnet` and `azure-vnet-ipam`: no netlink, no state.
//!
//! [`main`] is everything around a plugin's verbs; a plugin is a function from [`Request`] to [`Outcome`].
//! Specification: <https://github.com/containernetworking/cni/blob/main/SPEC.md>.

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;

mod args;
mod attachments;
pub mod delegate;
mod environment;
mod error;
mod failed_del;
pub mod foreign;
mod input;
pub mod json;
pub mod keys;
pub mod log;
mod netconf;
mod panicking;
pub mod pod_address;
pub mod reply;
mod request;
mod requested;
mod version;

pub use args::Args;
pub use attachments::ValidAttachment;
pub use environment::Environment;
pub use error::{CniError, code};
pub use netconf::NetConf;
pub use request::{Add, Check, Del, Gc, Request, Status};
pub use requested::Requested;
pub use version::{SUPPORTED, Version};

use environment::Call;
use input::Input;
use netconf::Rejected;
use reply::Success;
use request::Invocation;

/// How long a runtime may take to write a configuration and close the pipe.
const CONFIGURATION_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for input that is nice to have: kubelet asks for VERSION every 5 s, and some callers
/// never close the pipe.
const VERSION_LIMIT: Duration = Duration::from_millis(100);

/// What a plugin's verb ends in when it did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An ADD: the result is printed in the caller's version.
    Added(Success),
    /// Any other verb: nothing is printed.
    Done,
}

/// Runs one call of the plugin `name` from the process's environment and standard streams.
///
/// `plugin` is called only with a valid request. Its result, its error or its panic becomes the one document
/// on standard output that the specification asks for, and the exit code. An ADD whose result cannot be
/// delivered is taken back by DEL: the runtime does not know of it.
pub fn main(
    name: &str,
    plugin_version: &str,
    plugin: impl Fn(Request) -> Result<Outcome, CniError>,
) -> ExitCode {
    panicking::report_to_runtime();
    let environment = Environment::of_process();
    let Some(call) = Call::from_environment(&environment) else {
        about(name, plugin_version);
        return ExitCode::SUCCESS;
    };
    let (reply, added) = answer(call, io::stdin().as_fd(), &plugin);
    deliver(&reply, added, &mut io::stdout(), &plugin)
}

/// What goes to standard output, and whether the call succeeded.
#[derive(Debug, PartialEq)]
struct Reply {
    document: Option<Value>,
    success: bool,
}

impl Reply {
    fn error(error: &CniError, version: Version) -> Self {
        Reply {
            document: Some(error.to_json(version)),
            success: false,
        }
    }
}

/// Prints the reply; an ADD whose result nobody takes is taken back.
fn deliver(
    reply: &Reply,
    added: Option<Del>,
    stdout: &mut impl Write,
    plugin: &impl Fn(Request) -> Result<Outcome, CniError>,
) -> ExitCode {
    let code = finish(reply, stdout);
    if code != ExitCode::SUCCESS
        && let Some(del) = added
    {
        take_back(del, plugin);
    }
    code
}

/// The answer to a call and, where that was an ADD that succeeded, the DEL that takes it back.
fn answer(
    call: Result<Call, CniError>,
    stdin: BorrowedFd<'_>,
    plugin: &impl Fn(Request) -> Result<Outcome, CniError>,
) -> (Reply, Option<Del>) {
    let limit = match call {
        Ok(Call::Version) | Err(_) => VERSION_LIMIT,
        Ok(Call::Add(_) | Call::Del(_) | Call::Check(_) | Call::Gc(_) | Call::Status(_)) => {
            CONFIGURATION_LIMIT
        }
    };
    answer_to(call, Input::read(stdin, limit), plugin)
}

/// Likewise, with what was read.
fn answer_to(
    call: Result<Call, CniError>,
    input: Input,
    plugin: &impl Fn(Request) -> Result<Outcome, CniError>,
) -> (Reply, Option<Del>) {
    let is_del = matches!(call, Ok(Call::Del(_)));
    let mut added = None;
    let (version, document) = match Invocation::new(call, input) {
        Ok(Invocation::Version(requested)) => {
            let version = requested.unwrap_or(Version::NEWEST);
            (version, Ok(Some(reply::version_reply(version))))
        }
        Ok(Invocation::Plugin(request)) => {
            let version = request.version();
            let undo = request.undo();
            let served = serve(request, plugin);
            added = undo.filter(|_| served.is_ok());
            (version, served)
        }
        Err(Rejected { version, error }) => (version, Err(error)),
    };
    let reply = match document {
        Ok(document) => Reply {
            document,
            success: true,
        },
        Err(error) if is_del => Reply::error(&failed_del::insistent(error), version),
        Err(error) => Reply::error(&error, version),
    };
    (reply, added)
}

/// Runs the plugin's verb; gives what is to be printed, if anything.
fn serve(
    request: Request,
    plugin: &impl Fn(Request) -> Result<Outcome, CniError>,
) -> Result<Option<Value>, CniError> {
    let version = request.version();
    let undo = request.undo();
    panicking::reply_in(version);
    // Whatever the closure held is dropped by the unwinding, so nothing broken can be seen afterwards.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| plugin(request)))
        .unwrap_or_else(|_| Err(panicking::error()));
    match outcome? {
        Outcome::Done => Ok(None),
        Outcome::Added(success) => success.to_json(version).map(Some).map_err(|cause| {
            if let Some(del) = undo {
                take_back(del, plugin);
            }
            CniError::from_error(code::INTERNAL, &cause)
        }),
    }
}

/// Runs the DEL of an ADD that the runtime will never hear of.
fn take_back(del: Del, plugin: &impl Fn(Request) -> Result<Outcome, CniError>) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| plugin(Request::Del(del))))
        .unwrap_or_else(|_| Err(panicking::error()));
    if let Err(error) = outcome {
        let _ = writeln!(io::stderr(), "cannot take the ADD back: {}", error.msg);
    }
}

/// The only writer of standard output. `print!` would panic when the runtime has gone away.
fn finish(reply: &Reply, stdout: &mut impl Write) -> ExitCode {
    let written = match &reply.document {
        None => Ok(()),
        Some(document) => writeln!(stdout, "{document}").and_then(|()| stdout.flush()),
    };
    if let Err(cause) = &written {
        // Standard error may be gone too; then only the exit code is left.
        let _ = writeln!(io::stderr(), "cannot write the reply: {cause}");
    }
    if reply.success && written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// For a person who runs the binary by hand; the reference plugins say the same.
fn about(name: &str, plugin_version: &str) {
    let _ = writeln!(
        io::stderr(),
        "CNI {name} plugin {plugin_version}\nCNI protocol versions supported: {}",
        version::supported_list()
    );
}

#[cfg(test)]
mod tests;
