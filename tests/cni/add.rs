//! E. What ADD does, in the container and on the host.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::address_plan::{FABRIC_MAC, INTERNET};
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::reporter::Reporter;
use serde_json::{Value, json};
use socket2::Type;

use crate::attachment::Attachment;
use crate::fake::{Fake, ipam_result};
use crate::fixture::{ip, ip_json};
use crate::result::{address_of, host_interfaces};
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect, failed};

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 61, versions: Versions::All, level: "M", check: "in the container: link up, peer of the host veth, address and prefix", test: Run(container_side) },
    Row { number: 62, versions: Versions::All, level: "M", check: "each route of the result, by its gateway, metric 0", test: Run(routes) },
    Row { number: 63, versions: Versions::All, level: "M", check: "on the host: bridge up, host veth up and a port of it, gateway policy as configured", test: Run(host_side) },
    Row { number: 64, versions: Versions::All, level: "M", check: "pod ↔ pod, pod ↔ host; outside masqueraded; own subnet and multicast not", test: Run(connectivity) },
    Row { number: 65, versions: Versions::Once, level: "R", check: "bridge MAC unchanged by 20 ADD/DEL cycles (every version in turn)", test: Run(bridge_mac) },
    Row { number: 66, versions: Versions::Once, level: "R", check: "an existing bridge of that name is used; anything else of that name: error ≥100 (every version in turn)", test: Run(existing_bridge) },
    Row { number: 69, versions: Versions::From("0.4.0"), level: "M", check: "same container, another interface name: a second address, both work", test: Run(second_interface) },
    Row { number: 74, versions: Versions::All, level: "S", check: "default route wanted and given by IPAM: exactly one", test: Run(one_default_route) },
    Row { number: 75, versions: Versions::All, level: "S", check: "default route of another interface is there already", test: Run(second_default_route) },
];

/// What ADD made, to be looked at from both sides. Old results name no interfaces, so the links tell.
struct Made {
    address: Ipv4Addr,
    pod: Value,
    host: Value,
}

fn look(attachment: &Attachment<'_>, result: &Value) -> Verdict<Made> {
    let pod = ip_json(
        attachment.sandbox.namespace(),
        &format!("-d address show dev {}", attachment.ifname),
    );
    let peer = pod[0]["link_index"].clone();
    let host = ip_json(attachment.node.vm().namespace(), "-d link show");
    let host = host
        .as_array()
        .into_iter()
        .flatten()
        .find(|link| link["ifindex"] == peer);
    Ok(Made {
        address: address_of(result)?,
        pod: pod[0].clone(),
        host: host
            .cloned()
            .ok_or_else(|| failed("a host veth that is the peer of the container's link", &pod))?,
    })
}

fn container_side(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    let Made { address, pod, host } = look(&attachment, &result)?;
    expect(pod["operstate"] == "UP", "the link up", &pod["operstate"])?;
    if case.version >= "0.3.0" {
        let (_, veth) = host_interfaces(case, &result)?;
        expect(
            host["ifname"] == veth.as_str(),
            format!("peer of {veth}"),
            &host["ifname"],
        )?;
    }
    let prefix = case.node.lease(0).prefix;
    let mut addresses = pod["addr_info"].as_array().into_iter().flatten();
    let configured =
        addresses.any(|info| info["local"] == address.to_string() && info["prefixlen"] == prefix);
    expect(
        configured,
        format!("{address}/{prefix} on the link"),
        &pod["addr_info"],
    )?;
    expect(
        pod["mtu"] == host["mtu"] && pod["mtu"] == 1500,
        "the MTU of the node's NIC, 1500",
        &pod["mtu"],
    )?;
    attachment.finish()
}

fn routes(case: &Case<'_>) -> Verdict {
    let lease = case.node.lease(0);
    let fake = Fake::new(case.node);
    let mut granted = ipam_result(case.version, &[lease]);
    let wanted = json!([{ "dst": "0.0.0.0/0" }, { "dst": "198.18.0.0/15" }, { "dst": "192.0.2.0/24", "gw": lease.gateway }]);
    if case.version < "0.3.0" {
        granted["ip4"]["routes"] = wanted;
    } else {
        granted["routes"] = wanted;
    }
    fake.grant(&granted);
    let attachment = fake.attach(case.version);
    attachment.add()?;
    let table = ip_json(attachment.sandbox.namespace(), "route show");
    for to in ["default", "198.18.0.0/15", "192.0.2.0/24"] {
        let mut routes = table.as_array().into_iter().flatten();
        let there = routes.any(|route| {
            route["dst"] == to
                && route["gateway"] == lease.gateway.to_string()
                && route["metric"].as_u64().unwrap_or(0) == 0
        });
        expect(
            there,
            format!("{to} via {} with metric 0", lease.gateway),
            &table,
        )?;
    }
    attachment.finish()
}

fn host_side(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    let Made { host, .. } = look(&attachment, &result)?;
    let bridge = case.node.subject.bridge();
    expect(
        host["master"] == bridge && host["operstate"] == "UP",
        format!("an up port of {bridge}"),
        &host,
    )?;
    let link = ip_json(
        case.node.vm().namespace(),
        &format!("-d address show dev {bridge}"),
    )[0]
    .clone();
    expect(
        link["linkinfo"]["info_kind"] == "bridge" && link["operstate"] == "UP",
        "a bridge that is up",
        &link,
    )?;
    // The reference's bridge is the pods' gateway by its address; on Azure the gateway is the fabric, and ours is it by its MAC. The node's
    // address is the NIC's, and the bridge's own is there only to keep its routes.
    let owned = if case.node.subject.is_ours() {
        expect(
            link["address"] == FABRIC_MAC.to_string(),
            format!("a bridge with the MAC {FABRIC_MAC}"),
            &link,
        )?;
        Ipv4Addr::new(169, 254, 73, 1)
    } else {
        case.node.lease(0).gateway
    };
    let mut addresses = link["addr_info"].as_array().into_iter().flatten();
    let has = addresses.any(|info| info["local"] == owned.to_string());
    expect(has, format!("{owned} on the bridge"), &link["addr_info"])?;
    attachment.finish()
}

/// Asks by TCP from a namespace, and compares the source that the other side saw.
pub fn seen_as(from: &Namespace, to: SocketAddrV4, source: Ipv4Addr) -> Verdict {
    let expected = format!("{to} sees {source}");
    match ask(Type::STREAM, from, None, to) {
        Ok(seen) => expect(seen == source, expected, format!("it saw {seen}")),
        Err(error) => Err(failed(expected, error)),
    }
}

/// The pod reaches the internet with the node's address.
pub fn masqueraded(case: &Case<'_>, attachment: &Attachment<'_>) -> Verdict {
    let to = SocketAddrV4::new(INTERNET[0], REPORT_PORT);
    seen_as(
        attachment.sandbox.namespace(),
        to,
        case.node.vm().nic.primary,
    )
}

fn connectivity(case: &Case<'_>) -> Verdict {
    let [one, two] = [0, 1].map(|_| case.node.attach(case.version));
    let [a, b] = [address_of(&one.add()?)?, address_of(&two.add()?)?];
    let (pod, other) = (one.sandbox.namespace(), two.sandbox.namespace());
    let host = case.node.vm().namespace();
    // The node's address as pods see it: the bridge's.
    let node = if case.node.subject.is_ours() {
        case.node.vm().nic.primary
    } else {
        case.node.lease(0).gateway
    };
    let reporters = [
        Reporter::start(pod, &[a], REPORT_PORT).unwrap(),
        Reporter::start(other, &[b], REPORT_PORT).unwrap(),
        Reporter::start(host, &[node], 10250).unwrap(),
    ];
    seen_as(pod, SocketAddrV4::new(b, REPORT_PORT), a).during("pod to pod")?;
    seen_as(host, SocketAddrV4::new(a, REPORT_PORT), node).during("host to pod")?;
    seen_as(pod, SocketAddrV4::new(node, 10250), a).during("pod to host")?;
    masqueraded(case, &one).during("pod to internet")?;
    let heard = multicast(pod, a, other, b);
    if case.node.subject.is_ours() {
        // Azure carries none, and the bridge floods none: it is not masqueraded, it goes nowhere.
        expect(heard.is_err(), "no multicast", "some arrived").during("multicast")?;
    } else {
        heard.during("multicast")?;
    }
    drop(reporters);
    one.finish()?;
    two.finish()
}

fn multicast(from: &Namespace, source: Ipv4Addr, to: &Namespace, receiver: Ipv4Addr) -> Verdict {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let socket = to.run(|| UdpSocket::bind((group, 5000))).unwrap().unwrap();
    to.run(|| socket.join_multicast_v4(&group, &receiver))
        .unwrap()
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let sender = from.run(|| UdpSocket::bind((source, 0))).unwrap().unwrap();
    let expected = format!("multicast from {source}");
    for _ in 0..6 {
        // Neither end is told when the bridge has learnt of the membership.
        sender.send_to(b"hello", (group, 5000)).unwrap();
        if let Ok((_, seen)) = socket.recv_from(&mut [0; 16]) {
            return expect(
                seen.ip() == source,
                expected,
                format!("it came from {seen}"),
            );
        }
    }
    Err(failed(expected, "nothing arrived"))
}

fn bridge_mac(case: &Case<'_>) -> Verdict {
    let mac = || {
        let link = ip_json(
            case.node.vm().namespace(),
            &format!("link show dev {}", case.node.subject.bridge()),
        );
        link[0]["address"].to_string()
    };
    let before = mac();
    let versions = case.node.offered_versions().cycle();
    for version in versions.take(20) {
        let attachment = case.node.attach(version);
        attachment.add()?;
        expect(mac() == before, format!("the MAC stays {before}"), mac())?;
        attachment.del()?;
        expect(mac() == before, format!("the MAC stays {before}"), mac())?;
    }
    Ok(())
}

fn existing_bridge(case: &Case<'_>) -> Verdict {
    let ours = case.node.sibling(20)?;
    let name = ours.subject.bridge();
    ip(
        ours.vm().namespace(),
        &format!("link add {name} type bridge"),
    );
    let index =
        || ip_json(ours.vm().namespace(), &format!("link show dev {name}"))[0]["ifindex"].clone();
    let before = index();
    for version in case.node.offered_versions() {
        let attachment = ours.attach(version);
        attachment.add().during(version)?;
        expect(
            index() == before,
            format!("the bridge with index {before}"),
            index(),
        )
        .during(version)?;
        attachment.del()?;
    }
    let theirs = case.node.sibling(20)?;
    ip(
        theirs.vm().namespace(),
        &format!("link add {name} type veth peer name {name}p"),
    );
    let first = theirs.attach(case.version);
    first.call("ADD").run();
    first.forget();
    let before = theirs.snapshot();
    for version in case.node.offered_versions() {
        let attachment = theirs.attach(version);
        attachment.call("ADD").run().own_error().during(version)?;
        attachment.forget();
        before.nothing_left(&theirs).during(version)?;
    }
    Ok(())
}

/// The configuration for a second interface: the reference needs one without default route, which it cannot add twice.
pub fn second_conf(case: &Case<'_>) -> Value {
    let mut conf = case.node.conf(case.version);
    if !case.node.subject.is_ours() {
        conf["ipam"].as_object_mut().unwrap().remove("routes");
    }
    conf
}

/// Both interfaces of a container work, each asked on its own address.
fn answers(case: &Case<'_>, attachment: &Attachment<'_>, address: Ipv4Addr) -> Verdict {
    let _reporter =
        Reporter::start(attachment.sandbox.namespace(), &[address], REPORT_PORT).unwrap();
    let node = if case.node.subject.is_ours() {
        case.node.vm().nic.primary
    } else {
        case.node.lease(0).gateway
    };
    seen_as(
        case.node.vm().namespace(),
        SocketAddrV4::new(address, REPORT_PORT),
        node,
    )
}

fn second_interface(case: &Case<'_>) -> Verdict {
    let first = case.node.attach(case.version);
    let mut second = first.sister("eth1");
    second.conf = second_conf(case);
    let [a, b] = [address_of(&first.add()?)?, address_of(&second.add()?)?];
    expect(a != b, "two addresses", format!("{a} twice"))?;
    answers(case, &first, a).during("eth0")?;
    answers(case, &second, b).during("eth1")?;
    first.finish()?;
    second.finish()
}

fn default_routes(attachment: &Attachment<'_>) -> Value {
    ip_json(attachment.sandbox.namespace(), "-4 route show default")
}

fn one_default_route(case: &Case<'_>) -> Verdict {
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let mut attachment = fake.attach(case.version);
    if !case.node.subject.is_ours() {
        attachment.conf["isDefaultGateway"] = true.into();
    }
    attachment.add()?;
    let routes = default_routes(&attachment);
    expect(
        routes.as_array().is_some_and(|all| all.len() == 1),
        "exactly one default route",
        routes,
    )?;
    attachment.finish()
}

fn second_default_route(case: &Case<'_>) -> Verdict {
    let first = case.node.attach(case.version);
    let second = first.sister("eth1");
    first.add()?;
    let route = default_routes(&first);
    second.add()?;
    let routes = default_routes(&first);
    let kept = routes.as_array().is_some_and(|all| all.contains(&route[0]));
    expect(kept, format!("the first route {route} stays"), routes)?;
    masqueraded(case, &first)?;
    second.finish()?;
    first.finish()
}
