//! The command line itself: help, version, exit codes.

use azure_vnet_testbed::Azure;

use crate::golden::assert_golden;
use crate::scene::{printed, run, transcript};

/// Four words, the last with the version: what tools parse of the original.
#[test]
fn version_is_the_originals_line() {
    let azure = Azure::builder().build().unwrap();
    for flag in ["-v", "--version"] {
        let line = printed(&azure.vms[0], 0, &[flag]);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "Azure",
                "CNI",
                "Version",
                concat!("v", env!("CARGO_PKG_VERSION"))
            ]
        );
    }
}

#[test]
fn help_of_every_command() {
    let azure = Azure::builder().build().unwrap();
    let commands: [&[&str]; 15] = [
        &["--help"],
        &["status", "--help"],
        &["pods", "--help"],
        &["flows", "--help"],
        &["metrics", "--help"],
        &["plan", "--help"],
        &["top", "--help"],
        &["explain", "--help"],
        &["monitor", "--help"],
        &["doctor", "--help"],
        &["gc", "--help"],
        &["teardown", "--help"],
        &["install", "--help"],
        &["uninstall", "--help"],
        &["verify", "--help"],
    ];
    assert_golden("help.txt", &transcript(&azure.vms[0], &commands));
}

#[test]
fn what_makes_no_sense_is_refused_with_2() {
    let azure = Azure::builder().build().unwrap();
    for arguments in [
        &["frobnicate"][..],
        &["flows", "--to", "300.0.0.1"],
        &["flows", "--count", "--top", "3"],
        &["metrics", "--listen", "everywhere"],
        &["--json"],
    ] {
        let output = run(&azure.vms[0], arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
fn without_root_it_says_so() {
    let azure = Azure::builder().build().unwrap();
    let plugin = format!("{}/azure-vnet", azure_vnet_testbed::PLUGIN_DIR);
    let nobody = azure.vms[0].program("setpriv").unwrap();
    let nobody = nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let output = nobody.args([plugin.as_str(), "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(output.stderr.contains("needs root"), "{output:?}");
}

/// What packages ship; needs no root.
#[test]
fn completions_and_man_pages_are_generated() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    assert_eq!(printed(vm, 0, &["generate", "/run/generated"]), "");
    let read = |path: &str| {
        let path = format!("/run/generated/{path}");
        vm.namespace()
            .run(|| std::fs::read_to_string(&path))
            .unwrap()
            .unwrap()
    };
    for completion in ["azure-vnet.bash", "azure-vnet.fish", "_azure-vnet"] {
        let text = read(&format!("completions/{completion}"));
        assert!(
            text.contains("explain") && text.contains("dry-run"),
            "{completion}"
        );
    }
    assert!(read("man/azure-vnet.1").contains(".TH azure-vnet 1"));
    assert!(read("man/azure-vnet-flows.1").contains("watch"));
    let output = run(vm, &["generate", "/proc/nowhere"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}
