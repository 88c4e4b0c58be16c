//! `azure-vnet flows`.

use std::time::Duration;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;

use crate::golden::assert_golden;
use crate::scene::{Connection, pods, run, transcript};

#[test]
fn in_every_form() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let [web, db] = pods(&azure, tier);
        let _open = [
            Connection::open(&azure, &web, 20000, (INTERNET[0], 8443)),
            Connection::open(&azure, &web, 20001, (INTERNET[0], 8443)),
            Connection::open(&azure, &db, 20002, (INTERNET[0], 8443)),
            Connection::open(&azure, &db, 20003, (INTERNET[1], 8443)),
        ];
        drop(Connection::open(&azure, &db, 20004, (INTERNET[2], 9000)));
        let web_address = web.address.to_string();
        let commands: [&[&str]; 10] = [
            &["flows"],
            &["flows", "--pod", "web"],
            &["flows", "--pod", "default/db", "--state", "established"],
            &["flows", "--pod", &web_address],
            &["flows", "--to", "203.0.113.11"],
            &["flows", "--to", "198.51.100.0/24", "--proto", "tcp"],
            &["flows", "--port", "9000"],
            &["flows", "--proto", "udp"],
            &["flows", "--count"],
            &["flows", "--top", "2"],
        ];
        assert_golden(&format!("flows-{tier}.txt"), &transcript(vm, &commands));
        let commands: [&[&str]; 3] = [
            &["flows", "--to", "203.0.113.11", "--json"],
            &["flows", "--count", "--json"],
            &["flows", "--top", "1", "--json"],
        ];
        assert_golden(&format!("flows-{tier}.json"), &transcript(vm, &commands));
    }
}

#[test]
fn a_pod_that_nobody_knows_is_an_error() {
    let azure = Azure::builder().build().unwrap();
    let _pods = pods(&azure, "ebpf");
    let output = run(&azure.vms[0], &["flows", "--pod", "nobody"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.contains("\"nobody\""),
        "{output:?}"
    );
}

/// It prints again until it is stopped.
#[test]
fn watching_goes_on() {
    let azure = Azure::builder().build().unwrap();
    let _pods = pods(&azure, "ebpf");
    let plugin = format!("{}/azure-vnet", azure_vnet_testbed::PLUGIN_DIR);
    // `head` ends with the second document, and the command with its reader.
    let script = format!("{plugin} flows --json --watch 1 | head -n 2");
    let shell = azure.vms[0].program("sh").unwrap();
    let text = shell
        .args(["-c", &script])
        .limit(Duration::from_secs(30))
        .checked()
        .unwrap();
    assert_eq!(text, "{\"flows\":[]}\n{\"flows\":[]}\n");
}
