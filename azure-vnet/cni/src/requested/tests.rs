#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::json;

use super::*;
use crate::args::Args;

fn add(members: &Value, args: &str) -> Add {
    let mut conf = json!({"cniVersion": "1.0.0", "name": "n1"});
    let object = conf.as_object_mut().unwrap();
    object.extend(members.as_object().unwrap().clone());
    Add {
        container_id: "c1".into(),
        netns: "/run/netns/c1".into(),
        ifname: "eth0".into(),
        args: Args::parse(args).unwrap(),
        path: String::new(),
        conf: conf.to_string().parse().unwrap(),
    }
}

#[test]
fn the_more_modern_place_wins() {
    let runtime = json!({"ips": ["10.0.0.5/24"], "mac": "c2:11:22:33:44:05"});
    let cni = json!({"IPs": ["10.0.0.6"], "Mac": "C2-11-22-33-44-06"});
    let args = "IP=10.0.0.7;MAC=c2:11:22:33:44:07;K8S_POD_NAME=web";
    for (members, args, expected) in [
        (
            json!({"RuntimeConfig": runtime, "args": {"cni": cni}}),
            args,
            Some((5, "runtimeConfig")),
        ),
        (
            json!({"runtimeConfig": {"ips": [], "mac": ""}, "args": {"CNI": cni}}),
            args,
            Some((6, "args.cni")),
        ),
        (
            json!({"runtimeConfig": null, "args": {"cni": {"ips": null}}}),
            args,
            Some((7, "CNI_ARGS")),
        ),
        (
            json!({"args": ["of", "another", "plugin"]}),
            "IP=;MAC=",
            None,
        ),
        (json!({}), "", None),
    ] {
        let add = add(&members, args);
        let (ips, mac) = (add.requested_ips().unwrap(), add.requested_mac().unwrap());
        let Some((last, place)) = expected else {
            assert_eq!((ips, mac), (None, None), "{members}");
            continue;
        };
        let (ips, mac) = (ips.unwrap(), mac.unwrap());
        assert_eq!(ips.value, [IpAddr::from([10, 0, 0, last])], "{members}");
        assert_eq!(mac.value, [0xc2, 0x11, 0x22, 0x33, 0x44, last], "{members}");
        assert!(ips.by.starts_with(place) && mac.by.starts_with(place));
    }
}

#[test]
fn several_addresses_of_both_families() {
    let members = json!({"runtimeConfig": {"ips": ["10.2.2.42/24", "2001:db8::5"]}});
    let requested = add(&members, "").requested_ips().unwrap().unwrap();
    assert_eq!(requested.value.len(), 2);
}

#[test]
fn nonsense_is_named_with_its_place() {
    for wrong in [
        json!("10.0.0.5"),
        json!(["x"]),
        json!([5]),
        json!({}),
        json!([null]),
    ] {
        for place in ["runtimeConfig", "args"] {
            let members = match place {
                "args" => json!({"args": {"cni": {"ips": wrong}}}),
                _ => json!({"runtimeConfig": {"ips": wrong}}),
            };
            let error = add(&members, "").requested_ips().unwrap_err();
            assert_eq!(error.code, 7, "{wrong}");
            assert!(error.msg.starts_with(place) && error.msg.contains(&wrong.to_string()));
        }
    }
    let error = add(&json!({}), "IP=10.0.0").requested_ips().unwrap_err();
    assert!(error.code == 4 && error.msg.contains("CNI_ARGS IP \"10.0.0\""));
}

#[test]
fn only_addresses_that_an_interface_can_have() {
    for wrong in [
        "c2:11:22:33:44",
        "c2:11:22:33:44:55:66",
        "c2:11:22:33:44:5g",
        "c2:11:22:33:44:+5",
        "c21:1:22:33:44:55",
        "00:00:00:00:00:00",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "c2-11:22:33:44:55",
        "é",
    ] {
        let error = add(&json!({"runtimeConfig": {"mac": wrong}}), "").requested_mac();
        assert_eq!(error.unwrap_err().code, 7, "{wrong}");
        let error = add(&json!({}), &format!("MAC={wrong}")).requested_mac();
        assert_eq!(error.unwrap_err().code, 4, "{wrong}");
    }
    let error = add(&json!({"runtimeConfig": {"mac": 7}}), "").requested_mac();
    assert_eq!(error.unwrap_err().code, 7);
}
