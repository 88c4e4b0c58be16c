//! `azure-vnet monitor`.

use std::time::Duration;

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::{Azure, PLUGIN_DIR};
use serde_json::{Value, json};

use crate::scene::{connect, pods, run};

/// The watcher ends itself after the events that are waited for, so the packets that cause them are repeated until
/// then.
#[test]
fn a_new_flow_and_a_drop_are_told() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let [web, _db] = pods(&azure, "ebpf");
    let watch = |arguments: &[&str], cause: &(dyn Fn() + Sync)| -> String {
        std::thread::scope(|scope| {
            let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
            let plugin =
                plugin.args(["monitor", "--pod", "web", "--seconds", "30", "--count", "1"]);
            let plugin = plugin.args(arguments).limit(Duration::from_secs(40));
            let watcher = scope.spawn(|| plugin.checked().unwrap());
            while !watcher.is_finished() {
                cause();
                std::thread::sleep(Duration::from_millis(50));
            }
            watcher.join().unwrap()
        })
    };
    let ports = std::sync::atomic::AtomicU16::new(20000);
    let told = watch(&["--json"], &|| {
        let port = ports.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        drop(connect(&azure, &web, port, (INTERNET[0], 8443)));
    });
    let told: Value = serde_json::from_str(&told).unwrap();
    let expected = json!({
        "bridge": "azure0", "reason": "flow_created", "dropped": false, "pod": "10.0.0.5", "name": "default/web",
        "protocol": "tcp", "source": "10.0.0.4", "destination": "203.0.113.10", "destination_port": 8443,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(told[key], *value, "{key} of {told}");
    }

    let to_nobody = || {
        let multicast = std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(239, 1, 2, 3), 5000);
        let sent = web.namespace().run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:20100")?;
            socket.send_to(b"!", multicast)
        });
        sent.unwrap().unwrap();
    };
    let told = watch(&["--json", "--drops"], &to_nobody);
    let dropped: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&dropped["reason"], &dropped["dropped"]),
        (&json!("to_group"), &json!(true))
    );
    assert_eq!(
        (&dropped["source"], &dropped["source_port"]),
        (&json!("10.0.0.5"), &json!(20100))
    );
    // For people: the time of day, then the same.
    let told = watch(&["--drops"], &to_nobody);
    let (time, rest) = told.split_at(8);
    assert!(
        time.bytes().filter(|byte| *byte == b':').count() == 2,
        "{told}"
    );
    assert_eq!(
        rest,
        " DROP to_group default/web udp 10.0.0.5:20100 -> 239.1.2.3:5000\n"
    );
}

#[test]
fn the_netfilter_tier_has_no_events() {
    let azure = Azure::builder().build().unwrap();
    let _pods = pods(&azure, "netfilter");
    let output = run(&azure.vms[0], &["monitor", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(output.stderr.contains("eBPF tier"), "{output:?}");
}
