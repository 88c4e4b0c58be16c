//! A virtual machine that runs some steps and turns itself off.

use std::time::Duration;

use azure_vnet_testbed::process::Program;

use crate::initramfs::Initramfs;
use crate::package::{Kernel, image_and_modules};

/// Emulated, and beside other tests, everything takes its time.
const LIMIT: Duration = Duration::from_mins(11);

/// A command, and the name under which its outcome is asked for.
pub struct Step {
    pub name: &'static str,
    pub command: &'static str,
}

impl Step {
    pub const fn new(name: &'static str, command: &'static str) -> Self {
        Self { name, command }
    }
}

/// What a step left.
pub struct Outcome {
    pub status: i32,
    pub text: String,
}

/// A machine that is off again, and what its console said.
pub struct Machine {
    console: String,
}

impl Machine {
    /// Boots the kernel and runs the steps to their end.
    pub fn boot(kernel: &Kernel, steps: &[Step]) -> Self {
        let (image, modules) = image_and_modules(&kernel.unpacked());
        let initramfs = Initramfs::make(&modules, steps);
        // Emulation, not KVM: nested, that hangs on some hosts.
        let qemu = Program::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", "2", "-m", "2048", "-nodefaults", "-no-reboot"])
            .args(["-nographic", "-serial", "stdio", "-kernel"])
            .arg(image)
            .arg("-initrd")
            .arg(initramfs.path())
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
        let output = qemu.limit(LIMIT).output().unwrap();
        let machine = Self {
            console: output.stdout.replace('\r', ""),
        };
        assert!(
            output.status.success(),
            "{}{}",
            output.stderr,
            machine.console
        );
        machine
    }

    /// What `uname -r` says there.
    pub fn release(&self) -> &str {
        let mut lines = self.console.lines();
        lines
            .find_map(|line| line.strip_prefix("@release "))
            .unwrap_or_else(|| panic!("the kernel did not come up:\n{}", self.console))
    }

    /// How a step ended, and what it printed.
    pub fn outcome(&self, name: &str) -> Outcome {
        self.find(name)
            .unwrap_or_else(|| panic!("{name} did not end:\n{}", self.console))
    }

    fn find(&self, name: &str) -> Option<Outcome> {
        let (_, rest) = self.console.split_once(&format!("@begin {name}\n"))?;
        let (text, rest) = rest.split_once(&format!("@end {name} "))?;
        Some(Outcome {
            status: rest.lines().next()?.trim().parse().ok()?,
            text: text.to_owned(),
        })
    }
}
