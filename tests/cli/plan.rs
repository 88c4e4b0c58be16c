//! `azure-vnet plan`: a sound definition, one with many faults, one for a subnet that is too small. The table of faults is beside
//! the code.

use azure_vnet_testbed::{Azure, Vm};

use crate::golden::{assert_fits, assert_golden};
use crate::scene::{json_of, pretty, printed, run};

const DEFINITION: &str = include_str!("../../conf/cluster-definition.json");
const PATH: &str = "/run/cluster.json";
const FOLDER: &str = "/run/plan";
const LARGE: &str = "/run/large.json";

fn with(vm: &Vm, changes: &[(&str, &str)]) {
    let definition = changes
        .iter()
        .fold(DEFINITION.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
    vm.write_file(PATH, &definition).unwrap();
}

#[test]
fn a_sound_definition_says_what_to_allocate() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    with(vm, &[]);
    let plan = ["plan", PATH, "--range", "10.100.0.0/16", "--write", FOLDER];
    let text = printed(vm, 0, &plan);
    assert_fits(&text);
    assert_golden("plan.txt", &text);
    assert_golden("plan.json", &pretty(&json_of(vm, 0, &["plan", PATH])));

    let file = |name: &str| {
        vm.namespace()
            .run(|| std::fs::read_to_string(format!("{FOLDER}/{name}")))
    };
    for name in ["10-azure.conflist", "allocate-addresses.sh"] {
        assert_golden(&format!("plan/{name}"), &file(name).unwrap().unwrap());
    }
    // The script has to be one that a shell takes.
    let checked = vm.program("sh").unwrap();
    let checked = checked.args(["-n", &format!("{FOLDER}/allocate-addresses.sh")]);
    checked.checked().unwrap();

    let refused = run(vm, &plan);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        refused.stderr.contains("is there already: --force"),
        "{refused:?}"
    );
    printed(vm, 0, &[&plan[..], &["--force"]].concat());
}

/// Scale sets, and agents in a subnet of their own: what the definition does not say is said.
#[test]
fn what_is_not_known_is_said() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let masters = "\"firstConsecutiveStaticIP\": \"10.0.1.50\",";
    let agents = "\"AvailabilitySet\",\n        \"vnetSubnetId\": \"/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/\
                  Microsoft.Network/virtualNetworks/KubeVnet/subnets/KubeClusterSubnet\"";
    with(
        vm,
        &[
            (
                masters,
                "\"availabilityProfile\": \"VirtualMachineScaleSets\",",
            ),
            (agents, &agents.replace("KubeClusterSubnet", "KubeAgents")),
        ],
    );
    let text = printed(vm, 0, &["plan", PATH]);
    assert_fits(&text);
    assert_golden("plan-scale-set.txt", &text);
    assert_golden(
        "plan-scale-set.json",
        &pretty(&json_of(vm, 0, &["plan", PATH])),
    );
}

#[test]
fn all_faults_are_shown_at_once() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    with(
        vm,
        &[
            ("\"--max-pods\": \"30\"", "\"--max-pods\": \"300\""),
            ("10.0.1.50", "10.0.0.1"),
            ("10.0.0.0/16", "10.9.0.0/16"),
            ("agentpool1", "Agent Pool"),
        ],
    );
    let text = printed(vm, 1, &["plan", PATH]);
    assert_fits(&text);
    assert_golden("plan-faults.txt", &text);
    assert_golden(
        "plan-faults.json",
        &pretty(&json_of(vm, 1, &["plan", PATH])),
    );
}

#[test]
fn a_subnet_that_is_too_small_is_a_problem() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    with(vm, &[("10.0.0.0/20", "10.0.1.0/26")]);
    let text = printed(vm, 1, &["plan", PATH]);
    assert_golden("plan-too-small.txt", &text);
}

#[test]
fn what_cannot_be_read_or_makes_no_sense_is_refused() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    with(vm, &[]);
    vm.write_file(LARGE, &" ".repeat((1 << 20) + 1)).unwrap();
    for (arguments, code, said) in [
        (
            &["plan", "/run/none.json"][..],
            3,
            "cannot read /run/none.json",
        ),
        (&["plan", LARGE], 3, "has more than 1048576 bytes"),
        (
            &["plan", PATH, "--nic-names", "nic"],
            3,
            "does not name NICs",
        ),
        (&["plan", PATH, "--range", "ten"], 2, "--range"),
        (&["plan", PATH, "--force"], 2, "--write"),
        (&["plan"], 2, "<DEFINITION>"),
    ] {
        let output = run(vm, arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        assert!(output.stderr.contains(said), "{arguments:?}: {output:?}");
    }
}

/// Nothing waits for the writer of a FIFO, or reads a device to its end.
#[test]
fn what_is_no_file_is_refused() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    vm.program("mkfifo")
        .unwrap()
        .arg("/run/fifo")
        .checked()
        .unwrap();
    for path in ["/run/fifo", "/dev/zero", "/run"] {
        let refused = run(vm, &["plan", path]);
        assert_eq!(refused.status.code(), Some(3), "{refused:?}");
        assert!(
            refused.stderr.contains("is not a regular file"),
            "{refused:?}"
        );
    }
}
