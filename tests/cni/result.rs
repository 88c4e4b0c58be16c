//! D. The result of ADD.

use std::net::Ipv4Addr;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::libcni;
use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::fake::{Fake, ipam_result};
use crate::fixture::ip_json;
use crate::row::Test::Run;
use crate::row::{Case, Row, Verdict, Versions, expect, failed};

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 44, versions: Versions::To("0.2.0"), level: "M", check: "shape: `ip4` with `ip`, `gateway`, `routes`, nothing newer", test: Run(shape_of_old) },
    Row { number: 45, versions: Versions::Between("0.3.0", "0.3.0"), level: "D2", check: "shape: `ips` and `interfaces`, no `ip4`", test: Run(shape_of_0_3_0) },
    Row { number: 46, versions: Versions::Between("0.3.1", "0.4.0"), level: "M", check: "shape: every `ips[].version` is the string \"4\" or \"6\"", test: Run(shape_with_family) },
    Row { number: 47, versions: Versions::From("1.0.0"), level: "M", check: "shape: no `version` in `ips`", test: Run(shape_without_family) },
    Row { number: 48, versions: Versions::From("0.3.0"), level: "M", check: "interfaces: bridge and host veth without `sandbox`, the container's with `CNI_NETNS` byte for byte", test: Run(interfaces) },
    Row { number: 49, versions: Versions::From("0.3.0"), level: "M", check: "interfaces: each `mac` is that of the link after ADD", test: Run(macs) },
    Row { number: 50, versions: Versions::From("0.3.0"), level: "M", check: "`ips[].interface` is the index of the container's interface", test: Run(interface_index) },
    Row { number: 51, versions: Versions::All, level: "M", check: "address, gateway, routes, dns as IPAM gave them", test: Run(as_ipam_said) },
    Row { number: 52, versions: Versions::From("0.3.0"), level: "M", check: "two addresses of one family: both in the result and on the link", test: Run(two_addresses) },
    Row { number: 53, versions: Versions::To("0.2.0"), level: "R", check: "two IPv4 addresses from IPAM: the first in `ip4`", test: Run(two_addresses_in_old) },
    Row { number: 54, versions: Versions::From("0.3.0"), level: "S", check: "dual stack: an entry and a default route for each family", test: Run(dual_stack) },
    Row { number: 55, versions: Versions::To("0.2.0"), level: "R", check: "dual stack: `ip4` and `ip6`, routes by family", test: Run(dual_stack_in_old) },
    Row { number: 56, versions: Versions::All, level: "S", check: "`dns` of the configuration wins, else IPAM's", test: Run(dns) },
    Row { number: 57, versions: Versions::To("0.3.1"), level: "M", check: "`dns` is an object even when empty", test: Run(empty_dns) },
    Row { number: 58, versions: Versions::From("1.1.0"), level: "S", check: "`interfaces[].mtu`, if given, is that of the link", test: Run(mtu) },
    Row { number: 59, versions: Versions::To("1.0.0"), level: "M", check: "no keys of 1.1.0 in `interfaces`", test: Run(no_newer_keys) },
    Row { number: 60, versions: Versions::All, level: "R", check: "usable by libcni and by go-cni (indexes in range, an address on the container's interface)", test: Run(usable_by_runtimes) },
];

/// The first IPv4 address of a result of any version.
pub fn address_of(result: &Value) -> Verdict<Ipv4Addr> {
    let listed = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|ip| &ip["address"]);
    let mut addresses = listed
        .chain([&result["ip4"]["ip"]])
        .filter_map(Value::as_str);
    let found = addresses.find_map(|cidr| cidr.split('/').next()?.parse().ok());
    found.ok_or_else(|| failed("a result with an IPv4 address", result))
}

/// The interface of a result that is in the container, with its index.
pub fn sandbox_interface<'r>(result: &'r Value, ifname: &str) -> Verdict<(usize, &'r Value)> {
    let list = result["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate();
    let mut found = list.filter(|(_, interface)| {
        interface["name"] == ifname && interface["sandbox"] != Value::Null
    });
    found
        .next()
        .ok_or_else(|| failed(format!("the interface {ifname} with a sandbox"), result))
}

/// The names of a result's interfaces on the host: bridge and veth.
pub fn host_interfaces(case: &Case<'_>, result: &Value) -> Verdict<(String, String)> {
    let list = result["interfaces"].as_array().into_iter().flatten();
    let outside =
        list.filter(|interface| interface["sandbox"].as_str().unwrap_or_default().is_empty());
    let names: Vec<&str> = outside
        .filter_map(|interface| interface["name"].as_str())
        .collect();
    let subject = case.node.subject;
    let veth = names
        .iter()
        .find(|name| name.starts_with(subject.veth_prefix()));
    match veth {
        Some(veth) if names.contains(&subject.bridge()) => {
            Ok((subject.bridge().into(), (*veth).to_owned()))
        }
        _ => Err(failed(
            "bridge and host veth among the interfaces, without sandbox",
            result,
        )),
    }
}

/// ADD, what the check says about its result, DEL.
fn on_result(case: &Case<'_>, judge: impl Fn(&Attachment<'_>, &Value) -> Verdict) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    judge(&attachment, &result)?;
    attachment.finish()
}

fn shape_of_old(case: &Case<'_>) -> Verdict {
    on_result(case, |_, result| {
        let keys = result
            .as_object()
            .into_iter()
            .flat_map(|object| object.keys());
        let allowed = ["cniVersion", "ip4", "ip6", "dns"];
        let only = keys.clone().all(|key| allowed.contains(&key.as_str()));
        expect(only, format!("no keys but {allowed:?}"), result)?;
        let ip4 = &result["ip4"];
        let cidr = ip4["ip"].as_str().is_some_and(|ip| ip.contains('/'));
        let routes = ip4["routes"]
            .as_array()
            .is_some_and(|routes| routes.iter().all(|route| route["dst"].is_string()));
        expect(
            cidr && ip4["gateway"].is_string() && routes,
            "ip4 with ip, gateway and routes",
            result,
        )
    })
}

fn shape_of_0_3_0(case: &Case<'_>) -> Verdict {
    on_result(case, |_, result| {
        let listed = result["ips"].is_array() && result["interfaces"].is_array();
        expect(
            listed && result["ip4"].is_null(),
            "ips and interfaces, no ip4",
            result,
        )
    })
}

fn shape_with_family(case: &Case<'_>) -> Verdict {
    on_result(case, |_, result| {
        let keys = ["interfaces", "ips", "routes"]
            .iter()
            .all(|key| result[key].is_array());
        expect(
            keys && result["dns"].is_object(),
            "interfaces, ips, routes, dns",
            result,
        )?;
        let mut ips = result["ips"].as_array().into_iter().flatten();
        let labelled = ips.all(|ip| {
            let six = ip["address"]
                .as_str()
                .is_some_and(|address| address.contains(':'));
            ip["version"] == if six { "6" } else { "4" }
        });
        expect(
            labelled,
            "a version \"4\" or \"6\" that fits each address",
            result,
        )
    })
}

fn shape_without_family(case: &Case<'_>) -> Verdict {
    on_result(case, |_, result| {
        let mut ips = result["ips"].as_array().into_iter().flatten();
        let fine = result["ips"].is_array() && ips.all(|ip| ip["version"].is_null());
        expect(fine, "ips without version", result)
    })
}

fn interfaces(case: &Case<'_>) -> Verdict {
    on_result(case, |attachment, result| {
        host_interfaces(case, result)?;
        let (_, inside) = sandbox_interface(result, &attachment.ifname)?;
        expect(
            inside["sandbox"] == attachment.sandbox.path.as_str(),
            "CNI_NETNS as it was given",
            result,
        )
    })
}

fn macs(case: &Case<'_>) -> Verdict {
    on_result(case, |attachment, result| {
        for interface in result["interfaces"].as_array().into_iter().flatten() {
            let outside = interface["sandbox"].as_str().unwrap_or_default().is_empty();
            let namespace = if outside {
                case.node.vm().namespace()
            } else {
                attachment.sandbox.namespace()
            };
            let mac = interface["mac"].as_str().unwrap_or_default();
            let shaped = mac.len() == 17 && !mac.contains(char::is_uppercase);
            expect(shaped, "a MAC of 17 characters in lower case", interface)?;
            let name = interface["name"].as_str().unwrap_or_default();
            let link = ip_json(namespace, &format!("link show dev {name}"));
            expect(
                link[0]["address"] == mac,
                format!("the MAC of {name}, {}", link[0]["address"]),
                interface,
            )?;
        }
        Ok(())
    })
}

fn interface_index(case: &Case<'_>) -> Verdict {
    on_result(case, |attachment, result| {
        let (index, _) = sandbox_interface(result, &attachment.ifname)?;
        let mut ips = result["ips"].as_array().into_iter().flatten();
        let fine = ips.all(|ip| ip["interface"].as_u64() == u64::try_from(index).ok());
        expect(fine, format!("index {index} for every address"), result)
    })
}

fn as_ipam_said(case: &Case<'_>) -> Verdict {
    let lease = case.node.lease(0);
    let fake = Fake::new(case.node);
    let mut granted = ipam_result(case.version, &[lease]);
    let routes = json!([
        { "dst": "0.0.0.0/0" },
        { "dst": "192.0.2.0/24", "gw": lease.gateway },
    ]);
    if case.version < "0.3.0" {
        granted["ip4"]["routes"] = routes;
    } else {
        granted["routes"] = routes;
    }
    granted["dns"] = json!({ "nameservers": ["192.0.2.53"], "domain": "example.com", "search": ["a.example", "b.example"], "options": ["ndots:2"] });
    fake.grant(&granted);
    let attachment = fake.attach(case.version);
    let result = attachment.add()?;
    let place = |value: &Value| {
        if case.version < "0.3.0" {
            value["ip4"].clone()
        } else {
            value["ips"][0].clone()
        }
    };
    let key = if case.version < "0.3.0" {
        "ip"
    } else {
        "address"
    };
    let (given, got) = (place(&granted), place(&result));
    expect(
        got[key] == given[key] && got["gateway"] == given["gateway"],
        format!("address and gateway of {given}"),
        &result,
    )?;
    expect(
        result["dns"] == granted["dns"],
        format!("dns {}", granted["dns"]),
        &result["dns"],
    )?;
    let list = |value: &Value| {
        if case.version < "0.3.0" {
            value["ip4"]["routes"].clone()
        } else {
            value["routes"].clone()
        }
    };
    for route in list(&granted).as_array().into_iter().flatten() {
        let listed = list(&result);
        let mut routes = listed.as_array().into_iter().flatten();
        let same = |other: &Value| {
            let gateway = route["gw"].is_null() || route["gw"] == other["gw"];
            other["dst"] == route["dst"] && gateway
        };
        expect(routes.any(same), format!("the route {route}"), &result)?;
    }
    attachment.finish()
}

fn two_addresses(case: &Case<'_>) -> Verdict {
    let leases = [case.node.lease(0), case.node.lease(1)];
    let fake = Fake::new(case.node);
    fake.grant(&ipam_result(case.version, &leases));
    let attachment = fake.attach(case.version);
    let result = attachment.add()?;
    let link = ip_json(attachment.sandbox.namespace(), "address show dev eth0").to_string();
    for lease in leases {
        let listed = result["ips"]
            .to_string()
            .contains(&format!("\"{}\"", lease.cidr()));
        expect(listed, format!("{} in ips", lease.cidr()), &result)?;
        let configured = link.contains(&format!("\"{}\"", lease.address));
        expect(configured, format!("{} on the link", lease.address), &link)?;
    }
    attachment.finish()
}

/// A fake that answers in the form of 0.3.1 or later, which every supported caller has to convert.
fn newer_fake<'a>(case: &Case<'a>, result: &Value) -> (Fake<'a>, Attachment<'a>) {
    let fake = Fake::new(case.node);
    fake.grant(result);
    let attachment = fake.attach(case.version);
    (fake, attachment)
}

fn two_addresses_in_old(case: &Case<'_>) -> Verdict {
    let leases = [case.node.lease(0), case.node.lease(1)];
    let (_fake, attachment) = newer_fake(case, &ipam_result("0.3.1", &leases));
    let result = attachment.add()?;
    let first = leases[0].cidr();
    expect(
        result["ip4"]["ip"] == first.as_str(),
        format!("{first} in ip4"),
        &result,
    )?;
    attachment.finish()
}

const SIX: &str = "fd00:10::5/64";
const GATEWAY_OF_SIX: &str = "fd00:10::1";

/// A lease of both families, as an IPAM plugin of this version reports it.
fn both_families(case: &Case<'_>, version: &str) -> Value {
    let lease = case.node.lease(0);
    let mut result = ipam_result(version, &[lease]);
    let mut six = json!({ "address": SIX, "gateway": GATEWAY_OF_SIX });
    if version < "1.0.0" {
        six["version"] = "6".into();
    }
    result["ips"].as_array_mut().unwrap().push(six);
    result["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    result
}

fn dual_stack(case: &Case<'_>) -> Verdict {
    let (_fake, attachment) = newer_fake(case, &both_families(case, case.version));
    let result = attachment.add()?;
    let (four, six) = (case.node.lease(0).cidr(), SIX);
    for (cidr, family) in [(four.as_str(), "4"), (six, "6")] {
        let mut ips = result["ips"].as_array().into_iter().flatten();
        let found = ips
            .find(|ip| ip["address"] == cidr)
            .ok_or_else(|| failed(format!("{cidr} in ips"), &result))?;
        let labelled = case.version >= "1.0.0" || found["version"] == family;
        expect(
            labelled && found["gateway"].is_string(),
            format!("gateway and family {family}"),
            found,
        )?;
        let routes = ip_json(
            attachment.sandbox.namespace(),
            &format!("-{family} route show default"),
        );
        expect(
            routes.as_array().is_some_and(|all| all.len() == 1),
            format!("one IPv{family} default route"),
            &routes,
        )?;
    }
    attachment.finish()
}

fn dual_stack_in_old(case: &Case<'_>) -> Verdict {
    let (_fake, attachment) = newer_fake(case, &both_families(case, "0.3.1"));
    let result = attachment.add()?;
    let four = case.node.lease(0).cidr();
    let both = result["ip4"]["ip"] == four.as_str() && result["ip6"]["ip"] == SIX;
    expect(both, format!("{four} in ip4 and {SIX} in ip6"), &result)?;
    for (family, default) in [("ip4", "0.0.0.0/0"), ("ip6", "::/0")] {
        let routes = &result[family]["routes"];
        let only = routes
            .as_array()
            .is_some_and(|all| all.iter().all(|route| route["dst"] == default) && !all.is_empty());
        expect(
            only,
            format!("{default} under {family} and no other"),
            &result,
        )?;
    }
    attachment.finish()
}

fn dns(case: &Case<'_>) -> Verdict {
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let of_ipam = json!({ "nameservers": ["192.0.2.53"] });
    let attachment = fake.attach(case.version);
    let result = attachment.add()?;
    expect(
        result["dns"] == of_ipam,
        format!("IPAM's dns {of_ipam}"),
        &result["dns"],
    )?;
    attachment.finish()?;
    let own = json!({ "nameservers": ["192.0.2.54"], "search": ["example.org"] });
    let mut attachment = fake.attach(case.version);
    attachment.conf["dns"] = own.clone();
    let result = attachment.add()?;
    expect(
        result["dns"] == own,
        format!("the configuration's dns {own}"),
        &result["dns"],
    )?;
    attachment.finish()
}

fn empty_dns(case: &Case<'_>) -> Verdict {
    let fake = Fake::new(case.node);
    let mut granted = ipam_result(case.version, &[case.node.lease(0)]);
    granted["dns"] = json!({});
    fake.grant(&granted);
    let attachment = fake.attach(case.version);
    let result = attachment.add()?;
    expect(result["dns"].is_object(), "dns as an object", &result)?;
    attachment.finish()
}

fn mtu(case: &Case<'_>) -> Verdict {
    on_result(case, |attachment, result| {
        for interface in result["interfaces"].as_array().into_iter().flatten() {
            let Some(mtu) = interface.get("mtu") else {
                continue;
            };
            let outside = interface["sandbox"].as_str().unwrap_or_default().is_empty();
            let namespace = if outside {
                case.node.vm().namespace()
            } else {
                attachment.sandbox.namespace()
            };
            let name = interface["name"].as_str().unwrap_or_default();
            let link = ip_json(namespace, &format!("link show dev {name}"));
            expect(
                link[0]["mtu"] == *mtu,
                format!("the MTU of {name}, {}", link[0]["mtu"]),
                interface,
            )?;
        }
        Ok(())
    })
}

fn no_newer_keys(case: &Case<'_>) -> Verdict {
    on_result(case, |_, result| {
        let mut interfaces = result["interfaces"].as_array().into_iter().flatten();
        let newer = ["mtu", "socketPath", "pciID"];
        let none = interfaces.all(|interface| newer.iter().all(|key| interface[key].is_null()));
        expect(none, format!("none of {newer:?}"), result)
    })
}

/// go-cni's conditions (`createResult`), on a result that came through a list as libcni runs it.
fn usable_by_runtimes(case: &Case<'_>) -> Verdict {
    let mut plugin = case.node.conf(case.version);
    let keys = plugin.as_object_mut().unwrap();
    keys.remove("cniVersion");
    keys.remove("name");
    let list = json!({ "cniVersion": case.version, "name": "n1", "plugins": [plugin] });
    let list = Conflist::parse(&list.to_string()).unwrap();
    let sandbox = case.node.sandbox();
    let attachment = libcni::Attachment {
        container_id: format!("go-cni-{}", case.node.number()),
        netns: sandbox.path.clone(),
        ifname: "eth0".into(),
        ..libcni::Attachment::default()
    };
    let result = libcni::add(case.node.vm(), &list, &attachment)
        .map_err(|error| failed("libcni's ADD succeeds", error))?;
    let judged = usable(case, &result);
    libcni::del(case.node.vm(), &list, &attachment)
        .map_err(|error| failed("libcni's DEL succeeds", error))?;
    judged
}

fn usable(case: &Case<'_>, result: &Value) -> Verdict {
    address_of(result)?;
    if case.version < "0.3.0" {
        return Ok(());
    }
    let (eth0, _) = sandbox_interface(result, "eth0")?;
    let interfaces = result["interfaces"].as_array().map_or(0, Vec::len);
    let ips = result["ips"].as_array().into_iter().flatten();
    let indexes: Vec<Option<usize>> = ips
        .map(|ip| {
            ip["interface"]
                .as_u64()
                .and_then(|index| usize::try_from(index).ok())
        })
        .collect();
    let in_range = indexes.iter().flatten().all(|index| *index < interfaces);
    expect(
        in_range && indexes.contains(&Some(eth0)),
        "indexes in range, an address on eth0",
        result,
    )
}
