//! Where things are: the workspace, the tools we install into it, cargo's target directory.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{cargo, output};

/// The root of the workspace.
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Where `cargo install --root` puts the tools that the build needs.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// What `cargo metadata` says about the workspace.
pub struct Metadata(Value);

impl Metadata {
    /// Asks cargo.
    pub fn read() -> Result<Self> {
        let mut ask = cargo();
        ask.args(["metadata", "--format-version=1", "--no-deps"]);
        let text = output(&mut ask, Duration::from_mins(2))?;
        Ok(Self(
            serde_json::from_str(&text).context("cargo metadata printed no JSON")?,
        ))
    }

    /// The directory into which cargo builds: `CARGO_TARGET_DIR`, its configuration, or `target`.
    pub fn target_directory(&self) -> Result<PathBuf> {
        let path = self.0["target_directory"].as_str();
        path.map(PathBuf::from)
            .context("cargo metadata names no target directory")
    }

    /// The names of the workspace's integration tests, by name within each package.
    pub fn test_targets(&self) -> Vec<String> {
        array(&self.0["packages"])
            .flat_map(|package| array(&package["targets"]))
            .filter(|target| array(&target["kind"]).any(|kind| kind == "test"))
            .filter_map(|target| target["name"].as_str().map(str::to_owned))
            .collect()
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
