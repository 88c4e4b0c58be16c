//! The plugins' logs.

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::pod::PodSpec;
use serde_json::json;

use azure_vnet_testbed::Vm;

fn read(vm: &Vm, path: &str) -> String {
    vm.namespace()
        .run(|| std::fs::read_to_string(path))
        .unwrap()
        .unwrap_or_default()
}

const LOGS: [&str; 2] = ["/var/log/azure-vnet.log", "/var/log/azure-vnet-ipam.log"];

/// One line for each call, with what it was, how it ended, how long it took, and nothing of the configuration.
#[test]
fn a_line_for_each_call() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = Conflist::shipped().with_setting("azure-vnet", "secret", &json!("xyzzy"));
    let pod = vm.add_pod(&list, &PodSpec::named("web")).unwrap();
    let (container, address) = (pod.attachment.container_id.clone(), pod.address);
    pod.delete().unwrap();
    for path in LOGS {
        let text = read(vm, path);
        let of = |verb: &str| -> Vec<&str> {
            let begin = format!("{verb} azure {container} eth0");
            text.lines().filter(|line| line.contains(&begin)).collect()
        };
        let [add] = of("ADD")[..] else {
            panic!("{text}")
        };
        assert!(
            add.contains(&format!("default/web: {address}/20, ")) && add.contains(" INFO "),
            "{add}"
        );
        assert!(is_duration(add.rsplit(' ').next().unwrap()), "{add}");
        assert!(
            !of("DEL").is_empty() && of("DEL").iter().all(|del| del.contains(": ok, ")),
            "{text}"
        );
        assert!(!text.contains("xyzzy"), "{text}");
    }
}

/// In whatever unit: machines differ.
fn is_duration(word: &str) -> bool {
    let numbers = ["µs", "ms", "s"].map(|unit| word.strip_suffix(unit));
    let mut numbers = numbers.into_iter().flatten();
    numbers.any(|number| number.parse::<f64>().is_ok())
}

#[test]
fn the_level_works() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = Conflist::shipped().with_setting("azure-vnet", "logLevel", &json!("warn"));
    vm.add_pod(&list, &PodSpec::named("web"))
        .unwrap()
        .delete()
        .unwrap();
    for path in LOGS {
        assert_eq!(read(vm, path).matches(" INFO ").count(), 0);
    }
    // One that there is not costs nothing but a warning.
    let list = Conflist::shipped().with_setting("azure-vnet", "logLevel", &json!("loud"));
    vm.add_pod(&list, &PodSpec::named("db")).unwrap();
    let text = read(vm, LOGS[0]);
    assert!(
        text.contains("logLevel is \"loud\"") && text.contains(" INFO "),
        "{text}"
    );
}

/// The runtime gets the error by the reply, the operator from the log.
#[test]
fn a_failed_call_says_why() {
    let azure = Azure::builder().pool(1).build().unwrap();
    let vm = &azure.vms[0];
    let list = Conflist::shipped();
    let _web = vm.add_pod(&list, &PodSpec::named("web")).unwrap();
    vm.add_pod(&list, &PodSpec::named("db")).unwrap_err();
    for path in LOGS {
        let text = read(vm, path);
        let line = text
            .lines()
            .find(|line| line.contains("default/db"))
            .unwrap();
        assert!(
            line.contains(" ERROR ADD azure ") && line.contains("failed with code "),
            "{text}"
        );
        assert!(line.contains("all 1 pod addresses are in use"), "{line}");
    }
}

/// A node's first ADD does its work beside a firewall that drops what its pod sends, and says so; for later ones STATUS and doctor do.
#[test]
fn an_add_warns_of_a_forward_chain_that_drops() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let iptables = |arguments: &[&str]| {
        let program = vm.program("iptables").unwrap();
        program.args(arguments).checked().unwrap();
    };
    let warned = || read(vm, LOGS[0]).matches("FORWARD chain is DROP").count();
    iptables(&["-P", "FORWARD", "DROP"]);
    for name in ["web", "db"] {
        vm.add_pod(&Conflist::shipped(), &PodSpec::named(name))
            .unwrap();
        assert_eq!(warned(), 1, "{name}");
    }
}
