//! Kernel settings under `/proc/sys/net` of the calling thread's network namespace.

use std::io;
use std::path::PathBuf;

/// One setting, by its path below `/proc/sys`, such as `net/ipv4/ip_forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Path below `/proc/sys`. Not dotted, because an interface name may hold a dot.
    pub path: String,
    /// The value to write.
    pub value: String,
}

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the kernel setting {path}")]
pub struct SysctlError {
    operation: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

impl Sysctl {
    /// The IPv4 or IPv6 setting `key` of one interface; `family` is `ipv4` or `ipv6`.
    pub fn of_interface(family: &str, interface: &str, key: &str, value: &str) -> Self {
        Self {
            path: format!("net/{family}/conf/{interface}/{key}"),
            value: value.to_owned(),
        }
    }

    /// Writes the value unless it is there already; a setting that this kernel does not have
    /// (IPv6 switched off) is left out. Says whether something was written.
    pub fn set(&self) -> Result<bool, SysctlError> {
        match read(&self.path)? {
            None => Ok(false),
            Some(current) if current == self.value => Ok(false),
            Some(_) => std::fs::write(file(&self.path), &self.value)
                .map(|()| true)
                .map_err(|source| failed("write", &self.path, source)),
        }
    }
}

/// The value at `path` below `/proc/sys`; `None` when this kernel has no such setting.
pub fn read(path: &str) -> Result<Option<String>, SysctlError> {
    match std::fs::read_to_string(file(path)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// What there is below `path`, sorted; nothing when this kernel has no such place.
pub fn keys(path: &str) -> Result<Vec<String>, SysctlError> {
    let entries = match std::fs::read_dir(file(path)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("list", path, source)),
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().into_string());
    let mut names: Vec<String> = names.filter_map(Result::ok).collect();
    names.sort();
    Ok(names)
}

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path)
}

fn failed(operation: &'static str, path: &str, source: io::Error) -> SysctlError {
    SysctlError {
        operation,
        path: path.to_owned(),
        source,
    }
}
