//! The log: one line for each call in a file, warnings on standard error, where the runtime shows
//! them. Standard output is the protocol's.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

const FILE: &str = "/var/log/azure-vnet.log";
const ROTATED: &str = "/var/log/azure-vnet.log.1";
/// Bytes after which the file is set aside; with the one set aside that is all there ever is.
const LIMIT: u64 = 5 << 20;
/// Names the level, as in `RUST_LOG`; the default is `info`.
const LEVEL: &str = "AZURE_VNET_LOG";

/// Sets the log up. A file that cannot be written costs the log, never the call.
pub fn start() {
    let filter =
        EnvFilter::try_from_env(LEVEL).unwrap_or_else(|_| EnvFilter::new("azure_vnet=info"));
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(Sinks {
            file: open().ok().map(Arc::new),
        })
        .finish();
    // Fails where a test has set another one up.
    let _ = tracing::subscriber::set_global_default(logger);
}

fn open() -> io::Result<File> {
    let path = Path::new(FILE);
    if path.metadata().is_ok_and(|meta| meta.len() > LIMIT) {
        std::fs::rename(path, ROTATED)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
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
        self.line(*meta.level() <= Level::WARN)
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

/// Where one line goes.
struct Line {
    file: Option<Arc<File>>,
    on_stderr: bool,
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if let Some(mut file) = self.file.as_deref() {
            file.write_all(text)?;
        }
        if self.on_stderr {
            io::stderr().write_all(text)?;
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
