//! Another version is installed while the runtime and its pods run, and the one before again.

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::{Azure, PLUGIN_DIR};

use super::daemon::{Containerd, Running};
use super::life::{assert_reaches, go};
use crate::cri::Pod;
use crate::reach;

/// `cargo xtask test` packs the archives.
const DIST: &str = "AZURE_VNET_DIST";
const OLD: &str = "v1.0.0";
const NEW: &str = "v1.0.1";
/// Where the programs of a build are, each by its name.
const BUILDS: &str = "/sys/fs/bpf/azure-vnet/v*/azure0/programs";

/// Nothing is drained and nothing restarted: pods of each version serve under the other, and each version ends the other's.
#[test]
fn pods_outlive_upgrade_and_rollback() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let containerd = Containerd::start(&azure.vms[0], &Conflist::shipped().at_version("1.0.0"));
    // The testbed's plugins are mounts, which nobody can replace.
    let bare = format!("umount {PLUGIN_DIR}/*; rm -f {PLUGIN_DIR}/*");
    containerd.node.run("sh", &["-ec", &bare]);

    install(&containerd, OLD);
    let first = run(&azure, &containerd, "first");
    another_build(&containerd);
    install(&containerd, NEW);
    reach::assert_answers(&azure, first.address);
    let second = run(&azure, &containerd, "second");
    reach::assert_answers(&azure, first.address);
    end(&containerd, &first);

    another_build(&containerd);
    install(&containerd, OLD);
    reach::assert_answers(&azure, second.address);
    let third = run(&azure, &containerd, "third");
    reach::assert_answers(&azure, second.address);
    end(&containerd, &second);
    go(&containerd, &third, true);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
    assert_eq!(azure.fabric.verdicts(0).unwrap().spoofed(), 0);
}

fn install(containerd: &Containerd<'_>, version: &str) {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../scripts/install-cni-plugin.sh"
    );
    let archives = std::env::var(DIST).unwrap_or_else(|_| panic!("{DIST} is not set"));
    let program = containerd.node.program(script).arg(version);
    program
        .env("AZURE_VNET_SOURCE", archives)
        .checked()
        .unwrap();
}

/// Both archives have the same programs: what is loaded gets the name of another build, so that the next ADD replaces it.
fn another_build(containerd: &Containerd<'_>) {
    let rename = format!("cd {BUILDS} && mv * another-build");
    containerd.node.run("sh", &["-ec", &rename]);
}

fn run(azure: &Azure, containerd: &Containerd<'_>, name: &str) -> Running {
    let pod = containerd.run_pod(Pod {
        name: name.into(),
        ..Pod::default()
    });
    let server = containerd.serve(&pod);
    reach::assert_answers(azure, pod.address);
    assert_reaches(azure, containerd, &pod, &server);
    let builds = containerd.node.run("sh", &["-ec", &format!("ls {BUILDS}")]);
    assert!(!builds.contains("another"), "{builds}");
    pod
}

fn end(containerd: &Containerd<'_>, pod: &Running) {
    let client = containerd.client();
    client.stop_pod(&pod.id).unwrap();
    client.remove_pod(&pod.id).unwrap();
}
