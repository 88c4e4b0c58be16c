//! What stands where the record should be, and what the record's file system does.
//!
//! The file systems are real: each test mounts its own in the mount namespace of its node.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Write,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    process::Command,
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount},
};
use serde_json::{Value, json};

use crate::{
    node::{Node, address, message, silent_success, stderr},
    refresh::resealed,
    wireserver::{Answer, nic},
};

const FILES: [&str; 2] = ["ipam.json", "ipam.json.backup"];

/// A node on which `c1` has .5, and the network plugin has recorded that.
fn node() -> Node {
    let node = Node::with(9);
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    attachment(&node, "c1", "10.20.0.5");
    node
}

/// `lo` plays the link that is there.
fn attachment(node: &Node, container: &str, address: &str) {
    let record = json!({"network": "azure", "container_id": container, "ifname": "eth0", "netns": "/x",
        "host_veth": "lo", "bridge": "azure0", "address": address, "mac": "0a:58:0a:14:00:05"});
    fs::create_dir_all(node.state("attachments")).unwrap();
    let path = node.state("attachments").join(format!("{container}.json"));
    fs::write(path, record.to_string()).unwrap();
}

type Place = fn(&Path);

/// Whatever it is, in one place or both: no pod loses its address, the operator is told once, and the evidence is
/// kept. One row for each defined result.
#[test]
fn whatever_is_in_its_place_the_record_is_made_again() {
    let places: [(&str, Place); 9] = [
        ("empty", |path| fs::write(path, "").unwrap()),
        ("not JSON", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("not JSON", |path| fs::write(path, [0; 512]).unwrap()),
        ("of version 7", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace("\"version\":1", "\"version\":7")).unwrap();
        }),
        ("a symbolic link", |path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/hostname", path).unwrap();
        }),
        ("not a regular file", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("not a regular file", |path| {
            fs::remove_file(path).unwrap();
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        }),
        ("it belongs to user 7", |path| {
            chown(path, Some(7), Some(7)).unwrap();
        }),
        ("others may write it", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }),
    ];
    for (text, place) in places {
        for files in [&FILES[..1], &FILES[1..], &FILES[..]] {
            let node = node();
            for name in files {
                place(&node.state(name));
            }
            let output = node.call("ADD", "c2");
            assert_eq!(address(&output), "10.20.0.6/22", "{text}");
            let warning = stderr(&output);
            // The backup alone is not looked at: it is written again in any case.
            if files.contains(&"ipam.json") {
                assert!(warning.contains(text), "{warning}");
                assert_eq!(warning.lines().count(), 1, "{warning}");
                assert!(
                    node.state("ipam.json.damaged").symlink_metadata().is_ok(),
                    "{text}"
                );
            }
            assert_eq!(stderr(&node.call("ADD", "c3")), "", "{text}");
            node.del("c1");
            let held = node.record()["pool"]["leases"].as_array().unwrap().len();
            assert_eq!(held, 2, "{text}: c1 was known by name");
            for name in FILES {
                let metadata = node.state(name).symlink_metadata().unwrap();
                assert!(metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o600);
            }
        }
    }
    assert!(
        !fs::read_to_string("/etc/hostname")
            .unwrap()
            .contains("10.20")
    );
}

/// DEL heals as ADD does, and frees what it was called for.
#[test]
fn a_del_is_enough_to_make_it_again() {
    let node = node();
    for name in FILES {
        fs::write(node.state(name), "{").unwrap();
    }
    let output = node.call("DEL", "c1");
    silent_success(&output);
    assert!(stderr(&output).contains("1 in use"), "{output:?}");
    assert_eq!(node.record()["pool"]["leases"], json!([]));
}

#[test]
fn a_repeated_add_after_healing_has_the_whole_result() {
    let node = node();
    let before = node.call("ADD", "c1").stdout;
    for name in FILES {
        fs::remove_file(node.state(name)).unwrap();
    }
    assert_eq!(node.call("ADD", "c1").stdout, before);
}

/// The network plugin's records are gone as well, but the pods are not.
#[test]
fn what_only_the_kernel_knows_is_not_given_out() {
    let mut node = Node::with(0);
    node.use_file(&["10.20.0.5", "10.20.0.6", "10.20.0.7"]);
    node.neighbours = vec!["10.20.0.5", "10.20.0.6"];
    assert_eq!(node.add("c1"), "10.20.0.7/22");
    let error = node.refused("c2");
    assert_eq!(error["code"], 110);
    assert!(
        message(&error).contains("2 by pods that are not recorded"),
        "{error}"
    );
    node.neighbours = vec!["10.20.0.6"];
    assert_eq!(
        node.add("c2"),
        "10.20.0.5/22",
        "its DEL took the entry away"
    );
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Whatever the runtime's umask is, and whoever has made the folder before.
#[test]
fn nobody_else_sees_what_is_recorded() {
    for umask in ["000", "077", "022"] {
        for made in [None, Some(0o755), Some(0o777)] {
            let mut node = Node::with(9);
            node.umask = umask;
            if let Some(mode) = made {
                fs::create_dir(node.state("")).unwrap();
                fs::set_permissions(node.state(""), fs::Permissions::from_mode(mode)).unwrap();
            }
            let output = node.call("ADD", "c1");
            assert_eq!(address(&output), "10.20.0.5/22");
            let said = stderr(&output).contains("was open for others");
            assert_eq!(said, made.is_some(), "{output:?}");
            assert_eq!(mode(&node.state("")), 0o700, "{umask} {made:?}");
            for file in ["ipam.json", "ipam.json.backup", "ipam.lock"] {
                assert_eq!(mode(&node.state(file)), 0o600, "{umask} {made:?} {file}");
            }
            assert_eq!(mode(&node.beside("azure-vnet-ipam.log")), 0o640, "{umask}");
        }
    }
}

/// `flock` asks for no right to write: who could open the lock before its folder was closed may have it still.
#[test]
fn a_lock_that_somebody_else_holds_stops_nobody() {
    let node = node();
    let lock = node.state("ipam.lock");
    fs::set_permissions(node.state(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    let foreign = File::open(&lock).unwrap();
    foreign.lock().unwrap();
    assert_eq!(node.add("c2"), "10.20.0.6/22");
    assert_eq!((mode(&node.state("")), mode(&lock)), (0o700, 0o600));
    let nobody = "65534:65534";
    let open = format!(
        "exec chroot --userspec {nobody} / flock --nonblock --shared {} true",
        lock.display()
    );
    let refused = Command::new("sh").args(["-c", &open]).output().unwrap();
    assert!(
        !refused.status.success() && stderr(&refused).contains("Permission denied"),
        "{refused:?}"
    );
    drop(foreign);
    assert_eq!(node.add("c3"), "10.20.0.7/22");
}

#[test]
fn a_directory_that_others_may_write_is_closed_or_refused() {
    let node = node();
    fs::set_permissions(node.state(""), fs::Permissions::from_mode(0o777)).unwrap();
    let output = node.call("ADD", "c2");
    assert_eq!(address(&output), "10.20.0.6/22");
    assert!(
        stderr(&output).contains("was open for others (mode 777)"),
        "{output:?}"
    );
    assert_eq!(mode(&node.state("")), 0o700);
    chown(node.state(""), Some(7), None).unwrap();
    let error = node.refused("c3");
    assert_eq!(error["code"], 112);
    assert!(
        message(&error).contains("belongs to user 7") && message(&error).contains("chown root")
    );
    chown(node.state(""), Some(0), None).unwrap();
    assert_eq!(node.add("c3"), "10.20.0.7/22");
}

#[test]
fn what_is_in_the_place_of_the_lock_or_the_directory_is_named() {
    let node = node();
    let lock = node.state("ipam.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let error = node.refused("c2");
    assert_eq!(error["code"], 112);
    assert!(
        message(&error).contains("ipam.lock") && message(&error).contains("remove"),
        "{error}"
    );
    fs::remove_dir(&lock).unwrap();
    mknodat(CWD, &lock, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(
        message(&node.refused("c2")).contains("ipam.lock"),
        "and does not hang"
    );
    fs::remove_dir_all(node.state("")).unwrap();
    fs::write(node.state("").parent().unwrap().join("state"), "").unwrap();
    assert_eq!(node.refused("c2")["code"], 112);
}

/// Runs `test` with a small file system of its own as the state's directory.
fn with_tmpfs(test: impl FnOnce(&Node)) {
    let node = Node::with(9);
    let dir = node.beside("state");
    fs::create_dir(&dir).unwrap();
    let options = CString::new("size=64k,mode=700").unwrap();
    mount(
        "tmpfs",
        &dir,
        "tmpfs",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .unwrap();
    test(&node);
    unmount(&dir, UnmountFlags::DETACH).unwrap();
}

/// Takes what room there is.
fn fill(node: &Node) {
    let mut ballast = File::options()
        .create(true)
        .append(true)
        .open(node.state("ballast"))
        .unwrap();
    while ballast.write_all(&[0; 512]).is_ok() {}
}

fn holders(node: &Node) -> Vec<Value> {
    let leases = node.record()["pool"]["leases"].as_array().unwrap().clone();
    leases
        .iter()
        .map(|lease| lease["containerId"].clone())
        .collect()
}

#[test]
fn a_full_disk_costs_the_copy_first_and_loses_nothing() {
    with_tmpfs(|node| {
        assert_eq!(node.add("c1"), "10.20.0.5/22");
        fill(node);
        let output = node.call("ADD", "c2");
        assert_eq!(address(&output), "10.20.0.6/22");
        assert!(
            stderr(&output).contains("going on with one copy"),
            "{output:?}"
        );
        fill(node);
        let error = node.refused("c3");
        assert_eq!(error["code"], 112);
        assert!(message(&error).contains("make room"), "{error}");
        assert_eq!(holders(node), ["c1", "c2"]);
        // Not to be had back is an error: the runtime asks again.
        assert_eq!(node.fails("DEL", "c1")["code"], 112);
        fs::remove_file(node.state("ballast")).unwrap();
        node.del("c1");
        assert_eq!(node.add("c3"), "10.20.0.7/22");
        assert_eq!(holders(node), ["c2", "c3"]);
        assert!(node.state("ipam.json.backup").exists());
    });
}

#[test]
fn a_read_only_file_system_is_named_and_read() {
    with_tmpfs(|node| {
        assert_eq!(node.add("c1"), "10.20.0.5/22");
        let state = node.state("");
        mount_remount(&state, MountFlags::RDONLY, c"").unwrap();
        for command in ["ADD", "DEL"] {
            let error = node.fails(command, "c1");
            assert_eq!(error["code"], 112, "{command}");
            assert!(message(&error).contains("mount it writable"), "{error}");
        }
        let error = node.fails("STATUS", "");
        assert_eq!(error["code"], 50);
        assert!(error.to_string().contains("mount it writable"), "{error}");
        mount_remount(&state, MountFlags::empty(), c"").unwrap();
        node.del("c1");
        assert_eq!(holders(node), [] as [Value; 0]);
    });
}

/// An image of a VM that ran, with `/run` on its disk: another boot, and another VM's pool.
#[test]
fn the_record_of_another_boot_is_not_served() {
    let node = node();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for name in FILES {
        let text = fs::read_to_string(node.state(name)).unwrap();
        let other = text.replace(boot_id.trim(), "00000000-0000-4000-8000-000000000000");
        assert_ne!(text, other);
        fs::write(node.state(name), resealed(&other)).unwrap();
    }
    fs::remove_dir_all(node.state("attachments")).unwrap();
    node.server
        .set(Answer::Xml(nic(9).replace("10.20.0.", "10.20.1.")));
    assert_eq!(node.add("c1"), "10.20.1.5/22");
    assert_eq!(holders(&node), ["c1"]);
}

/// The same with the memory, so that even the boot is that of the other VM; or a NIC that was taken out.
#[test]
fn a_pool_whose_nic_is_not_here_is_void() {
    let mut node = Node::with(9);
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    node.nic = "00:0d:3a:99:99:99";
    node.ipam = json!({"wireserver": "http://127.0.0.1:1", "queryInterval": 3600});
    for error in [node.refused("c2"), node.fails("STATUS", "")] {
        let text = message(&error);
        assert!(
            text.contains("00:0d:3a:11:22:33") && text.contains("no link of this node"),
            "{error}"
        );
    }
    // The source was asked before that was said.
    assert!(
        node.record()["problem"]
            .as_str()
            .unwrap()
            .contains("wireserver")
    );
    node.use_file(&["10.20.0.200"]);
    assert_eq!(node.add("c2"), "10.20.0.200/22");
}
