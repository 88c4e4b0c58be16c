//! Runs another plugin, as the specification's "delegation" has it.
//!
//! The delegate gets the configuration byte for byte and this process's environment with nothing but
//! `CNI_COMMAND` replaced; it runs in the caller's namespaces, so it must not be called from a thread that
//! has entered a container's.
//!
//! A plugin whose program is this very file is not executed: it is called ([`Library`]).

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    error::{CniError, code},
    json,
    netconf::NetConf,
    reply::Success,
};

mod library;
mod process;

pub use library::{Library, is_given_up};
use process::{Ended, Finished};

/// How long a delegate may take if the caller has no better idea. Runtimes give a whole ADD minutes.
pub const DEFAULT_LIMIT: Duration = Duration::from_mins(1);

/// A plugin that was found in `CNI_PATH`, with the configuration it is to get.
#[derive(Debug)]
pub struct Delegate<'a> {
    plugin: PathBuf,
    conf: &'a NetConf,
    limit: Duration,
    /// What is called in the place of the program.
    library: Option<&'a Library>,
    /// Beside `CNI_COMMAND`, what is not this process's own environment.
    variables: Vec<(&'static str, String)>,
}

impl<'a> Delegate<'a> {
    /// Looks for the plugin `plugin_type` in `path`, the request's `CNI_PATH`.
    ///
    /// # Errors
    /// Code 4 without a path, code 7 if `plugin_type` is no file name, [`code::DELEGATE`] if no directory of
    /// the path has an executable file of that name.
    pub fn find(
        plugin_type: &str,
        path: &str,
        conf: &'a NetConf,
        limit: Duration,
    ) -> Result<Self, CniError> {
        let plugin = find(plugin_type, path)?;
        Ok(Delegate {
            plugin,
            conf,
            limit,
            library: None,
            variables: Vec::new(),
        })
    }

    /// Calls `library` in the place of the program, if that is what this process runs: the same file, under the library's name.
    /// Whatever else there is under this name is executed.
    #[must_use]
    pub fn or_within(mut self, library: &'a Library) -> Self {
        let is_called = self.plugin.file_name().is_some_and(|it| it == library.name);
        self.library = (is_called && is_this_program(&self.plugin)).then_some(library);
        self
    }

    /// For a caller that no runtime has told about the attachment: the operator's command line. The attachment's
    /// namespace is gone.
    #[must_use]
    pub fn of_attachment(mut self, container_id: &str, ifname: &str, path: &str) -> Self {
        self.variables = vec![
            ("CNI_CONTAINERID", container_id.to_owned()),
            ("CNI_IFNAME", ifname.to_owned()),
            ("CNI_NETNS", String::new()),
            ("CNI_PATH", path.to_owned()),
        ];
        self
    }

    /// Runs ADD.
    ///
    /// # Errors
    /// The delegate's own error unchanged, or [`code::DELEGATE`] if it gave none or answered nonsense. The
    /// delegate may have allocated something all the same: follow with [`del`](Self::del).
    pub fn add(&self) -> Result<Success, CniError> {
        let stdout = self.run("ADD")?;
        let reply: Value = json::from_slice(&stdout).map_err(|cause| {
            self.failed("answered ADD with something that is not JSON")
                .with_details(cause.to_string())
        })?;
        Success::from_json(&reply, self.conf.version()).map_err(|cause| {
            self.failed("answered ADD with something that is not a result")
                .with_details(cause.to_string())
        })
    }

    /// Runs DEL.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub fn del(&self) -> Result<(), CniError> {
        self.run("DEL").map(drop)
    }

    /// Runs CHECK: is what ADD made still there?
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub fn check(&self) -> Result<(), CniError> {
        self.run("CHECK").map(drop)
    }

    /// Runs GC, which a plugin that delegates must pass on with the list of valid attachments.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub fn gc(&self) -> Result<(), CniError> {
        self.run("GC").map(drop)
    }

    /// Runs STATUS. Runtimes ask twice a second: give [`find`](Self::find) a short limit.
    ///
    /// # Errors
    /// As for [`add`](Self::add); code 50 or 51 from a delegate that knows why it cannot work.
    pub fn status(&self) -> Result<(), CniError> {
        self.run("STATUS").map(drop)
    }

    /// Runs one command to its end and gives its standard output.
    fn run(&self, command: &str) -> Result<Vec<u8>, CniError> {
        let mut variables = self.variables.clone();
        variables.push(("CNI_COMMAND", command.to_owned()));
        let input = self.conf.raw();
        let finished = match self.library {
            Some(library) => library::call(library, &variables, input, self.limit),
            None => process::run(&self.plugin, &variables, input, self.limit),
        };
        let finished = finished.map_err(|cause| {
            self.failed(&format!("cannot be run for {command}"))
                .with_details(cause.to_string())
        })?;
        match finished.ended {
            Ended::Exited(status) if status.success() => Ok(finished.stdout),
            Ended::Exited(status) => Err(reported(&finished).unwrap_or_else(|| {
                self.failed(&format!(
                    "failed in {command} without an error object, {status}"
                ))
                .with_details(text_of(&finished))
            })),
            Ended::TimedOut => Err(self
                .failed(&format!(
                    "did not finish {command} within {} s and was killed",
                    self.limit.as_secs_f32()
                ))
                .with_details(text_of(&finished))),
            Ended::GivenUp => Err(self.failed(&format!(
                "did not finish {command} within {} s and was given up",
                self.limit.as_secs_f32()
            ))),
            Ended::TooMuchOutput => Err(self.failed(&format!(
                "wrote more than {} MiB in {command} and was killed",
                process::MAX_STDOUT >> 20
            ))),
        }
    }

    fn failed(&self, what: &str) -> CniError {
        CniError::new(
            code::DELEGATE,
            format!("plugin {} {what}", self.plugin.display()),
        )
    }
}

/// The error object of the delegate, if it printed one.
fn reported(finished: &Finished) -> Option<CniError> {
    let value = json::from_slice(&finished.stdout).ok()?;
    CniError::from_json(&value)
}

/// What a plugin without manners had to say: some of both streams.
fn text_of(finished: &Finished) -> String {
    let stdout = String::from_utf8_lossy(&finished.stdout[..finished.stdout.len().min(1024)]);
    let stderr = String::from_utf8_lossy(&finished.stderr_tail);
    let texts = [stdout.trim(), stderr.trim()];
    let texts: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    texts.join("; ")
}

/// The first executable regular file called `plugin_type` in the `:`-separated list.
fn find(plugin_type: &str, path: &str) -> Result<PathBuf, CniError> {
    if plugin_type.is_empty() || plugin_type.contains(['/', '\0']) {
        return Err(CniError::invalid_config(format!(
            "plugin type {plugin_type:?} must be a file name"
        )));
    }
    if path.is_empty() {
        return Err(CniError::invalid_environment(format!(
            "CNI_PATH is missing and plugin {plugin_type:?} must be run"
        )));
    }
    let directories = path.split(':').filter(|directory| !directory.is_empty());
    let mut candidates = directories.map(|directory| Path::new(directory).join(plugin_type));
    // "not found" would make go-cni take a failed DEL for a successful one.
    candidates.find(|file| is_executable(file)).ok_or_else(|| {
        CniError::new(
            code::DELEGATE,
            format!("no executable plugin {plugin_type:?} in CNI_PATH {path:?}"),
        )
    })
}

/// Whether a program is the one that this process runs, by device and inode: one that has taken its place since is another.
fn is_this_program(file: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    match (identity(file), identity(Path::new("/proc/self/exe"))) {
        (Ok(file), Ok(own)) => file == own,
        _ => false,
    }
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests;
