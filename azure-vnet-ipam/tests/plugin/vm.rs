//! The VM that a test runs on: namespaces of network and mounts that only its thread and what that starts have.

use std::process::Command;

use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// MAC and address of its NIC, as the wireserver's document has them.
pub const MAC: &str = "00:0d:3a:11:22:33";
pub const ADDRESS: &str = "10.20.0.4/22";

/// What makes the links of a VM in new namespaces: `/sys` shows those of the network that it was mounted in.
pub fn links(mac: &str) -> String {
    format!(
        "mount -t sysfs sysfs /sys && ip link set lo up && ip link add eth0 address {mac} type veth peer name fabric && \
         ip link set eth0 up && ip address add {ADDRESS} dev eth0"
    )
}

/// Takes the calling thread there.
pub fn enter() {
    // SAFETY: CLONE_FILES, which would break the ownership of descriptors, is not among the flags.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::FS) }
        .unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    let made = Command::new("sh").args(["-c", &links(MAC)]).status();
    assert!(made.unwrap().success());
}
