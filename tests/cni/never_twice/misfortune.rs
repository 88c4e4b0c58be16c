//! What happens to a node besides calls: files are damaged or lost, and it reboots.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use azure_vnet_testbed::Vm;
use fastrand::Rng;
use rustix::mount::mount_bind;

use crate::fixture::{Container, Node, ip, sh};

const STATE: &str = "/run/azure-vnet";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Where the VM's own boot ID is, shown in the place of the host's.
const OWN_BOOT_ID: &str = "/etc/boot_id";

/// Gives the VM a boot ID of its own.
pub fn prepare(vm: &Vm) {
    vm.write_file(OWN_BOOT_ID, "boot 0\n").unwrap();
    vm.namespace()
        .run(|| mount_bind(OWN_BOOT_ID, BOOT_ID))
        .unwrap()
        .unwrap();
}

/// Damages one file of the plugins, or both copies of the addresses' record. Says which and how.
pub fn damage(vm: &Vm, rng: &mut Rng) -> String {
    let work = || {
        let records = [
            format!("{STATE}/ipam.json"),
            format!("{STATE}/ipam.json.backup"),
        ]
        .map(PathBuf::from);
        let mut attachments: Vec<PathBuf> = fs::read_dir(format!("{STATE}/attachments"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        attachments.sort();
        let (what, files): (_, Vec<PathBuf>) = match rng.u8(..10) {
            0..3 => ("the record", records[..1].to_vec()),
            3..5 => ("its backup", records[1..].to_vec()),
            5 => ("both records", records.to_vec()),
            6..8 if !attachments.is_empty() => {
                ("an attachment", vec![rng.choice(attachments).unwrap()])
            }
            8 => (
                "the datapath's choice",
                vec![format!("{STATE}/datapath-azure0.json").into()],
            ),
            _ => (
                "the node's journal",
                vec![format!("{STATE}/node-azure0.json").into()],
            ),
        };
        let how = rng.u8(..5);
        let mut word = "";
        for file in files {
            word = spoil(&file, how, rng);
        }
        format!("{what} {word}")
    };
    vm.namespace().run(work).unwrap()
}

/// A file that is not there stays away.
fn spoil(path: &Path, how: u8, rng: &mut Rng) -> &'static str {
    let Ok(mut bytes) = fs::read(path) else {
        return "missing already";
    };
    let word = match how {
        0 => {
            let _ = fs::remove_file(path);
            return "lost";
        }
        1 => {
            bytes.clear();
            "emptied"
        }
        2 => {
            bytes.truncate(bytes.len() / 2);
            "cut short"
        }
        3 => {
            bytes.fill(0);
            "zeroed"
        }
        _ => {
            if let Some(byte) = rng.choice(bytes.iter_mut()) {
                *byte ^= 0x10;
            }
            "with a bit turned"
        }
    };
    let _ = fs::write(path, bytes);
    word
}

/// Removes both copies of the addresses' record.
pub fn remove_records(vm: &Vm) {
    let remove = || {
        for file in ["ipam.json", "ipam.json.backup"] {
            let _ = fs::remove_file(format!("{STATE}/{file}"));
        }
    };
    vm.namespace().run(remove).unwrap();
}

/// Nobody knows which addresses are in use.
pub const DAMAGED: &str = "both records are damaged";

/// The reasons for which an ADD may fail here, by its answer.
pub fn reason(answer: &str) -> Option<&'static str> {
    if answer.contains("both damaged") {
        Some(DAMAGED)
    } else if answer.contains("its record was lost meanwhile") {
        Some("another pod has the address")
    } else if answer.contains("pod addresses are in use") {
        Some("no address is free")
    } else {
        None
    }
}

/// What a reboot leaves: no pod, no bridge, the NIC as DHCP configures it, no pins, and mostly no state.
pub fn reboot(node: &Node, rng: &mut Rng) -> &'static str {
    let vm = node.vm();
    for link in vm.links().unwrap() {
        if link.starts_with("azv") {
            // The kernel may be faster: their pods are gone.
            let _ = vm
                .program("ip")
                .unwrap()
                .args(["link", "delete", &link])
                .output();
        }
    }
    if vm.links().unwrap().iter().any(|link| link == "azure0") {
        sh(vm.namespace(), "ip link delete azure0");
    }
    vm.configure_as_dhcp().unwrap();
    let kept = rng.bool();
    let boot = rng.u64(..);
    vm.namespace()
        .run(|| {
            // Through the file, which is bound in the place of the kernel's.
            fs::write(OWN_BOOT_ID, format!("boot {boot}\n")).unwrap();
            let _ = fs::remove_dir_all("/sys/fs/bpf/azure-vnet");
            if !kept {
                let _ = fs::remove_dir_all(STATE);
            }
        })
        .unwrap();
    if kept { "reboot, /run kept" } else { "reboot" }
}

/// The address of a pod by the kernel.
pub fn address_in(container: &Container<'_>) -> Option<Ipv4Addr> {
    let links = ip(container.namespace(), "-4 address show dev eth0");
    links[0]["addr_info"][0]["local"].as_str()?.parse().ok()
}
