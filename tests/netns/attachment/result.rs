//! The result of an ADD against the kernel.

use azure_vnet_testbed::namespace::Namespace;
use serde_json::{Value, json};

use crate::fixture::{Node, TIERS, Tier, address, ip};

#[test]
fn result_is_what_the_kernel_has() {
    for tier in TIERS {
        let node = Node::new(tier);
        let before = ip(node.vm().namespace(), "link show eth0")[0].clone();
        let routes_before = routes(node.vm().namespace());
        let container = node.container();
        let result = container.add();
        assert_eq!(result["cniVersion"], "1.1.0");

        let interfaces = result["interfaces"].as_array().unwrap();
        let names: Vec<_> = interfaces
            .iter()
            .map(|interface| interface["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["azure0", &container.host_veth(), "eth0"]);
        assert!(interfaces[0].get("sandbox").is_none() && interfaces[1].get("sandbox").is_none());
        assert_eq!(interfaces[2]["sandbox"], container.netns);
        let (host, pod) = (node.vm().namespace(), container.namespace());
        for (interface, namespace) in interfaces.iter().zip([host, host, pod]) {
            let link = &ip(
                namespace,
                &format!("link show {}", interface["name"].as_str().unwrap()),
            )[0];
            assert_eq!(
                (&interface["mac"], &interface["mtu"]),
                (&link["address"], &link["mtu"]),
                "{link}"
            );
            assert_eq!(link["mtu"], 3900);
            assert!(has_flag(link, "UP"), "{link}");
        }

        let veth = &ip(host, &format!("-d link show {}", container.host_veth()))[0];
        assert_eq!(veth["inet6_addr_gen_mode"], "none", "{veth}");
        let eth0 = &ip(host, "link show eth0")[0];
        let bridge = &ip(host, "link show azure0")[0];
        assert_eq!(veth["master"], "azure0");
        assert_eq!(eth0, &before, "the NIC is its manager's");
        assert_eq!(bridge["address"], "12:34:56:78:9a:bc");
        assert_eq!(
            addresses(host, "eth0"),
            [format!("{}/20", node.vm().nic.primary)]
        );
        assert_eq!(addresses(host, "azure0"), ["169.254.73.1/32"]);
        let routes = routes(host).into_iter();
        let is_ours = |route: &Value| route["protocol"] == "97" || route["dst"] == "169.254.73.1";
        let of_others: Vec<_> = routes.filter(|route| !is_ours(route)).collect();
        assert_eq!(of_others, routes_before);

        let ips = &result["ips"];
        assert_eq!(ips[0]["interface"], 2);
        assert_eq!(ips[0]["gateway"], "10.0.0.1");
        assert!(ips[0].get("version").is_none());
        assert_eq!(
            addresses(pod, "eth0"),
            [ips[0]["address"].as_str().unwrap()]
        );
        assert!(has_flag(&ip(pod, "link show lo")[0], "UP"));
        assert_eq!(
            result["routes"],
            json!([{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }])
        );
        let default = &ip(pod, "route show default")[0];
        assert_eq!(
            (&default["gateway"], &default["dev"]),
            (&json!("10.0.0.1"), &json!("eth0"))
        );
        assert!(default.get("metric").is_none(), "{default}");
        assert_eq!(result["dns"]["nameservers"], json!(["168.63.129.16"]));
        container.del().ok();
    }
}

#[test]
fn mac_of_the_runtime_comes_before_that_of_args_and_of_cni_args() {
    let node = Node::new(Tier::Tcx);
    let (runtime, args, variable) = (
        "0a:00:00:00:00:01",
        "0a:00:00:00:00:02",
        "0a:00:00:00:00:03",
    );
    let in_args = json!({ "cni": { "mac": args } });
    for (extra, mac) in [
        (
            json!({ "args": in_args, "RuntimeConfig": { "Mac": runtime } }),
            runtime,
        ),
        (json!({ "args": in_args }), args),
        (json!({}), variable),
    ] {
        let container = node.container();
        let result = container
            .call_with_args("ADD", &format!("IgnoreUnknown=1;MAC={variable}"), &extra)
            .result();
        assert_eq!(result["interfaces"][2]["mac"], mac);
        assert_eq!(
            ip(container.namespace(), "link show eth0")[0]["address"],
            mac
        );
        container.check(&result).ok();
        container.del().ok();
    }
    let container = node.container();
    let (code, text) = container
        .call_with_args("ADD", "IgnoreUnknown=1;MAC=01:00:5e:00:00:01", &json!({}))
        .error();
    assert!(code == 4 && text.contains("CNI_ARGS"), "{text}");
    let (code, text) = container
        .call("ADD", &json!({ "runtimeConfig": { "mac": "zz" } }))
        .error();
    assert!(code == 7 && text.contains("zz"), "{text}");
}

#[test]
fn dns_of_the_runtime_comes_before_that_of_the_configuration() {
    let node = Node::new(Tier::Tcx);
    let configured = json!({ "nameservers": ["10.0.0.10"], "search": ["a.example"] });
    let container = node.container();
    let result = container
        .call("ADD", &json!({ "dns": configured }))
        .result();
    assert_eq!(result["dns"], configured);
    container.del().ok();
    let of_runtime =
        json!({ "Servers": ["10.0.0.11"], "Searches": ["b.example"], "Options": ["ndots:5"] });
    let result = container
        .call(
            "ADD",
            &json!({ "dns": configured, "runtimeConfig": { "dns": of_runtime } }),
        )
        .result();
    assert_eq!(
        result["dns"],
        json!({ "nameservers": ["10.0.0.11"], "search": ["b.example"], "options": ["ndots:5"] })
    );
    container.del().ok();
}

#[test]
fn previous_result_is_kept_in_front() {
    let node = Node::new(Tier::Tcx);
    let container = node.container();
    let previous = json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "sb0", "sandbox": container.netns }],
        "ips": [{ "address": "192.0.2.1/24", "interface": 0 }] });
    let result = container
        .call("ADD", &json!({ "prevResult": previous }))
        .result();
    assert_eq!(
        (&result["interfaces"][0], &result["ips"][0]),
        (&previous["interfaces"][0], &previous["ips"][0])
    );
    assert_eq!(
        (
            &result["interfaces"][3]["name"],
            &result["ips"][1]["interface"]
        ),
        (&json!("eth0"), &json!(3))
    );
    container.del().ok();
}

/// Two interfaces of one container: two addresses, and each goes alone.
#[test]
fn second_interface_of_a_container() {
    for tier in TIERS {
        let node = Node::new(tier);
        let first = node.container();
        let result = first.add();
        let eth1 = first.second("eth1");
        let other = eth1.add();
        assert_ne!(address(&result), address(&other));
        eth1.check(&other).ok();
        first.check(&result).ok();
        first.del().ok();
        eth1.check(&other).ok();
        assert!(
            node.traces()
                .about(&address(&result).to_string())
                .is_empty(),
            "{:?}",
            node.traces()
        );
        eth1.del().ok();
    }
}

fn has_flag(link: &Value, flag: &str) -> bool {
    link["flags"]
        .as_array()
        .unwrap()
        .iter()
        .any(|have| have == flag)
}

/// The IPv4 addresses of a link, with prefix length.
fn addresses(namespace: &Namespace, link: &str) -> Vec<String> {
    let listed = ip(namespace, &format!("-4 address show dev {link}"));
    let infos = listed[0]["addr_info"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    infos
        .iter()
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect()
}

/// All IPv4 routes.
fn routes(namespace: &Namespace) -> Vec<Value> {
    let mut routes = ip(namespace, "-4 route show table all")
        .as_array()
        .unwrap()
        .clone();
    for route in &mut routes {
        let route = route.as_object_mut().unwrap();
        route.remove("flags");
    }
    routes.sort_by_key(Value::to_string);
    routes
}
