#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn bridge_result() -> Success {
    Success {
        interfaces: vec![
            Interface {
                name: "br1".into(),
                mac: "00:0d:3a:11:22:33".into(),
                ..Interface::default()
            },
            Interface {
                name: "eth0".into(),
                mac: "aa:bb:cc:dd:ee:ff".into(),
                sandbox: Some("/run/netns/c1".into()),
                mtu: Some(1500),
                ..Interface::default()
            },
        ],
        ips: vec![Ip {
            address: "10.9.0.2/24".parse().unwrap(),
            gateway: Some("10.9.0.1".parse().unwrap()),
            interface: Some(1),
        }],
        routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), None)],
        dns: Dns::default(),
        nic: None,
    }
}

fn dual_stack() -> Success {
    let mut result = bridge_result();
    result.ips.push(Ip {
        address: "10.9.0.3/24".parse().unwrap(),
        gateway: None,
        interface: Some(0),
    });
    result.ips.push(Ip {
        address: "fd00::2/64".parse().unwrap(),
        gateway: Some("fd00::1".parse().unwrap()),
        interface: Some(1),
    });
    result.routes.push(Route::new(
        "::/0".parse().unwrap(),
        Some("fd00::1".parse().unwrap()),
    ));
    result
}

/// The canonical shapes of every family of versions.
#[test]
fn every_version_has_its_shape() {
    let per_family = |version: &str| {
        json!({"cniVersion": version, "ip4": {"ip": "10.9.0.2/24", "gateway": "10.9.0.1",
               "routes": [{"dst": "0.0.0.0/0"}]}, "dns": {}})
    };
    let lists = |version: &str, family: bool, mtu: bool, dns: bool| {
        let mut value = json!({"cniVersion": version,
            "interfaces": [{"name": "br1", "mac": "00:0d:3a:11:22:33"},
                {"name": "eth0", "mac": "aa:bb:cc:dd:ee:ff", "sandbox": "/run/netns/c1"}],
            "ips": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0"}]});
        if family {
            value["ips"][0]["version"] = json!("4");
        }
        if mtu {
            value["interfaces"][1]["mtu"] = json!(1500);
        }
        if dns {
            value["dns"] = json!({});
        }
        value
    };
    for (version, expected) in [
        (Version::V0_1_0, per_family("0.1.0")),
        (Version::V0_2_0, per_family("0.2.0")),
        (Version::V0_3_0, lists("0.3.0", true, false, true)),
        (Version::V0_3_1, lists("0.3.1", true, false, true)),
        (Version::V0_4_0, lists("0.4.0", true, false, true)),
        (Version::V1_0_0, lists("1.0.0", false, false, false)),
        (Version::V1_1_0, lists("1.1.0", false, true, false)),
    ] {
        assert_eq!(bridge_result().to_json(version).unwrap(), expected);
    }
}

#[test]
fn what_a_version_can_say_survives_a_round_trip() {
    for version in SUPPORTED {
        let written = dual_stack().to_json(version).unwrap();
        let read = Success::from_json(&written, Version::V0_1_0).unwrap();
        assert_eq!(read.to_json(version).unwrap(), written, "{version}");
    }
    let whole = dual_stack().to_json(Version::V1_1_0).unwrap();
    assert_eq!(
        Success::from_json(&whole, Version::V0_1_0).unwrap(),
        dual_stack()
    );
}

#[test]
fn the_oldest_form_keeps_the_first_address_of_each_family() {
    let written = dual_stack().to_json(Version::V0_2_0).unwrap();
    assert_eq!(written["ip4"]["ip"], "10.9.0.2/24");
    assert_eq!(
        written["ip6"],
        json!({"ip": "fd00::2/64", "gateway": "fd00::1",
               "routes": [{"dst": "::/0", "gw": "fd00::1"}]})
    );
    assert!(Success::default().to_json(Version::V0_2_0).is_err());
    assert!(Success::default().to_json(Version::V0_3_0).is_ok());
}

#[test]
fn index_zero_stays_and_no_index_stays_none() {
    let json = json!({"cniVersion": "0.3.1", "ips": [
        {"version": "4", "address": "10.0.0.1/24", "interface": 0},
        {"version": "4", "address": "10.0.0.2/24", "interface": -1},
        {"version": "4", "address": "10.0.0.3/24", "interface": null},
        {"version": "4", "address": "10.0.0.4/24"}]});
    let result = Success::from_json(&json, Version::V0_3_0).unwrap();
    let indexes: Vec<_> = result.ips.iter().map(|ip| ip.interface).collect();
    assert_eq!(indexes, [Some(0), None, None, None]);
    let written = result.to_json(Version::V0_3_1).unwrap();
    assert_eq!(written["ips"][0]["interface"], 0);
    assert_eq!(written["ips"][3].get("interface"), None);
}

/// Delegates answer in versions and forms of their own; all of these mean 10.0.0.5/24 via 10.0.0.1.
#[test]
fn foreign_forms_are_understood() {
    for json in [
        json!({"ips": [{"version": "4", "address": "10.0.0.5/24", "gateway": "10.0.0.1"}]}),
        json!({"cniVersion": "", "ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}]}),
        json!({"cniVersion": "0.3.0", "ip": [{"version": "4", "address": "10.0.0.5/24", "gateway": "10.0.0.1"}]}),
        json!({"cniVersion": "0.3.1", "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1"}, "dns": {}}),
        json!({"cniVersion": "0.3.1", "ips": [{"version": "6", "address": "10.0.0.5/24", "gateway": "10.0.0.1"}]}),
        json!({"cniVersion": "1.1.0", "interfaces": null, "routes": null, "dns": null,
               "ips": [{"Address": "10.0.0.5/24", "GATEWAY": "10.0.0.1"}]}),
        json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1", "routes": null}, "ip6": null}),
    ] {
        let result = Success::from_json(&json, Version::V0_3_1).unwrap();
        let expected = Ip {
            address: "10.0.0.5/24".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            interface: None,
        };
        assert_eq!(result.ips, [expected], "{json}");
        let written = result.to_json(Version::V0_3_1).unwrap();
        assert_eq!(written["ips"][0]["version"], "4", "{json}");
    }
}

#[test]
fn empty_strings_of_go_are_none_and_nonsense_is_an_error() {
    let json = json!({"ips": [{"address": "10.0.0.5/24", "gateway": ""}],
                      "routes": [{"dst": "0.0.0.0/0", "gw": ""}],
                      "interfaces": [{"name": "eth0", "sandbox": ""}]});
    let result = Success::from_json(&json, Version::V0_3_1).unwrap();
    assert_eq!(result.ips[0].gateway, None);
    assert_eq!(result.routes[0].gw, None);
    assert_eq!(result.interfaces[0].sandbox, None);
    for json in [
        json!({"cniVersion": "9.0.0", "ips": []}),
        json!({"ips": [{"address": "10.0.0.5"}]}),
        json!({"ips": [{"address": "10.0.0.5/24", "gateway": "x"}]}),
        json!({"routes": [{"gw": "10.0.0.1"}]}),
        json!({"routes": [{"dst": "x"}]}),
        json!({"routes": [{"dst": "0.0.0.0/0", "gw": 7}]}),
        json!([]),
        json!("text"),
    ] {
        assert!(
            Success::from_json(&json, Version::V0_3_1).is_err(),
            "{json}"
        );
    }
}

#[test]
fn attributes_of_routes_are_passed_through() {
    let json = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.5/24"}],
                      "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "table": 7}]});
    let result = Success::from_json(&json, Version::V1_1_0).unwrap();
    let written = result.to_json(Version::V0_3_1).unwrap();
    assert_eq!(written["routes"], json["routes"]);
}

#[test]
fn version_replies() {
    let supported = [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ];
    assert_eq!(
        version_reply(Version::V0_3_0),
        json!({"cniVersion": "0.3.0", "supportedVersions": supported})
    );
}

#[test]
fn the_nic_of_an_address_survives_every_version() {
    let mut result = bridge_result();
    result.nic = Some("00:0d:3a:11:22:33".into());
    for version in SUPPORTED {
        let printed = result.to_json(version).unwrap();
        assert_eq!(printed["azure-vnet/nic"], "00:0d:3a:11:22:33");
        let read = Success::from_json(&printed, version).unwrap();
        assert_eq!(read.nic, result.nic);
    }
    assert!(
        bridge_result()
            .to_json(Version::NEWEST)
            .unwrap()
            .get("azure-vnet/nic")
            .is_none()
    );
}
