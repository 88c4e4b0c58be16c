//! `azure-vnet top`, one page of it.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;

use crate::golden::assert_fits;
use crate::scene::{connect, json_of, pods, printed};

#[test]
fn a_page_has_pods_flows_drops_ports_and_pool() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let [web, _db] = pods(&azure, tier);
        let _open = [20000, 20001].map(|port| connect(&azure, &web, port, (INTERNET[0], 8443)));
        let page = json_of(vm, 0, &["top", "--once", "--interval", "1"]);
        let is_ebpf = tier == "ebpf";
        let bridge = &page["bridges"][0];
        assert_eq!(
            (&bridge["bridge"], &bridge["flows"]),
            (&"azure0".into(), &2.into()),
            "{page}"
        );
        assert_eq!(bridge["table_percent"].is_u64(), is_ebpf, "{page}");
        let pool = &page["pool"][0];
        assert_eq!(
            (&pool["in_use"], &pool["free"]),
            (&2.into(), &38.into()),
            "{page}"
        );
        let rows = page["pods"].as_array().unwrap();
        let row = rows
            .iter()
            .find(|row| row["name"] == "default/web")
            .unwrap();
        assert_eq!(
            (&row["address"], &row["flows"]),
            (&"10.0.0.5".into(), &2.into())
        );
        assert!(row["sent"].is_u64() && row["packets"].is_u64(), "{row}");
        assert_eq!(row["share_percent"].is_u64(), is_ebpf, "{row}");
        let destination = &page["destinations"][0];
        assert_eq!(
            (
                &destination["remote"],
                &destination["remote_port"],
                &destination["flows"]
            ),
            (&"203.0.113.10".into(), &8443.into(), &2.into())
        );
        assert_eq!(destination["ports_percent"].is_u64(), is_ebpf, "{page}");

        let text = printed(vm, 0, &["top", "--once", "--interval", "1"]);
        assert_fits(&text);
        for part in [
            "azure0: ",
            "pool 10.0.0.0/20: 2 addresses in use, 38 free",
            "default/db",
            "tcp 203.0.113.10:8443",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

/// A pod that sends has a rate.
#[test]
fn who_sends_is_first() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let [_web, db] = pods(&azure, "ebpf");
    let bind = || UdpSocket::bind("0.0.0.0:20000");
    let socket = db.namespace().run(bind).unwrap().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = socket.send_to(&[0; 1000], (INTERNET[0], 9));
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let end = Instant::now() + Duration::from_mins(1);
        let page = loop {
            let page = json_of(vm, 0, &["top", "--interval", "1"]);
            let first = &page["pods"][0];
            let sends = first["sent"].as_u64().is_some_and(|sent| sent > 0);
            if (first["name"] == "default/db" && sends) || Instant::now() > end {
                break page;
            }
        };
        done.store(true, Ordering::Relaxed);
        assert_eq!(page["pods"][0]["name"], "default/db", "{page}");
        assert!(page["pods"][0]["sent"].as_u64().unwrap() > 0, "{page}");
    });
}
