#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use azure_vnet_cni::NetConf;
use serde_json::{Value, json};

use super::*;

fn conf(extra: &Value) -> NetConf {
    let mut object = json!({
        "cniVersion": "0.3.0", "name": "azure", "type": "azure-vnet", "ipam": {"type": "azure-vnet-ipam"}
    });
    object
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    object.to_string().parse().unwrap()
}

fn action(config: &Config, destination: &str) -> Action {
    config
        .masquerade
        .policy("10.0.0.0/20".parse().unwrap())
        .action(destination.parse().unwrap())
}

#[test]
fn shipped_configuration_needs_no_edit() {
    let list: Value =
        serde_json::from_str(include_str!("../../../conf/10-azure.conflist")).unwrap();
    let config = Config::read(&conf(&list["plugins"][0])).unwrap();
    assert_eq!(config.bridge.as_deref(), Some("azure0"));
    assert_eq!(config.ipam, "azure-vnet-ipam");
    assert_eq!(config.masquerade.datapath, Wanted::Auto);
    assert_eq!(action(&config, "168.63.129.16"), Action::Exempt);
    assert_eq!(action(&config, "203.0.113.1"), Action::Masquerade);
}

#[test]
fn keys_match_in_any_case() {
    let config = Config::read(&conf(&json!({
        "Bridge": "br7", "MASTER": "eth1", "Masquerade": {"DataPath": "netfilter", "nonmasqueradecidrs": ["192.168.0.0/16"], "masqlinklocal": false}
    })))
    .unwrap();
    assert_eq!(config.bridge.as_deref(), Some("br7"));
    assert_eq!(config.master.as_deref(), Some("eth1"));
    assert_eq!(config.masquerade.datapath, Wanted::Netfilter);
    assert_eq!(action(&config, "192.168.1.1"), Action::InRange);
    assert_eq!(action(&config, "169.254.169.254"), Action::InRange);
    assert_eq!(action(&config, "10.77.0.1"), Action::Masquerade);
}

#[test]
fn off_masquerades_nothing() {
    let config = Config::read(&conf(&json!({"masquerade": {"datapath": "off"}}))).unwrap();
    assert_eq!(action(&config, "203.0.113.1"), Action::Exempt);
}

#[test]
fn rules_replace_the_default_exemption() {
    let config = Config::read(&conf(&json!({"masquerade": {"rules": [
        {"to": "198.51.100.0/24", "action": "exempt"}, {"to": "10.9.0.1", "action": "drop"}]}})))
    .unwrap();
    assert_eq!(action(&config, "198.51.100.7"), Action::Exempt);
    assert_eq!(action(&config, "10.9.0.1"), Action::Drop);
    assert_eq!(action(&config, "168.63.129.16"), Action::Masquerade);
}

#[test]
fn every_error_names_key_and_value() {
    let table = [
        (json!({"mode": "transparent"}), "transparent"),
        (json!({"mode": 3}), "mode"),
        (json!({"ipam": {}}), "ipam"),
        (json!({"ipam": {"type": ""}}), "ipam"),
        (json!({"bridge": "a b"}), "a b"),
        (json!({"bridge": "sixteencharacter"}), "sixteencharacter"),
        (json!({"master": "eth0:1"}), "eth0:1"),
        (json!({"masquerade": {"datapath": "iptables"}}), "iptables"),
        (
            json!({"masquerade": {"nonMasqueradeCIDRs": ["10.0.0.0/33"]}}),
            "10.0.0.0/33",
        ),
        (
            json!({"masquerade": {"rules": [{"to": "1.2.3.4", "action": "allow"}]}}),
            "allow",
        ),
        (
            json!({"masquerade": {"rules": [{"to": "x", "action": "drop"}]}}),
            "\"x\"",
        ),
        (
            json!({"masquerade": {"rules": [{"to": "1.2.3.4", "action": "drop", "port": 80}]}}),
            "port",
        ),
        (json!({"masquerade": {"ports": "1-5"}}), "1-5"),
    ];
    for (extra, names) in table {
        let error = Config::read(&conf(&extra)).unwrap_err().to_string();
        assert!(error.contains(names), "{extra}: {error}");
    }
}

#[test]
fn keys_that_would_isolate_pods_are_refused_by_name_and_value() {
    for (extra, names) in [
        (json!({"vlan": 100}), ["vlan", "100"]),
        (json!({"vlanTrunk": [{"id": 7}]}), ["vlanTrunk", "7"]),
        (json!({"MacSpoofChk": true}), ["macspoofchk", "true"]),
        (json!({"portIsolation": "yes"}), ["portIsolation", "yes"]),
    ] {
        let error = Config::read(&conf(&extra)).unwrap_err();
        assert_eq!(error.code(), 2);
        let text = error.to_string();
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
    }
    let unset = json!({"vlan": 0, "vlanTrunk": [], "macspoofchk": false, "promiscMode": null});
    assert!(Config::read(&conf(&unset)).is_ok());
}

#[test]
fn mac_of_the_runtime_comes_first() {
    let (runtime, args) = ("0a:00:00:00:00:01", "0a:00:00:00:00:02");
    let mac = |extra: &Value| Config::read(&conf(extra)).map(|config| config.mac);
    let both = json!({"runtimeConfig": {"Mac": runtime}, "args": {"cni": {"mac": args}, "x": 7}});
    assert_eq!(mac(&both).unwrap(), Some(runtime.parse().unwrap()));
    let one = json!({"runtimeConfig": {"mac": ""}, "args": {"cni": {"MAC": args}}});
    assert_eq!(mac(&one).unwrap(), Some(args.parse().unwrap()));
    for none in [
        json!({}),
        json!({"args": 7}),
        json!({"args": {"cni": [args]}}),
    ] {
        assert_eq!(mac(&none).unwrap(), None, "{none}");
    }
    for wrong in [
        json!("x"),
        json!(7),
        json!("01:00:5e:00:00:01"),
        json!("00:00:00:00:00:00"),
    ] {
        let error = mac(&json!({"runtimeConfig": {"mac": wrong}})).unwrap_err();
        let value = wrong.to_string();
        assert!(
            error.code() == 7 && error.to_string().contains(&value),
            "{error}"
        );
    }
}

#[test]
fn dns_of_the_runtime_comes_first() {
    let own = json!({"nameservers": ["10.0.0.10"]});
    let config = Config::read(&conf(&json!({"dns": own}))).unwrap();
    assert_eq!(config.dns.unwrap().nameservers, ["10.0.0.10"]);
    let runtime = json!({"Servers": ["10.0.0.11"], "Searches": ["a"], "Options": ["ndots:5"]});
    let both = json!({"dns": own, "runtimeConfig": {"dns": runtime}});
    let dns = Config::read(&conf(&both)).unwrap().dns.unwrap();
    assert_eq!(
        (dns.nameservers, dns.search),
        (vec!["10.0.0.11".to_owned()], vec!["a".to_owned()])
    );
}
