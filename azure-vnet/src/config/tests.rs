#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use azure_vnet_cni::NetConf;
use serde_json::{Value, json};

use super::*;
use crate::datapath::Wanted;
use crate::masquerade::agent::Settings;
use crate::masquerade::{Action, Packet, Timeouts};

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
    action_with(config, None, destination, 6, 443)
}

fn action_with(
    config: &Config,
    files: Option<&Settings>,
    destination: &str,
    protocol: u8,
    port: u16,
) -> Action {
    let policy = config
        .masquerade
        .policy
        .policy("10.0.0.0/20".parse().unwrap(), files);
    policy.action(&Packet {
        destination: destination.parse().unwrap(),
        protocol,
        port: Some(port),
    })
}

fn problems(masquerade: &Value) -> String {
    let error = Config::read(&conf(&json!({ "masquerade": masquerade }))).unwrap_err();
    assert_eq!(error.code(), 7);
    error.to_string()
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
fn rules_come_before_the_preset() {
    let config =
        |masquerade: Value| Config::read(&conf(&json!({ "masquerade": masquerade }))).unwrap();
    let rules = json!([{"to": "198.51.100.0/24", "action": "exempt"}, {"to": "10.9.0.1", "Action": "drop"}]);
    let added = config(json!({ "rules": rules }));
    assert_eq!(action(&added, "198.51.100.7"), Action::Exempt);
    assert_eq!(action(&added, "10.9.0.1"), Action::Drop);
    assert_eq!(action(&added, "168.63.129.16"), Action::Exempt);
    let alone = config(json!({ "rules": rules, "preset": "none" }));
    assert_eq!(action(&alone, "168.63.129.16"), Action::Masquerade);
    let contrary = config(json!({"rules": [{"to": "168.63.129.16", "action": "masquerade"}]}));
    assert_eq!(action(&contrary, "168.63.129.16"), Action::Masquerade);
    let swift = config(json!({"preset": "swift"}));
    assert_eq!(
        action_with(&swift, None, "168.63.129.16", 17, 53),
        Action::Masquerade
    );
    assert_eq!(action(&swift, "168.63.129.16"), Action::Exempt);
    let locked = config(json!({"preset": "locked"}));
    assert_eq!(
        action_with(&locked, None, "168.63.129.16", 6, 32526),
        Action::Drop
    );
}

#[test]
fn rules_go_by_protocol_and_port() {
    let rules = json!([
        {"to": "203.0.113.0/24", "proto": "TCP", "port": 25, "action": "drop"},
        {"to": "203.0.113.0/24", "port": "8000-8999", "action": "exempt"},
        {"to": "203.0.113.0/24", "proto": 47, "action": "drop"},
        {"to": "203.0.113.0/24", "proto": "icmp", "action": "exempt"},
    ]);
    let config = Config::read(&conf(&json!({"masquerade": {"rules": rules}}))).unwrap();
    for (protocol, port, expected) in [
        (6, 25, Action::Drop),
        (17, 25, Action::Masquerade),
        (6, 8000, Action::Exempt),
        (17, 8999, Action::Exempt),
        (17, 9000, Action::Masquerade),
        (47, 0, Action::Drop),
        (1, 0, Action::Exempt),
    ] {
        let found = action_with(&config, None, "203.0.113.7", protocol, port);
        assert_eq!(found, expected, "{protocol} {port}");
    }
}

#[test]
fn files_replace_defaults_and_unite_with_what_is_said() {
    let files = Settings {
        ranges: vec!["172.16.0.0/12".parse().unwrap()],
        link_local: false,
    };
    let config =
        |masquerade: Value| Config::read(&conf(&json!({ "masquerade": masquerade }))).unwrap();
    let silent = config(json!({}));
    let of = |config: &Config, files: &Settings, destination| {
        action_with(config, Some(files), destination, 6, 443)
    };
    assert_eq!(of(&silent, &files, "172.16.0.1"), Action::InRange);
    assert_eq!(of(&silent, &files, "10.99.0.1"), Action::Masquerade);
    assert_eq!(of(&silent, &files, "169.254.169.254"), Action::InRange);
    // Nothing is exempt, but for the pool's subnet and the preset.
    let empty = Settings::default();
    assert_eq!(of(&silent, &empty, "172.16.0.1"), Action::Masquerade);
    assert_eq!(of(&silent, &empty, "10.0.0.9"), Action::InRange);
    assert_eq!(of(&silent, &empty, "168.63.129.16"), Action::Exempt);
    let said = config(json!({"nonMasqueradeCIDRs": ["192.168.0.0/16"], "masqLinkLocal": true}));
    assert_eq!(of(&said, &files, "192.168.0.1"), Action::InRange);
    assert_eq!(of(&said, &files, "172.16.0.1"), Action::InRange);
    assert_eq!(of(&said, &files, "169.254.169.254"), Action::Masquerade);
}

#[test]
fn all_problems_are_named_by_their_paths() {
    let text = problems(&json!({
        "datapath": "iptables", "preset": "open", "ports": "1-5",
        "nonMasqueradeCIDRs": ["10.0.0.0/33", "10.0.0.0/8", "10.0.0.1/8", 7],
        "rules": [
            {"to": "x", "action": "allow", "proto": "sctp", "port": "9-3"},
            {"port": 80},
            {"to": "10.0.0.0/8", "action": "drop", "proto": "icmp", "port": 80},
            {"to": "10.0.0.0/8", "action": "drop", "prot": "tcp"},
            {"to": "10.0.0.0/8", "action": "drop", "proto": 256, "port": 65536},
            7,
        ],
    }));
    for path in [
        "masquerade.datapath: \"iptables\"",
        "masquerade.preset: \"open\"",
        "masquerade.ports: \"1-5\"",
        "masquerade.nonMasqueradeCIDRs[0]: \"10.0.0.0/33\"",
        "masquerade.nonMasqueradeCIDRs[2]: \"10.0.0.1/8\"",
        "masquerade.nonMasqueradeCIDRs[3]: 7",
        "masquerade.rules[0].to: \"x\"",
        "masquerade.rules[0].action: \"allow\"",
        "masquerade.rules[0].proto: \"sctp\"",
        "masquerade.rules[0].port: \"9-3\"",
        "masquerade.rules[1].to: missing",
        "masquerade.rules[1].action: missing",
        "masquerade.rules[2].port: only",
        "masquerade.rules[3].prot: ",
        "masquerade.rules[4].proto: 256",
        "masquerade.rules[4].port: 65536",
        "masquerade.rules[5]: 7",
    ] {
        assert!(text.contains(path), "{path} is not in: {text}");
    }
    assert!(!text.contains("nonMasqueradeCIDRs[1]"), "{text}");
    assert!(problems(&json!({"rules": {}})).contains("masquerade.rules: {} is not a list"));
}

#[test]
fn timeouts_are_the_default_but_for_those_that_are_said() {
    let read = |timeouts: Value| {
        let conf = conf(&json!({"masquerade": {"timeouts": timeouts}}));
        Config::read(&conf).unwrap().masquerade.timeouts
    };
    let default = Timeouts::default();
    assert_eq!(read(json!({})), default);
    let said = read(json!({"tcpEstablished": 432_000, "TCPOpening": 5, "udp": 300, "icmp": null}));
    let expected = Timeouts {
        tcp_established: 432_000,
        tcp_opening: 5,
        udp: 300,
        ..default
    };
    assert_eq!(said, expected);
    assert_eq!(read(json!({"tcpClosing": 60})).tcp_closing, 60);
    assert_eq!(read(json!({"icmp": 61})).icmp, 61);

    let text = problems(&json!({"timeouts": {
        "udp": 4, "icmp": 432_001, "tcpOpening": "120", "tcpClosing": 1.5, "tcpEstablished": -1, "sctp": 9,
    }}));
    for path in [
        "masquerade.timeouts.udp: 4 is not a number of seconds from 5 to 432000",
        "masquerade.timeouts.icmp: 432001 ",
        "masquerade.timeouts.tcpOpening: \"120\" ",
        "masquerade.timeouts.tcpClosing: 1.5 ",
        "masquerade.timeouts.tcpEstablished: -1 ",
        "masquerade.timeouts.sctp: known are ",
    ] {
        assert!(text.contains(path), "{path} is not in: {text}");
    }
    assert!(
        problems(&json!({"timeouts": 60})).contains("masquerade.timeouts: 60 is not an object")
    );
}

#[test]
fn the_flows_of_a_pod_are_half_of_all_unless_said() {
    let read = |masquerade: Value| {
        let conf = conf(&json!({ "masquerade": masquerade }));
        Config::read(&conf).unwrap().masquerade.flows_per_pod
    };
    assert_eq!(read(json!({})), 131_072);
    for number in [1, 5000, 262_144] {
        assert_eq!(read(json!({ "flowsPerPod": number })), number);
    }
    for wrong in [
        json!(0),
        json!(-1),
        json!(262_145),
        json!(1.5),
        json!("5000"),
    ] {
        let text = problems(&json!({ "flowsPerPod": wrong }));
        let expected = format!("masquerade.flowsPerPod: {wrong} is not a number from 1 to 262144");
        assert!(text.contains(&expected), "{expected} is not in: {text}");
    }
}

#[test]
fn a_policy_that_the_kernels_maps_do_not_hold_is_refused() {
    // Each prefix inherits what is said around it.
    let nested = |n: u32| {
        let (to, port) = (format!("128.0.0.0/{}", n / 4 + 1), 500 * n + 1);
        json!({"to": to, "port": format!("{port}-{}", port + 498), "action": "drop"})
    };
    let rules: Vec<Value> = (0..120).map(nested).collect();
    assert!(problems(&json!({ "rules": rules })).contains("the kernel's map"));
    let rules: Vec<Value> = (1..=300)
        .map(|n| json!({"to": format!("203.0.{}.{}", n / 256, n % 256), "action": "drop"}))
        .collect();
    assert!(problems(&json!({ "rules": rules })).contains("masquerade.rules: 301 entries"));
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

/// As the specification writes them, and as containerd does; what is wrong with one is portmap's to say.
#[test]
fn host_ports_are_those_of_the_runtime() {
    let ports = |mappings: Value| {
        let conf = conf(&json!({"runtimeConfig": {"portMappings": mappings}}));
        Config::read(&conf).unwrap().host_ports
    };
    let mappings = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"HostPort": 20_000, "ContainerPort": 81, "Protocol": "udp", "HostIP": ""},
        {"hostPort": 8080, "containerPort": 80, "protocol": "udp"},
        {"hostPort": 0, "containerPort": 82},
        {"hostPort": 70_000}, {"hostPort": "80"}, {"containerPort": 1}, 7,
    ]);
    assert_eq!(ports(mappings), [8080, 20_000]);
    assert!(ports(json!("none")).is_empty() && ports(Value::Null).is_empty());
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

#[test]
fn texts_and_lists_have_limits() {
    let long = "a".repeat(256);
    for (extra, what) in [
        (
            json!({"ipam": {"type": long}}),
            "\"ipam.type\" has a text of more than 255 bytes",
        ),
        (
            json!({"dns": {"domain": long}}),
            "\"dns\" has a text of more than 255 bytes",
        ),
        (
            json!({"runtimeConfig": {"dns": {"searches": [long]}}}),
            "\"dns\" has a text of more than 255 bytes",
        ),
        (
            json!({"dns": {"search": vec!["a"; 65]}}),
            "\"dns\" has a list of more than 64 entries",
        ),
    ] {
        let error = Config::read(&conf(&extra)).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (7, what));
    }
}
