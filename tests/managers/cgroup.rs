//! The control group of one machine. No namespace takes it along when it ends, so it is removed here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::report;

/// A control group, removed with all below it when this is dropped, which must be after its processes have ended.
pub struct Cgroup {
    pub path: PathBuf,
}

impl Cgroup {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = hierarchy().join(format!("azure-vnet-test-{}-m{number}", process::id()));
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    /// Waits until no process is in it.
    pub fn wait_until_empty(&self) {
        let events = self.path.join("cgroup.events");
        crate::eventually("the machine's processes have ended", || {
            let text = fs::read_to_string(&events).unwrap();
            text.contains("populated 0").then_some(())
        });
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed is in its group for a moment more.
        for _ in 0..100 {
            if remove(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        report(&format!("{} stays behind", self.path.display()));
    }
}

/// Where this machine has the one of version 2.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let place = fields.find_map(|mut fields| {
        let place = fields.nth(1)?;
        (fields.next()? == "cgroup2").then_some(place)
    });
    place
        .expect("no cgroup2 is mounted here: systemd cannot be booted")
        .into()
}

fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
