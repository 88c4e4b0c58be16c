//! G. CHECK.

use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::fake::Fake;
use crate::fixture::{Node, Subject, ip, ip_json};
use crate::result::{address_of, host_interfaces, sandbox_interface};
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect};
use crate::snapshot::output;

/// A hundred times over the three versions that have CHECK.
const TIMES: u8 = 34;

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 99, versions: Versions::From("0.4.0"), level: "M", check: "CHECK right after ADD, 100 times", test: Run(right_after_add) },
    Row { number: 100, versions: Versions::From("0.4.0"), level: "M", check: "without `prevResult`: error 7", test: Run(without_prev_result) },
    Row { number: 101, versions: Versions::From("0.4.0"), level: "S", check: "container link, address, route, namespace, host veth or bridge membership gone: error each", test: Run(parts_gone) },
    Row { number: 102, versions: Versions::From("0.4.0"), level: "S", check: "masquerade removed: error", test: Run(masquerade_gone) },
    Row { number: 103, versions: Versions::From("0.4.0"), level: "S", check: "bridge down, host veth down, gateway address gone (if owned): error each", test: Run(host_side_down) },
    Row { number: 104, versions: Versions::From("0.4.0"), level: "M", check: "reservation removed: error; IPAM's CHECK error passed on", test: Run(ipam_disagrees) },
    Row { number: 105, versions: Versions::From("0.4.0"), level: "M", check: "a later plugin added route, address, interface, changed the MAC: rc 0", test: Run(later_plugins) },
    Row { number: 106, versions: Versions::From("0.4.0"), level: "R", check: "`prevResult` without `cniVersion`: taken for the configuration's", test: Run(prev_result_without_version) },
    Row { number: 107, versions: Versions::From("0.4.0"), level: "Q", check: "CHECK changes nothing", test: Run(changes_nothing) },
];

fn right_after_add(case: &Case<'_>) -> Verdict {
    for _ in 0..TIMES {
        let attachment = case.node.attach(case.version);
        let result = attachment.add()?;
        attachment.check(&result).silent()?;
        attachment.finish()?;
    }
    Ok(())
}

fn without_prev_result(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    attachment.add()?;
    attachment.call("CHECK").run().error(7)?;
    attachment.finish()
}

/// ADD, CHECK that passes, some damage, CHECK that must fail, DEL.
fn notices(
    case: &Case<'_>,
    what: &str,
    damage: impl Fn(&Attachment<'_>, &Value) -> Verdict,
) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    attachment
        .check(&result)
        .silent()
        .during(format!("before: {what}"))?;
    damage(&attachment, &result)?;
    attachment.check(&result).failed().during(what)?;
    Ok(())
}

fn parts_gone(case: &Case<'_>) -> Verdict {
    let inside = |line: &'static str| {
        move |attachment: &Attachment<'_>, _: &Value| {
            ip(attachment.sandbox.namespace(), line);
            Ok(())
        }
    };
    let on_veth = |line: &'static str| {
        move |attachment: &Attachment<'_>, result: &Value| {
            let (_, veth) = host_interfaces(case, result)?;
            ip(attachment.node.vm().namespace(), &format!("{line} {veth}"));
            Ok(())
        }
    };
    notices(case, "container link removed", inside("link del eth0"))?;
    notices(case, "address removed", |attachment, result| {
        // Without the address there is no route by it either: the route comes back, by hand.
        let (address, lease) = (address_of(result)?, case.node.lease(0));
        let namespace = attachment.sandbox.namespace();
        ip(
            namespace,
            &format!("address del {address}/{} dev eth0", lease.prefix),
        );
        ip(
            namespace,
            &format!(
                "route replace default via {} dev eth0 onlink",
                lease.gateway
            ),
        );
        Ok(())
    })?;
    notices(case, "default route removed", inside("route del default"))?;
    notices(case, "host veth removed", on_veth("link del"))?;
    notices(
        case,
        "not a port of the bridge",
        on_veth("link set nomaster dev"),
    )?;
    notices(case, "namespace removed", |attachment, _| {
        attachment.sandbox.remove_path();
        Ok(())
    })
}

fn masquerade_gone(case: &Case<'_>) -> Verdict {
    notices(case, "masquerade removed", |attachment, result| {
        attachment.node.remove_masquerade(address_of(result)?);
        Ok(())
    })
}

fn host_side_down(case: &Case<'_>) -> Verdict {
    notices(case, "host veth down", |attachment, result| {
        let (_, veth) = host_interfaces(case, result)?;
        ip(
            attachment.node.vm().namespace(),
            &format!("link set {veth} down"),
        );
        Ok(())
    })?;
    // A machine of its own: with the bridge goes the node's network.
    let node = case.node.sibling(20)?;
    let own = Case {
        node: &node,
        version: case.version,
    };
    if case.node.subject == Subject::Reference {
        let gateway = case.node.lease(0).gateway;
        notices(&own, "gateway address gone", |_, _| {
            ip(
                node.vm().namespace(),
                &format!("address flush dev {} to {gateway}", node.subject.bridge()),
            );
            Ok(())
        })?;
    }
    notices(&own, "bridge down", |_, _| {
        ip(
            node.vm().namespace(),
            &format!("link set {} down", node.subject.bridge()),
        );
        Ok(())
    })
}

fn ipam_disagrees(case: &Case<'_>) -> Verdict {
    notices(case, "reservation removed", |attachment, _| {
        attachment.call_ipam("DEL").run().silent()
    })?;
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let attachment = fake.attach(case.version);
    let result = attachment.add()?;
    fake.refuse(
        "CHECK",
        case.version,
        123,
        "no such lease",
        "look elsewhere",
    );
    let reply = attachment.check(&result);
    let error = reply.error(123)?;
    expect(
        error.msg == "no such lease" && error.details == "look elsewhere",
        "IPAM's msg and details",
        &reply,
    )?;
    attachment.finish()
}

fn later_plugins(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let mut result = attachment.add()?;
    let namespace = attachment.sandbox.namespace();
    let gateway = case.node.lease(0).gateway;
    ip(namespace, &format!("route add 198.18.0.0/15 via {gateway}"));
    ip(namespace, "address add 192.0.2.9/24 dev eth0");
    attachment
        .check(&result)
        .silent()
        .during("route and address added")?;
    let mac = "02:00:00:01:05:01";
    ip(namespace, &format!("link set eth0 address {mac}"));
    let (inside, _) = sandbox_interface(&result, "eth0")?;
    result["interfaces"][inside]["mac"] = mac.into();
    attachment
        .check(&result)
        .silent()
        .during("MAC changed, as tuning does")?;
    let extra =
        json!({ "name": "tun0", "mac": "02:00:00:01:05:02", "sandbox": attachment.sandbox.path });
    result["interfaces"].as_array_mut().unwrap().push(extra);
    attachment
        .check(&result)
        .silent()
        .during("an interface more in prevResult")?;
    attachment.finish()
}

fn prev_result_without_version(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let mut result = attachment.add()?;
    result.as_object_mut().unwrap().remove("cniVersion");
    attachment.check(&result).silent()?;
    attachment.finish()
}

fn changes_nothing(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    let before = (
        case.node.snapshot(),
        everything(case.node),
        of_container(&attachment),
    );
    attachment.check(&result).silent()?;
    before.0.unchanged(case.node)?;
    for (before, after) in before.1.iter().zip(everything(case.node)) {
        expect(*before == after, format!("unchanged: {before}"), after)?;
    }
    let after = of_container(&attachment);
    expect(before.2 == after, format!("unchanged: {}", before.2), after)?;
    attachment.finish()
}

/// The node's network as `ip`, `bridge` and netfilter's tools show it.
fn everything(node: &Node) -> Vec<String> {
    let host = node.vm().namespace();
    let ip = [
        "address show",
        "route show table all",
        "neighbour show nud permanent",
    ];
    let mut texts: Vec<String> = ip
        .iter()
        .map(|line| without_carrier(ip_json(host, line)).to_string())
        .collect();
    let rules = output(host, "nft", "-s list ruleset");
    texts.push(rules);
    texts
}

fn of_container(attachment: &Attachment<'_>) -> String {
    let namespace = attachment.sandbox.namespace();
    ["address show", "route show table all"]
        .map(|line| without_carrier(ip_json(namespace, line)).to_string())
        .join(" ")
}

/// Without what says whether a link has a carrier: the kernel notes that of a new link when it has time (`linkwatch`).
fn without_carrier(mut objects: Value) -> Value {
    const OF_CARRIER: [&str; 3] = ["NO-CARRIER", "LOWER_UP", "linkdown"];
    for object in objects.as_array_mut().into_iter().flatten() {
        if let Some(members) = object.as_object_mut() {
            members.remove("operstate");
        }
        if let Some(flags) = object["flags"].as_array_mut() {
            flags.retain(|flag| !OF_CARRIER.iter().any(|name| flag == name));
        }
    }
    objects
}
