//! The plugins' logs: one line for each call in a file of bounded size, warnings on standard error as well, where
//! the runtime shows them. Standard output is the protocol's.
//!
//! Nothing of a configuration is logged but the network's name.

mod call;
mod file;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tracing::Level;
use tracing::dispatcher::{DefaultGuard, Dispatch};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::foreign;
use crate::netconf::NetConf;

pub use call::served;

/// Names the level, or filters as in `RUST_LOG`; comes before the configuration's `logLevel`.
pub const VARIABLE: &str = "AZURE_VNET_LOG";

/// Whether this process has given its descriptors up.
static LEFT: AtomicBool = AtomicBool::new(false);

/// Writes nothing any more. For a process that is about to close every descriptor it has: what it opens then would get
/// the log's number.
pub fn leave() {
    LEFT.store(true, Ordering::Relaxed);
}

/// Names the directory of the logs.
pub const DIRECTORY_VARIABLE: &str = "AZURE_VNET_LOG_DIR";
const DIRECTORY: &str = "/var/log";

/// Where the level can be changed once the configuration is known.
static RELOAD: OnceLock<Reload> = OnceLock::new();

thread_local! {
    /// The same for a thread with a log of its own.
    static RELOAD_OF_THREAD: RefCell<Option<Reload>> = const { RefCell::new(None) };
}

type Reload = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// Sets the log up at level `info`, or as the environment says; without a file there are only the warnings on standard
/// error. A file that cannot be written costs the log, never the call.
pub fn start(name: Option<&str>) {
    let (logger, reload) = logger(name);
    // Fails where a test has set another one up.
    if tracing::dispatcher::set_global_default(logger).is_ok() {
        let _ = RELOAD.set(reload);
    }
}

/// The same for what this thread does until the guard is dropped.
pub(crate) fn of_thread(name: &str) -> DefaultGuard {
    let (logger, reload) = logger(Some(name));
    RELOAD_OF_THREAD.set(Some(reload));
    tracing::dispatcher::set_default(&logger)
}

fn logger(name: Option<&str>) -> (Dispatch, Reload) {
    let file = name.and_then(|name| file::open(&directory().join(name)).ok());
    let file = file.map(Arc::new);
    let builder = tracing_subscriber::fmt()
        .with_target(false)
        .with_ansi(false)
        .with_writer(Sinks { file })
        .with_env_filter(from_environment().unwrap_or_else(|| level("info")))
        .with_filter_reloading();
    let handle = builder.reload_handle();
    let reload = Box::new(move |filter| drop(handle.reload(filter)));
    (Dispatch::new(builder.finish()), reload)
}

/// Takes the level of the configuration's `logLevel`, unless the environment has said another. A level that there
/// is not is a warning: pods need their network more than their log.
pub fn configure(conf: &NetConf) {
    let Some(value) = conf.get("logLevel").filter(|value| !value.is_null()) else {
        return;
    };
    let known = value.as_str().map(str::to_ascii_lowercase);
    let known = known.filter(|name| LEVELS.contains(&name.as_str()));
    match (known, from_environment()) {
        (Some(name), None) => RELOAD_OF_THREAD.with_borrow(|own| {
            if let Some(reload) = own.as_ref().or(RELOAD.get()) {
                reload(level(&name));
            }
        }),
        (None, _) => {
            tracing::warn!(
                "logLevel is {value}, which is none of {}",
                LEVELS.join(", ")
            );
        }
        (Some(_), Some(_)) => {}
    }
}

fn directory() -> PathBuf {
    let named = std::env::var_os(DIRECTORY_VARIABLE).filter(|value| !value.is_empty());
    named.unwrap_or_else(|| DIRECTORY.into()).into()
}

const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

/// Only what is ours: the crates below have their own idea of what matters.
fn level(name: &str) -> EnvFilter {
    EnvFilter::new(format!("azure_vnet={name}"))
}

fn from_environment() -> Option<EnvFilter> {
    let text = std::env::var(VARIABLE)
        .ok()
        .filter(|text| !text.is_empty())?;
    let name = text.to_ascii_lowercase();
    if LEVELS.contains(&name.as_str()) {
        return Some(level(&name));
    }
    EnvFilter::try_new(text).ok()
}

struct Sinks {
    file: Option<Arc<File>>,
}

impl<'a> MakeWriter<'a> for Sinks {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        self.line(false)
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Line {
        // The runtime hears of a failed call by the reply.
        self.line(*meta.level() <= Level::WARN && meta.target() != call::TARGET)
    }
}

impl Sinks {
    fn line(&self, on_stderr: bool) -> Line {
        Line {
            file: self.file.clone(),
            on_stderr,
        }
    }
}

/// Where one line goes. It comes in one piece and is appended in one piece, whoever else writes; what others have named in it makes
/// no second line of it, and nothing that a terminal obeys.
struct Line {
    file: Option<Arc<File>>,
    on_stderr: bool,
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if LEFT.load(Ordering::Relaxed) {
            return Ok(text.len());
        }
        let length = text.len();
        let text = String::from_utf8_lossy(text);
        let text = foreign::line(text.trim_end_matches('\n')).into_owned() + "\n";
        let text = text.as_bytes();
        if let Some(mut file) = self.file.as_deref() {
            // A full disk must not keep the warning from standard error.
            let _ = file.write_all(text);
        }
        if self.on_stderr {
            io::stderr().write_all(text)?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
