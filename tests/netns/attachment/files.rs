//! The plugin's files: who may see them, and what else may stand in their places.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use azure_vnet_testbed::PLUGIN_DIR;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::fixture::{Container, Node, TIERS, Tier};

const STATE: &str = "/run/azure-vnet";
const ATTACHMENTS: &str = "/run/azure-vnet/attachments";

/// Everything below a folder, and its mode.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(modes(&path));
        }
        found.push((path, metadata.permissions().mode() & 0o7777));
    }
    found
}

/// A call under another umask.
fn call(container: &Container<'_>, verb: &str, umask: &str) -> String {
    let shell = container.node().vm().program("sh").unwrap();
    let line = format!("umask {umask} && exec {PLUGIN_DIR}/azure-vnet");
    let program = shell.args(["-c", &line]);
    let variables = container.environment(verb).into_iter();
    let program = variables.fold(program, |program, (name, value)| program.env(name, value));
    program
        .stdin(container.node().stdin(&json!({})))
        .checked()
        .unwrap()
}

/// A `DaemonSet`'s `DirectoryOrCreate` makes folders with 0755, and a runtime has the umask that it was started with.
#[test]
fn nobody_else_sees_them_under_any_umask_and_in_any_folder() {
    for (tier, umask, made) in [
        (Tier::Tcx, "000", None),
        (Tier::Tcx, "077", Some(0o755)),
        (Tier::Netfilter, "000", Some(0o777)),
        (Tier::Netfilter, "077", None),
    ] {
        let node = Node::new(tier);
        let vm = node.vm().namespace();
        if let Some(mode) = made {
            let make = || {
                for folder in [STATE, ATTACHMENTS] {
                    fs::create_dir(folder).unwrap();
                    fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
                }
            };
            vm.run(make).unwrap();
        }
        let container = node.container();
        call(&container, "ADD", umask);
        let found = vm.run(|| {
            let own = fs::metadata(STATE).unwrap().permissions().mode() & 0o7777;
            let mut found = modes(Path::new(STATE));
            found.push((STATE.into(), own));
            found
        });
        let found = found.unwrap();
        assert!(found.len() > 5, "{found:?}");
        for (path, mode) in found {
            let is_folder = path == Path::new(STATE) || path == Path::new(ATTACHMENTS);
            let expected = if is_folder { 0o700 } else { 0o600 };
            assert_eq!(
                mode,
                expected,
                "{tier:?} {umask} {made:?} {}",
                path.display()
            );
        }
        call(&container, "DEL", umask);
    }
}

/// Whoever can write there is root; but a FIFO made every command hang on v0.1.0, and a link or a device is no better.
#[test]
fn whatever_stands_in_their_places_no_call_hangs() {
    for tier in TIERS {
        let node = Node::new(tier);
        let vm = node.vm().namespace();
        let (first, second) = (node.container(), node.container());
        let result = first.add();
        let files = vm.run(|| modes(Path::new(STATE))).unwrap();
        let files = files
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| path != Path::new(ATTACHMENTS));
        let others = [
            format!("{ATTACHMENTS}/azv00000000000.json").into(),
            "/run/azure-vnet.json".into(),
            "/etc/config/ip-masq-agent".into(),
            "/etc/cni/net.d/00-other.conflist".into(),
            "/var/log/azure-vnet.log".into(),
        ];
        for path in files.chain(others) {
            let kept = path.with_added_extension("kept");
            let fifo = || {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let _ = fs::rename(&path, &kept);
                mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            };
            vm.run(fifo).unwrap();
            // Each ends within the limit of a call, well or with an error.
            for verb in ["STATUS", "GC"] {
                let valid = json!([{"containerID": first.id, "ifname": "eth0"}]);
                node.call(verb, &json!({"cni.dev/valid-attachments": valid}));
            }
            let _ = first.call("CHECK", &json!({"prevResult": result}));
            let _ = second.call("ADD", &json!({}));
            let _ = second.call("DEL", &json!({}));
            for command in ["status", "pods", "doctor", "metrics", "flows"] {
                let program = node
                    .vm()
                    .program(&format!("{PLUGIN_DIR}/azure-vnet"))
                    .unwrap();
                program.arg(command).output().unwrap();
            }
            let back = || {
                let is_fifo = fs::symlink_metadata(&path).is_ok_and(|it| it.file_type().is_fifo());
                if is_fifo {
                    fs::remove_file(&path).unwrap();
                }
                if !path.exists() {
                    let _ = fs::rename(&kept, &path);
                }
            };
            vm.run(back).unwrap();
        }
        first.check(&result).ok();
        second.add();
        second.del().ok();
        first.del().ok();
    }
}

/// A record that is none is a damaged one: the pod is found from the kernel, and keeps its network.
#[test]
fn a_fifo_in_the_place_of_a_record_costs_no_pod_its_network() {
    let node = Node::new(Tier::Tcx);
    let vm = node.vm().namespace();
    let container = node.container();
    let result = container.add();
    let path = format!("{ATTACHMENTS}/{}.json", container.host_veth());
    let fifo = || {
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    };
    vm.run(fifo).unwrap();
    let second = node.container();
    second.add();
    container.check(&result).ok();
    second.del().ok();
    container.del().ok();
    assert!(!vm.run(|| Path::new(&path).exists()).unwrap());
}
