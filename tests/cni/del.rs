//! F. DEL.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::add::{masqueraded, second_conf};
use crate::attachment::Attachment;
use crate::call::Call;
use crate::fake::Fake;
use crate::fixture::{ip, ip_json, links};
use crate::journal::Journal;
use crate::result::{address_of, host_interfaces};
use crate::row::Test::{Journal as Calls, Run};
use crate::row::{Case, During as _, Row, Verdict, Versions, expect};

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 79, versions: Versions::All, level: "M", check: "DEL after ADD: nothing left, the bridge stays", test: Run(del_after_add) },
    Row { number: 80, versions: Versions::All, level: "M", check: "DEL twice, three times", test: Run(del_again) },
    Row { number: 81, versions: Versions::All, level: "M", check: "DEL of what was never added, in a network that never was", test: Run(del_unknown) },
    Row { number: 82, versions: Versions::All, level: "M", check: "interface removed by hand: nothing left, masquerade included", test: Run(interface_gone) },
    Row { number: 83, versions: Versions::All, level: "M", check: "namespace deleted: nothing left, masquerade included", test: Run(namespace_gone) },
    Row { number: 84, versions: Versions::All, level: "M", check: "`CNI_NETNS` empty or unset, namespace alive: nothing left, host veth included", test: Run(no_netns) },
    Row { number: 85, versions: Versions::All, level: "R", check: "namespace path is a plain file: nothing left", test: Run(plain_file) },
    Row { number: 86, versions: Versions::From("0.4.0"), level: "M", check: "`prevResult` absent, null, {}, of another version, without our interface", test: Run(odd_prev_results) },
    Row { number: 87, versions: Versions::All, level: "Q", check: "`prevResult` is a string or an array: rc 0 or error 6, nothing left", test: Run(broken_prev_results) },
    Row { number: 88, versions: Versions::To("0.3.1"), level: "R", check: "without `prevResult` in the situations of 82-84: nothing left", test: Run(without_prev_result) },
    Row { number: 89, versions: Versions::All, level: "M", check: "bridge deleted before DEL: nothing left", test: Run(bridge_gone) },
    Row { number: 90, versions: Versions::All, level: "M", check: "eth0 and eth1: DEL of eth0 leaves eth1 with address, reservation and masquerade", test: Run(other_interface_stays) },
    Row { number: 91, versions: Versions::All, level: "M", check: "two networks, one container: DEL in one leaves the other", test: Run(other_network_stays) },
    Row { number: 92, versions: Versions::From("1.0.0"), level: "M", check: "IPAM's DEL fails: its error is passed on; veth and masquerade are gone", test: Run(ipam_fails) },
    Row { number: 93, versions: Versions::All, level: "M", check: "IPAM plugin missing: error ≥100; veth and masquerade are gone", test: Run(ipam_missing) },
    Row { number: 94, versions: Versions::All, level: "R", check: "no DEL error says `not found`, nor `no such file or directory` with an empty namespace", test: Calls(words_of_errors) },
    Row { number: 95, versions: Versions::All, level: "R", check: "unknown or malformed `CNI_ARGS`: nothing left", test: Run(odd_args) },
    Row { number: 96, versions: Versions::All, level: "R", check: "configuration changed since ADD (masquerade off, other subnet, other bridge): nothing left", test: Run(configuration_changed) },
    Row { number: 97, versions: Versions::All, level: "R", check: "address reassigned to B before DEL of A: B keeps reservation and masquerade", test: Run(address_reassigned) },
    Row { number: 98, versions: Versions::All, level: "R", check: "without the `runtimeConfig` that ADD had: nothing left", test: Run(without_runtime_config) },
];

/// ADD, what happens meanwhile, DEL; then nothing may be left.
fn after(
    case: &Case<'_>,
    meanwhile: impl Fn(&Attachment<'_>),
    change: impl for<'a> Fn(Call<'a>) -> Call<'a>,
) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    attachment.add()?;
    meanwhile(&attachment);
    attachment.del_by(change(attachment.call("DEL")))?;
    before.nothing_left(case.node)
}

fn del_after_add(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    let address = address_of(&attachment.add()?)?;
    masqueraded(case, &attachment)?;
    attachment.del()?;
    before.nothing_left(case.node)?;
    case.node.no_flows_of(address)?;
    let links = links(case.node.vm().namespace());
    let bridge = case.node.subject.bridge();
    expect(
        links.iter().any(|link| link == bridge),
        format!("the bridge {bridge}"),
        format!("{links:?}"),
    )
}

fn del_again(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    attachment.add()?;
    for time in ["first", "second", "third"] {
        attachment.del().during(time)?;
    }
    Ok(())
}

fn del_unknown(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let mut attachment = case.node.attach(case.version);
    attachment.del()?;
    attachment.conf["name"] = format!("never-{}", case.node.number()).into();
    attachment.del()?;
    before.nothing_left(case.node)
}

fn remove_interface(attachment: &Attachment<'_>) {
    ip(attachment.sandbox.namespace(), "link del eth0");
}

fn interface_gone(case: &Case<'_>) -> Verdict {
    after(case, remove_interface, |call| call)
}

fn namespace_gone(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    attachment.add()?;
    let call = attachment.call("DEL");
    destroy_namespace(attachment);
    call.run().silent()?;
    before.nothing_left(case.node)
}

/// Removes the path, and the namespace with it as soon as the kernel gets to it.
fn destroy_namespace(attachment: Attachment<'_>) {
    attachment.forget();
    attachment.sandbox.remove_path();
    drop(attachment);
}

fn no_netns(case: &Case<'_>) -> Verdict {
    after(case, |_| (), |call| call.env("CNI_NETNS", "")).during("empty")?;
    after(case, |_| (), |call| call.without("CNI_NETNS")).during("unset")
}

fn plain_file(case: &Case<'_>) -> Verdict {
    after(case, |attachment| attachment.sandbox.unmount(), |call| call)
}

/// ADD, then DEL with this in the place of the result.
fn with_prev_result(case: &Case<'_>, make: impl Fn(&Value) -> Option<Value>) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    let conf = match make(&result) {
        Some(prev_result) => attachment.conf_with(&prev_result),
        None => attachment.conf.clone(),
    };
    attachment.del_by(attachment.call("DEL").conf(&conf))?;
    before.nothing_left(case.node)
}

fn odd_prev_results(case: &Case<'_>) -> Verdict {
    with_prev_result(case, |_| None).during("absent")?;
    with_prev_result(case, |_| Some(Value::Null)).during("null")?;
    with_prev_result(case, |_| Some(json!({}))).during("{}")?;
    with_prev_result(case, |result| {
        let address = result["ips"][0]["address"].clone();
        Some(json!({ "cniVersion": "0.2.0", "ip4": { "ip": address }, "dns": {} }))
    })
    .during("of 0.2.0")?;
    with_prev_result(case, |result| {
        let mut result = result.clone();
        result["interfaces"] = json!([{ "name": "other", "mac": "02:00:00:00:00:99" }]);
        result["ips"] = json!([]);
        Some(result)
    })
    .during("without our interface")
}

fn broken_prev_results(case: &Case<'_>) -> Verdict {
    for broken in [json!("result"), json!([1, 2])] {
        let before = case.node.snapshot();
        let attachment = case.node.attach(case.version);
        attachment.add()?;
        let reply = attachment
            .call("DEL")
            .conf(&attachment.conf_with(&broken))
            .run();
        if !reply.status.success() {
            reply.error(6).during(&broken)?;
        }
        before.nothing_left(case.node).during(&broken)?;
        attachment.forget();
    }
    Ok(())
}

fn without_prev_result(case: &Case<'_>) -> Verdict {
    interface_gone(case).during("interface removed")?;
    namespace_gone(case).during("namespace deleted")?;
    no_netns(case)
}

/// On a machine of its own: the bridge has the node's address.
fn bridge_gone(case: &Case<'_>) -> Verdict {
    let node = case.node.sibling(20)?;
    let first = node.attach(case.version);
    first.add()?;
    first.del()?;
    let before = node.snapshot();
    let attachment = node.attach(case.version);
    attachment.add()?;
    ip(
        node.vm().namespace(),
        &format!("link del {}", node.subject.bridge()),
    );
    attachment.del()?;
    before.nothing_left(&node)
}

fn other_interface_stays(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let first = case.node.attach(case.version);
    let mut second = first.sister("eth1");
    second.conf = second_conf(case);
    first.add()?;
    let address = address_of(&second.add()?)?;
    first.del()?;
    stays(case, &second, address)?;
    second.del()?;
    before.nothing_left(case.node)
}

/// The attachment still has its address, its reservation and its masquerade.
fn stays(case: &Case<'_>, attachment: &Attachment<'_>, address: Ipv4Addr) -> Verdict {
    let namespace = attachment.sandbox.namespace();
    let shown = ip_json(namespace, "-4 address show").to_string();
    expect(
        shown.contains(&format!("\"{address}\"")),
        format!("{address} still there"),
        &shown,
    )?;
    let reservations = case.node.reservations();
    let reserved = reservations
        .iter()
        .any(|line| line.ends_with(&address.to_string()));
    expect(
        reserved,
        format!("{address} still reserved"),
        format!("{reservations:?}"),
    )?;
    let routes = ip_json(namespace, "-4 route show default");
    if routes.as_array().is_none_or(Vec::is_empty) {
        let gateway = case.node.lease(0).gateway;
        ip(
            namespace,
            &format!("route add default via {gateway} dev {}", attachment.ifname),
        );
    }
    masqueraded(case, attachment)
}

fn other_network_stays(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let first = case.node.attach(case.version);
    let mut second = first.sister("eth1");
    second.conf = second_conf(case);
    second.conf["name"] = "n2".into();
    if !case.node.subject.is_ours() {
        // host-local keeps the networks apart, so both would hand out the same address.
        second.conf["ipam"]["ranges"] =
            json!([[{ "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.220" }]]);
    }
    first.add()?;
    let address = address_of(&second.add()?)?;
    first.del()?;
    stays(case, &second, address)?;
    second.del()?;
    before.nothing_left(case.node)
}

fn ipam_fails(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    fake.refuse(
        "DEL",
        case.version,
        123,
        "the record is busy",
        "somebody else has it",
    );
    let attachment = fake.attach(case.version);
    attachment.add()?;
    let reply = attachment.call("DEL").run();
    before.nothing_left_but_reservations(case.node)?;
    let error = reply.error(123)?;
    let passed_on = error.msg == "the record is busy" && error.details == "somebody else has it";
    expect(passed_on, "IPAM's msg and details", &reply)?;
    fake.answer("DEL", "", "", 0);
    attachment.del()
}

fn ipam_missing(case: &Case<'_>) -> Verdict {
    for netns in [true, false] {
        let before = case.node.snapshot();
        let attachment = case.node.attach(case.version);
        attachment.add()?;
        let call = attachment.call("DEL").env("CNI_PATH", "/nonexistent");
        let reply = if netns {
            call
        } else {
            call.env("CNI_NETNS", "")
        }
        .run();
        before.nothing_left_but_reservations(case.node)?;
        reply.own_error()?;
        attachment.del()?;
        before
            .nothing_left(case.node)
            .during("after a DEL with the IPAM plugin back")?;
    }
    Ok(())
}

fn words_of_errors(journal: &Journal, version: Option<&str>) -> Verdict {
    let calls = journal.at(version);
    for call in calls
        .iter()
        .filter(|call| call.reply.command == "DEL" && !call.reply.status.success())
    {
        let document = call.reply.document().unwrap_or_default();
        let text = format!("{} {}", document["msg"], document["details"]).to_lowercase();
        expect(
            !text.contains("not found"),
            "an error without `not found`, which go-cni takes for success",
            &call.reply,
        )?;
        let gone = call.netns_empty && text.contains("no such file or directory");
        expect(
            !gone,
            "an error without `no such file or directory`, which go-cni takes for success",
            &call.reply,
        )?;
    }
    Ok(())
}

fn odd_args(case: &Case<'_>) -> Verdict {
    for args in ["K8S_POD_NAME=p", "FOO", "A=B=C", "A=B;"] {
        after(case, |_| (), |call| call.env("CNI_ARGS", args)).during(args)?;
    }
    Ok(())
}

/// What an operator may have changed while the pod ran.
fn changes(case: &Case<'_>) -> Vec<(&'static str, &'static str, Value)> {
    if case.node.subject.is_ours() {
        return vec![
            ("masquerade off", "masquerade", json!({ "datapath": "off" })),
            (
                "another subnet",
                "ipam",
                json!({ "type": "azure-vnet-ipam", "subnet": "10.77.0.0/16" }),
            ),
            ("another bridge", "bridge", json!("azure7")),
        ];
    }
    let ranges = json!([[{ "subnet": "10.77.0.0/16" }]]);
    vec![
        ("masquerade off", "ipMasq", json!(false)),
        (
            "another subnet",
            "ipam",
            json!({ "type": "host-local", "ranges": ranges }),
        ),
        ("no ranges", "ipam", json!({ "type": "host-local" })),
        ("another bridge", "bridge", json!("cni7")),
    ]
}

fn configuration_changed(case: &Case<'_>) -> Verdict {
    for (what, key, value) in changes(case) {
        let before = case.node.snapshot();
        let attachment = case.node.attach(case.version);
        attachment.add()?;
        let mut conf = attachment.conf.clone();
        conf[key] = value;
        attachment
            .del_by(attachment.call("DEL").conf(&conf))
            .during(what)?;
        before.nothing_left(case.node).during(what)?;
    }
    Ok(())
}

fn address_reassigned(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let a = case.node.attach(case.version);
    let result = a.add()?;
    let address = address_of(&result)?;
    // Somebody freed the address behind the network plugin's back; the next pod asks for it by name.
    a.call_ipam("DEL").run().silent()?;
    let mut b = case.node.attach(case.version);
    if case.node.subject.is_ours() {
        // And A's link and the entries by which the kernel shows that it lives: no address in use is given to another pod.
        ip(a.sandbox.namespace(), "link del eth0");
        for entry in ["neighbour", "route", "route"] {
            let line = format!("{entry} delete {address} dev azure0");
            ip(case.node.vm().namespace(), &line);
        }
        b.conf["ipam"]["ipAddress"] = address.to_string().into();
    } else {
        b.conf["args"] = json!({ "cni": { "ips": [address] } });
    }
    let other = address_of(&b.add()?)?;
    expect(
        other == address,
        format!("B gets {address}"),
        format!("it got {other}"),
    )?;
    a.del()?;
    if case.version >= "0.3.0" {
        let (_, veth) = host_interfaces(case, &result)?;
        let left = links(case.node.vm().namespace());
        expect(
            !left.contains(&veth),
            format!("A's {veth} is gone"),
            format!("{left:?}"),
        )?;
    }
    stays(case, &b, address)?;
    b.del()?;
    before.nothing_left(case.node)
}

fn without_runtime_config(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    let mut conf = attachment.conf.clone();
    conf["capabilities"] = json!({ "mac": true, "portMappings": true });
    conf["runtimeConfig"] = json!({
        "mac": "02:00:00:00:98:01",
        "portMappings": [{ "HostPort": 8098, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
    });
    attachment.call("ADD").conf(&conf).run().result()?;
    attachment.del()?;
    before.nothing_left(case.node)
}
