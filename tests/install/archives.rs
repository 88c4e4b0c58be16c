//! Copies of an archive that are spoilt in one way each.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use azure_vnet_testbed::debian::program_in;
use tempfile::TempDir;

use crate::node::dist;

/// A folder with one version.
pub struct Archives {
    folder: TempDir,
    archive: String,
}

impl Archives {
    pub fn copied(version: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let names = fs::read_dir(dist())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        let names: Vec<String> = names
            .filter(|name| name.contains(&format!("-{version}.tgz")))
            .collect();
        for name in &names {
            fs::copy(dist().join(name), folder.path().join(name)).unwrap();
        }
        let archive = names
            .into_iter()
            .find(|name| Path::new(name).extension().is_some_and(|it| it == "tgz"));
        Self {
            folder,
            archive: archive.expect("an archive of that version"),
        }
    }

    pub fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub fn append_to_archive(&self, bytes: &[u8]) {
        let file = OpenOptions::new().append(true).open(self.archive());
        file.unwrap().write_all(bytes).unwrap();
    }

    pub fn remove_sum(&self) {
        fs::remove_file(self.sum()).unwrap();
    }

    pub fn remove_signature(&self) {
        fs::remove_file(self.signature()).unwrap();
    }

    /// Another content, with its right sum: what whoever owns the folder can do.
    pub fn replace_content(&self, version: &str) {
        let other = Archives::copied(version);
        fs::copy(other.archive(), self.archive()).unwrap();
        self.sum_again();
    }

    /// The same with its signature.
    pub fn replace_content_and_signature(&self, version: &str) {
        self.replace_content(version);
        fs::copy(Archives::copied(version).signature(), self.signature()).unwrap();
    }

    pub fn sum_again(&self) {
        let sum = program_in(self.folder.path(), "sha256sum").arg(&self.archive);
        fs::write(self.sum(), sum.checked().unwrap()).unwrap();
    }

    /// As when it was made from a file that had arrived in part.
    pub fn truncate_and_sum_again(&self) {
        let file = OpenOptions::new().write(true).open(self.archive()).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        self.sum_again();
    }

    fn signature(&self) -> PathBuf {
        self.folder.path().join(format!("{}.minisig", self.archive))
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join(&self.archive)
    }

    fn sum(&self) -> PathBuf {
        self.folder.path().join(format!("{}.sha256", self.archive))
    }
}
