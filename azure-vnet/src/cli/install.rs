//! `azure-vnet install` and `azure-vnet uninstall`: the plugins' place on the node.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::output::Output;
use super::{Failure, Outcome};
use crate::install::{self, Change, Step, Target};
use crate::state;

/// Where the node's files are.
#[derive(Args)]
pub struct Place {
    /// The node's file system, where it is not this program's own: a container mounts it elsewhere.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
    /// Where runtimes look for plugins.
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
    plugins: PathBuf,
    /// Where runtimes look for network configurations.
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d")]
    configuration: PathBuf,
}

#[derive(Args)]
pub struct Install {
    #[command(flatten)]
    place: Place,
    /// The folder with the plugins to install; unless given, that of this program.
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
}

#[derive(Args)]
pub struct Uninstall {
    #[command(flatten)]
    place: Place,
    /// Also while pods are attached, which nobody could detach then.
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Report {
    steps: Vec<Step>,
}

impl Place {
    fn target(&self) -> Target {
        let below_root = |path: &Path| {
            let relative = path.strip_prefix("/").unwrap_or(path);
            self.root.join(relative)
        };
        Target {
            root: self.root.clone(),
            plugins: below_root(&self.plugins),
            configuration: below_root(&self.configuration),
        }
    }
}

/// Installs; a problem if a plugin that the configuration names is missing.
pub fn install(options: &Install, output: Output) -> Result<Outcome, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::of(&error))?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let from = options.from.as_deref().unwrap_or(beside);
    let steps =
        install::install(&options.place.target(), from).map_err(|error| Failure::of(&error))?;
    let whole = steps.iter().all(|step| step.change != Change::Missing);
    output.show(&Report { steps })?;
    Ok(if whole {
        Outcome::Fine
    } else {
        Outcome::Problem
    })
}

/// Uninstalls, unless pods are attached.
pub fn uninstall(options: &Uninstall, output: Output) -> Result<Outcome, Failure> {
    let attached = state::everything().len();
    if attached > 0 && !options.force {
        return Err(Failure::new(format!(
            "{attached} {} attached, and nobody could detach them: drain the node first, or use azure-vnet uninstall --force",
            if attached == 1 { "pod is" } else { "pods are" }
        )));
    }
    let steps = install::uninstall(&options.place.target()).map_err(|error| Failure::of(&error))?;
    output.show(&Report { steps })?;
    Ok(Outcome::Fine)
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return writeln!(out, "Nothing was installed.");
        }
        for Step { path, change } in &self.steps {
            let word = match change {
                Change::Installed => "installed",
                Change::Replaced => "replaced",
                Change::Unchanged => "unchanged",
                Change::Kept => "kept",
                Change::Removed => "removed",
                Change::Missing => "MISSING",
            };
            writeln!(out, "{word:<10} {}", path.display())?;
        }
        Ok(())
    }
}
