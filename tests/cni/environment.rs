//! B. Environment and configuration.

use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::call::{Call, Reply};
use crate::fake::Fake;
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect, not_applicable};
use crate::snapshot::files;

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 16, versions: Versions::All, level: "M", check: "ADD without `CNI_NETNS` or `CNI_IFNAME`, or with an empty one: error 4 naming it; IPAM not called", test: Run(add_without_netns_or_ifname) },
    Row { number: 17, versions: Versions::From("0.4.0"), level: "M", check: "ADD and DEL without `CNI_CONTAINERID`: error 4 naming it", test: Run(without_container_id) },
    Row { number: 18, versions: Versions::To("0.3.1"), level: "D8", check: "ADD without `CNI_CONTAINERID`: error 4", test: Run(add_without_container_id) },
    Row { number: 19, versions: Versions::All, level: "R", check: "two variables missing: one error 4 naming both", test: Run(two_missing) },
    Row { number: 20, versions: Versions::From("0.4.0"), level: "M", check: "CHECK without a required variable: error 4 naming it", test: Run(check_without) },
    Row { number: 21, versions: Versions::All, level: "M", check: "DEL without `CNI_NETNS`, or with an empty one", test: Run(del_without_netns) },
    Row { number: 22, versions: Versions::All, level: "M", check: "ADD and DEL without `CNI_ARGS`", test: Run(without_args) },
    Row { number: 23, versions: Versions::All, level: "D9", check: "ADD and DEL without `CNI_PATH`: error 4 naming it", test: Run(without_path) },
    Row { number: 24, versions: Versions::From("1.0.0"), level: "M", check: "bad container ID on ADD, CHECK, DEL: error 4 naming it; no file is made", test: Run(bad_container_ids) },
    Row { number: 25, versions: Versions::All, level: "M", check: "container IDs `A.b_c-9`, 64 hex digits, 300 letters", test: Run(odd_container_ids) },
    Row { number: 26, versions: Versions::From("0.3.0"), level: "M", check: "interface name of 15 bytes", test: Run(long_ifname) },
    Row { number: 27, versions: Versions::From("0.3.0"), level: "M", check: "bad interface name (16 bytes, `.`, `..`, `a/b`, `a:b`, `a b`): error 4 naming the variable", test: Run(bad_ifnames) },
    Row { number: 28, versions: Versions::All, level: "M", check: "stdin empty, cut off, `[]`, followed by text: error 6", test: Run(bad_json) },
    Row { number: 29, versions: Versions::All, level: "M", check: "`name` missing or empty: error 7; of the wrong type: 6 or 7", test: Run(bad_name) },
    Row { number: 30, versions: Versions::From("1.0.0"), level: "M", check: "`name` `-a`, `a b`, `a/b`: error 7", test: Run(odd_name) },
    Row { number: 31, versions: Versions::All, level: "M", check: "unknown keys, and anything in `args`", test: Run(unknown_keys) },
    Row { number: 32, versions: Versions::All, level: "M", check: "`vlan`, `macspoofchk` where not offered: error 2 with key and value", test: Run(unsupported_keys) },
    Row { number: 33, versions: Versions::All, level: "R", check: "keys in any case", test: Run(keys_in_any_case) },
    Row { number: 34, versions: Versions::All, level: "M", check: "wrong type for a key that is used: error 6 or 7", test: Run(wrong_types) },
    Row { number: 35, versions: Versions::All, level: "M", check: "`capabilities` in the configuration is ignored", test: Run(capabilities) },
];

/// The call without the variable, and with an empty one.
fn missing<'a>(call: &Call<'a>, name: &str) -> [Call<'a>; 2] {
    [call.clone().without(name), call.clone().env(name, "")]
}

fn add_without_netns_or_ifname(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let attachment = fake.attach(case.version);
    for name in ["CNI_NETNS", "CNI_IFNAME"] {
        for call in missing(&attachment.call("ADD"), name) {
            call.run().error(4)?.names(&[name])?;
        }
    }
    fake.was_not_called()?;
    before.nothing_left(case.node)
}

fn without_container_id(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    for command in ["ADD", "DEL"] {
        for call in missing(&attachment.call(command), "CNI_CONTAINERID") {
            call.run().error(4)?.names(&["CNI_CONTAINERID"])?;
        }
    }
    Ok(())
}

fn add_without_container_id(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    for call in missing(&attachment.call("ADD"), "CNI_CONTAINERID") {
        call.run().error(4)?.names(&["CNI_CONTAINERID"])?;
    }
    Ok(())
}

fn two_missing(case: &Case<'_>) -> Verdict {
    let call = case.node.attach(case.version).call("ADD");
    let reply = call.without("CNI_CONTAINERID").env("CNI_IFNAME", "").run();
    reply.error(4)?.names(&["CNI_CONTAINERID", "CNI_IFNAME"])
}

fn check_without(case: &Case<'_>) -> Verdict {
    let call = case.node.attach(case.version).call("CHECK");
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        for call in missing(&call, name) {
            call.run().error(4)?.names(&[name])?;
        }
    }
    Ok(())
}

fn del_without_netns(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    for call in missing(&attachment.call("DEL"), "CNI_NETNS") {
        call.run().silent()?;
    }
    Ok(())
}

fn without_args(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    attachment.call("ADD").without("CNI_ARGS").run().result()?;
    attachment.del_by(attachment.call("DEL").without("CNI_ARGS"))
}

fn without_path(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    for command in ["ADD", "DEL"] {
        for call in missing(&attachment.call(command), "CNI_PATH") {
            call.run().error(4)?.names(&["CNI_PATH"])?;
        }
    }
    before.nothing_left(case.node)
}

fn bad_container_ids(case: &Case<'_>) -> Verdict {
    let all_files = || {
        case.node
            .inside(|| files(&["/run", "/var/lib/cni", "/tmp/cni"]))
    };
    let before = all_files();
    let attachment = case.node.attach(case.version);
    for id in ["-abc", "_a", "a/b", "a b", "../x"] {
        for command in ["ADD", "CHECK", "DEL"] {
            let reply = attachment.call(command).env("CNI_CONTAINERID", id).run();
            reply
                .error(4)
                .and_then(|error| error.names(&["CNI_CONTAINERID"]))
                .during(id)?;
        }
    }
    let after = all_files();
    let made: Vec<_> = after.difference(&before).collect();
    expect(made.is_empty(), "no file is made", format!("{made:?}"))
}

fn odd_container_ids(case: &Case<'_>) -> Verdict {
    for id in [
        "A.b_c-9".to_owned(),
        "0123456789abcdef".repeat(4),
        "a".repeat(300),
    ] {
        let before = case.node.snapshot();
        let mut attachment = case.node.attach(case.version);
        attachment.id = id;
        attachment.add()?;
        attachment.del()?;
        before.nothing_left(case.node)?;
    }
    Ok(())
}

fn long_ifname(case: &Case<'_>) -> Verdict {
    let mut attachment = case.node.attach(case.version);
    attachment.ifname = "abcdefghijklmno".into();
    attachment.add()?;
    let links = crate::fixture::links(attachment.sandbox.namespace());
    expect(
        links.contains(&attachment.ifname),
        format!("the link {}", attachment.ifname),
        format!("{links:?}"),
    )?;
    attachment.del()
}

fn bad_ifnames(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    for ifname in ["abcdefghijklmnop", ".", "..", "a/b", "a:b", "a b"] {
        let reply = attachment.call("ADD").env("CNI_IFNAME", ifname).run();
        reply
            .error(4)
            .and_then(|error| error.names(&["CNI_IFNAME"]))
            .during(ifname)?;
    }
    before.nothing_left(case.node)
}

fn bad_json(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let whole = attachment.conf.to_string();
    let cut_off = whole[..whole.len() - 2].to_owned();
    for stdin in [
        String::new(),
        cut_off,
        "[]".into(),
        format!("{whole} and more"),
    ] {
        for command in ["ADD", "DEL"] {
            let reply = attachment.call(command).stdin(stdin.clone()).run();
            reply.error(6).during(format!("{command} with {stdin:?}"))?;
        }
    }
    attachment.forget();
    Ok(())
}

/// ADD of the fixture's configuration with one key replaced; null takes it away.
fn add_with(case: &Case<'_>, key: &str, value: &Value) -> Reply {
    let mut conf = case.node.conf(case.version);
    conf[key] = value.clone();
    if value.is_null() {
        conf.as_object_mut().unwrap().remove(key);
    }
    let attachment = case.node.attach(case.version);
    attachment.call("ADD").conf(&conf).run()
}

fn bad_name(case: &Case<'_>) -> Verdict {
    add_with(case, "name", &Value::Null)
        .error(7)
        .during("no name")?;
    add_with(case, "name", &json!(""))
        .error(7)
        .during("an empty name")?;
    for value in [json!(7), json!(["n1"])] {
        add_with(case, "name", &value)
            .error_among(&[6, 7])
            .during(value)?;
    }
    Ok(())
}

fn odd_name(case: &Case<'_>) -> Verdict {
    for name in ["-a", "a b", "a/b"] {
        add_with(case, "name", &json!(name)).error(7).during(name)?;
    }
    Ok(())
}

fn unknown_keys(case: &Case<'_>) -> Verdict {
    let mut attachment = case.node.attach(case.version);
    attachment.conf["example.com/unknown"] = json!({ "deep": [1, null, true] });
    attachment.conf["ipam"]["example.com/unknown"] = json!([{}]);
    attachment.conf["args"] =
        json!({ "labels": [{ "key": "app", "value": "web" }], "other": 7, "cni": {} });
    attachment.add()?;
    attachment.del()
}

fn unsupported_keys(case: &Case<'_>) -> Verdict {
    if !case.node.subject.is_ours() {
        return not_applicable("the reference offers both keys");
    }
    let before = case.node.snapshot();
    add_with(case, "vlan", &json!(100))
        .error(2)?
        .names(&["vlan", "100"])?;
    add_with(case, "macspoofchk", &json!(true))
        .error(2)?
        .names(&["macspoofchk", "true"])?;
    before.nothing_left(case.node)
}

/// The configuration with a key spelled otherwise.
fn respelled<'a>(mut attachment: Attachment<'a>, key: &str, spelling: &str) -> Attachment<'a> {
    let conf = attachment.conf.as_object_mut().unwrap();
    let value = conf.remove(key).unwrap();
    conf.insert(spelling.into(), value);
    attachment
}

fn keys_in_any_case(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let mut attachment = if case.node.subject.is_ours() {
        // A value that would be refused shows that the key was read.
        let wrong = |key: &str, spelling: &str, value: Value| {
            let mut attachment = case.node.attach(case.version);
            attachment.conf[key] = value;
            let attachment = respelled(attachment, key, spelling);
            let reply = attachment.call("ADD").run();
            attachment.forget();
            reply.failed().map(drop).during(spelling)
        };
        wrong("mode", "MODE", json!("no-such-mode"))?;
        wrong(
            "masquerade",
            "Masquerade",
            json!({ "DATAPATH": "no-such-tier" }),
        )?;
        respelled(
            respelled(case.node.attach(case.version), "ipam", "IPAM"),
            "bridge",
            "Bridge",
        )
    } else {
        respelled(
            respelled(case.node.attach(case.version), "isGateway", "isgateway"),
            "ipMasq",
            "IPMASQ",
        )
    };
    let mac = "02:00:00:00:33:01";
    attachment.conf["RuntimeConfig"] = json!({ "Mac": mac });
    attachment.add()?;
    let masquerades = case
        .node
        .masquerade()
        .iter()
        .any(|entry| before.with(entry).is_empty());
    expect(
        masquerades,
        "masquerading as with the usual spelling",
        "nothing was added",
    )?;
    let link = crate::fixture::ip_json(attachment.sandbox.namespace(), "link show dev eth0");
    expect(
        link[0]["address"] == mac,
        format!("the MAC {mac} of RuntimeConfig"),
        &link[0]["address"],
    )?;
    attachment.finish()
}

fn wrong_types(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let wrong: &[(&str, Value)] = if case.node.subject.is_ours() {
        &[
            ("bridge", json!(5)),
            ("masquerade", json!("yes")),
            ("ipam", json!([])),
            ("dns", json!("192.0.2.53")),
        ]
    } else {
        &[
            ("mtu", json!("x")),
            ("ipMasq", json!("yes")),
            ("dns", json!("192.0.2.53")),
        ]
    };
    for (key, value) in wrong {
        add_with(case, key, value)
            .error_among(&[6, 7])
            .during(key)?;
    }
    before.nothing_left(case.node)
}

fn capabilities(case: &Case<'_>) -> Verdict {
    let mut attachment = case.node.attach(case.version);
    attachment.conf["capabilities"] = json!({ "portMappings": true, "ips": true, "unknown": true });
    attachment.add()?;
    attachment.del()
}
