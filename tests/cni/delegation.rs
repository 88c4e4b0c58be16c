//! I. Delegation to the IPAM plugin.

use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::call::Call;
use crate::fake::{FAKE, Fake, ipam_result};
use crate::result::address_of;
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect, failed, not_applicable};
use crate::status::without_attachment;

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 121, versions: Versions::All, level: "M", check: "IPAM gets the whole configuration on every command, unknown keys included", test: Run(configuration_passed) },
    Row { number: 122, versions: Versions::All, level: "M", check: "IPAM gets the whole environment, `CNI_COMMAND` = the operation", test: Run(environment_passed) },
    Row { number: 123, versions: Versions::All, level: "M", check: "first match in `CNI_PATH`; missing directories are skipped; a type with `/` is refused", test: Run(first_in_path) },
    Row { number: 124, versions: Versions::From("1.0.0"), level: "S", check: "IPAM's stderr is forwarded, on success and on failure", test: Run(stderr_forwarded) },
    Row { number: 125, versions: Versions::All, level: "M", check: "IPAM's error is passed on: code, msg, details", test: Run(error_passed) },
    Row { number: 126, versions: Versions::All, level: "M", check: "IPAM fails with text, with stderr only, with nothing: error ≥100 with that text", test: Run(failures_without_object) },
    Row { number: 127, versions: Versions::From("1.0.0"), level: "S", check: "IPAM's ADD fails: its DEL is called once", test: Run(del_after_failed_add) },
    Row { number: 128, versions: Versions::All, level: "M", check: "IPAM's result without addresses, garbage, empty, of an unknown version; a failure later: error ≥100, IPAM's DEL called", test: Run(unusable_results) },
    Row { number: 129, versions: Versions::All, level: "R", check: "IPAM's result without version, of another version, with interfaces or a wrong label: converted", test: Run(results_converted) },
    Row { number: 130, versions: Versions::All, level: "M", check: "IPAM runs in the host's network namespace", test: Run(host_namespace) },
    Row { number: 131, versions: Versions::From("0.3.0"), level: "R", check: "with `host-local` and `static` for IPAM; our IPAM under `bridge`, `ptp`, `macvlan`", test: Run(third_parties) },
];

/// The commands that a version has and that take a configuration.
fn commands(case: &Case<'_>) -> Vec<&'static str> {
    let mut commands = vec!["ADD"];
    if case.version >= "0.4.0" {
        commands.push("CHECK");
    }
    if case.version >= "1.1.0" {
        commands.extend(["STATUS", "GC"]);
    }
    commands.push("DEL");
    commands
}

/// Runs every command once and gives the configuration that was sent with each.
fn every_command(
    case: &Case<'_>,
    attachment: &Attachment<'_>,
    change: impl for<'c> Fn(Call<'c>) -> Call<'c>,
) -> Verdict<Vec<(&'static str, Value)>> {
    let mut sent = Vec::new();
    let mut result = Value::Null;
    for command in commands(case) {
        let mut conf = attachment.conf.clone();
        if matches!(command, "CHECK" | "DEL") && case.version >= "0.4.0" {
            conf["prevResult"] = result.clone();
        }
        if command == "GC" {
            let keep = json!([{ "containerID": attachment.id, "ifname": attachment.ifname }]);
            conf["cni.dev/valid-attachments"] = keep;
        }
        let call = change(attachment.call(command).conf(&conf));
        let of_attachment = !matches!(command, "STATUS" | "GC");
        let call = if of_attachment {
            call
        } else {
            without_attachment(call)
        };
        let reply = call.run();
        if command == "ADD" {
            result = reply.result()?;
        } else {
            reply.silent()?;
        }
        sent.push((command, conf));
    }
    attachment.forget();
    Ok(sent)
}

fn rich<'a>(fake: &Fake<'a>, version: &str) -> Attachment<'a> {
    let mut attachment = fake.attach(version);
    attachment.conf["example.com/unknown"] = json!({ "deep": [1, null] });
    attachment.conf["args"] = json!({ "labels": [{ "key": "app", "value": "web" }] });
    attachment.conf["capabilities"] = json!({ "dns": true });
    attachment.conf["runtimeConfig"] =
        json!({ "dns": { "Servers": ["192.0.2.53"], "Searches": null } });
    attachment
}

fn configuration_passed(case: &Case<'_>) -> Verdict {
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let sent = every_command(case, &rich(&fake, case.version), |call| call)?;
    let calls = fake.calls();
    for (command, conf) in sent {
        let call = calls.iter().find(|call| call.command == command);
        let call = call.ok_or_else(|| {
            failed(
                format!("IPAM is called for {command}"),
                format!("{:?}", fake.commands()),
            )
        })?;
        let got: Value = serde_json::from_str(&call.stdin)
            .map_err(|error| failed("JSON on IPAM's stdin", error))?;
        expect(got == conf, format!("{command} with {conf}"), &call.stdin)?;
    }
    Ok(())
}

fn environment_passed(case: &Case<'_>) -> Verdict {
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let attachment = fake.attach(case.version);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let args = "IgnoreUnknown=1;K8S_POD_NAME=p";
    every_command(case, &attachment, |call| {
        call.env("FOO", "bar")
            .env("TRACEPARENT", trace)
            .env("CNI_ARGS", args)
    })?;
    let calls = fake.calls();
    for command in commands(case) {
        let call = calls.iter().find(|call| call.command == command);
        let call = call.ok_or_else(|| {
            failed(
                format!("IPAM is called for {command}"),
                format!("{:?}", fake.commands()),
            )
        })?;
        let of_attachment = !matches!(command, "STATUS" | "GC");
        let id = if of_attachment {
            attachment.id.as_str()
        } else {
            ""
        };
        let wanted = [
            ("FOO", "bar"),
            ("TRACEPARENT", trace),
            ("CNI_ARGS", args),
            ("CNI_CONTAINERID", id),
            ("CNI_PATH", &attachment.cni_path),
        ];
        for (name, value) in wanted {
            let got = call.env.get(name);
            expect(
                got.is_some_and(|got| got == value),
                format!("{name}={value} for {command}"),
                format!("{got:?}"),
            )?;
        }
    }
    Ok(())
}

fn first_in_path(case: &Case<'_>) -> Verdict {
    let [first, second] =
        [0, 1].map(|number| Fake::granting(case.node, case.version, case.node.lease(number)));
    let mut attachment = first.attach(case.version);
    attachment.cni_path = format!("/nonexistent:{}:{}", first.dir, second.dir);
    let address = address_of(&attachment.add()?)?;
    attachment.finish()?;
    let expected = case.node.lease(0).address;
    expect(
        address == expected,
        format!("{expected}, from the first directory"),
        address,
    )?;
    second.was_not_called()?;
    for kind in [
        format!(
            "../{}/{FAKE}",
            first.dir.rsplit('/').next().unwrap_or_default()
        ),
        format!("{}/{FAKE}", first.dir),
        String::new(),
    ] {
        let mut attachment = first.attach(case.version);
        attachment.conf["ipam"]["type"] = kind.clone().into();
        attachment.cni_path.clone_from(&first.dir);
        attachment
            .call("ADD")
            .run()
            .failed()
            .during(format!("type {kind:?}"))?;
        attachment.forget();
    }
    Ok(())
}

fn stderr_forwarded(case: &Case<'_>) -> Verdict {
    let fake = Fake::new(case.node);
    let result = ipam_result(case.version, &[case.node.lease(0)]).to_string();
    fake.answer("ADD", &result, "a word of warning\n", 0);
    let attachment = fake.attach(case.version);
    let reply = attachment.call("ADD").run();
    reply.result()?;
    expect(
        reply.stderr.contains("a word of warning"),
        "IPAM's stderr on success",
        &reply,
    )?;
    attachment.finish()?;
    let error = json!({ "cniVersion": case.version, "code": 11, "msg": "not now" }).to_string();
    fake.answer("ADD", &error, "a word of despair\n", 1);
    let reply = attachment.call("ADD").run();
    expect(
        reply.stderr.contains("a word of despair"),
        "IPAM's stderr on failure",
        &reply,
    )
}

fn error_passed(case: &Case<'_>) -> Verdict {
    let fake = Fake::new(case.node);
    let error = json!({ "cniVersion": case.version, "code": 11, "msg": "not now", "details": "in a minute" });
    fake.answer("ADD", &error.to_string(), "", 7);
    let reply = fake.attach(case.version).call("ADD").run();
    let got = reply.error(11)?;
    expect(
        got.msg == "not now" && got.details == "in a minute",
        "IPAM's msg and details",
        &reply,
    )
}

fn failures_without_object(case: &Case<'_>) -> Verdict {
    let variants = [("plain words", ""), ("", "words on the side"), ("", "")];
    for (stdout, stderr) in variants {
        let fake = Fake::new(case.node);
        fake.answer("ADD", stdout, stderr, 1);
        let error = fake.attach(case.version).call("ADD").run().own_error()?;
        let told = error.text().contains(stdout) && error.text().contains(stderr);
        expect(
            told,
            format!("{stdout:?} and {stderr:?} in the error"),
            error.text(),
        )?;
    }
    Ok(())
}

fn del_after_failed_add(case: &Case<'_>) -> Verdict {
    let fake = Fake::new(case.node);
    fake.refuse("ADD", case.version, 123, "no address today", "");
    let attachment = fake.attach(case.version);
    attachment.call("ADD").run().failed()?;
    let commands = fake.commands();
    expect(
        commands == ["ADD", "DEL"],
        "IPAM is called for ADD and DEL",
        format!("{commands:?}"),
    )
}

fn unusable_results(case: &Case<'_>) -> Verdict {
    let lease = case.node.lease(0);
    let mut no_ips = ipam_result("0.3.1", &[lease]);
    no_ips["ips"] = json!([]);
    let mut unknown = ipam_result("1.0.0", &[lease]);
    unknown["cniVersion"] = "9.0.0".into();
    let mut bad_route = ipam_result("0.3.1", &[lease]);
    bad_route["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "224.0.0.5" }]);
    let variants = [
        ("no addresses", no_ips.to_string()),
        ("garbage", "garbage".to_owned()),
        ("nothing", String::new()),
        ("unknown version", unknown.to_string()),
        ("a failure later", bad_route.to_string()),
    ];
    for (what, answer) in variants {
        let before = case.node.snapshot();
        let fake = Fake::new(case.node);
        fake.answer("ADD", &answer, "", 0);
        let attachment = fake.attach(case.version);
        attachment.call("ADD").run().own_error().during(what)?;
        let commands = fake.commands();
        expect(
            commands == ["ADD", "DEL"],
            "IPAM is called for ADD and DEL",
            format!("{commands:?}"),
        )
        .during(what)?;
        before.nothing_left(case.node).during(what)?;
    }
    Ok(())
}

fn results_converted(case: &Case<'_>) -> Verdict {
    let lease = case.node.lease(0);
    let mut without_version = ipam_result(case.version, &[lease]);
    without_version
        .as_object_mut()
        .unwrap()
        .remove("cniVersion");
    let mut with_interfaces = ipam_result("0.3.1", &[lease]);
    with_interfaces["interfaces"] = json!([{ "name": "strange0" }]);
    with_interfaces["ips"][0]["interface"] = 0.into();
    let mut mislabelled = ipam_result("0.3.1", &[lease]);
    mislabelled["ips"][0]["version"] = "6".into();
    let variants = [
        ("without cniVersion", without_version),
        ("of 0.2.0", ipam_result("0.2.0", &[lease])),
        ("of 0.3.1", ipam_result("0.3.1", &[lease])),
        ("of 1.0.0", ipam_result("1.0.0", &[lease])),
        ("with interfaces", with_interfaces),
        ("with a wrong family", mislabelled),
    ];
    for (what, granted) in variants {
        let fake = Fake::new(case.node);
        fake.grant(&granted);
        let attachment = fake.attach(case.version);
        let result = attachment.add().during(what)?;
        converted(case, &result).during(what)?;
        attachment.finish().during(what)?;
    }
    Ok(())
}

/// The lease in the form of the configuration's version, and nothing of IPAM's own interfaces.
fn converted(case: &Case<'_>, result: &Value) -> Verdict {
    let cidr = case.node.lease(0).cidr();
    expect(
        result["cniVersion"] == case.version,
        format!("a result of {}", case.version),
        result,
    )?;
    if case.version < "0.3.0" {
        return expect(
            result["ip4"]["ip"] == cidr.as_str(),
            format!("{cidr} in ip4"),
            result,
        );
    }
    let ip = &result["ips"][0];
    let label = ip["version"].as_str();
    let labelled = if case.version < "1.0.0" {
        label == Some("4")
    } else {
        label.is_none()
    };
    expect(
        ip["address"] == cidr.as_str() && labelled,
        format!("{cidr} with the version's label"),
        result,
    )?;
    let index = ip["interface"]
        .as_u64()
        .and_then(|index| usize::try_from(index).ok())
        .unwrap_or(usize::MAX);
    expect(
        result["interfaces"][index]["name"] == "eth0",
        "an index of our own interface",
        result,
    )?;
    expect(
        !result.to_string().contains("strange0"),
        "none of IPAM's interfaces",
        result,
    )
}

fn host_namespace(case: &Case<'_>) -> Verdict {
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    every_command(case, &fake.attach(case.version), |call| call)?;
    let own = case
        .node
        .inside(|| std::fs::read_link("/proc/thread-self/ns/net"))
        .unwrap();
    let own = own.display().to_string();
    for call in fake.calls() {
        expect(
            call.netns == own,
            format!("{own} for {}", call.command),
            &call.netns,
        )?;
    }
    Ok(())
}

fn third_parties(case: &Case<'_>) -> Verdict {
    if !case.node.subject.is_ours() {
        return not_applicable("about working with the reference");
    }
    if case.version > "1.0.0" {
        return not_applicable("Debian's plugins stop at 1.0.0");
    }
    let lease = case.node.lease(0);
    let range = json!([{ "subnet": "10.0.0.0/20", "rangeStart": lease.address, "rangeEnd": lease.address, "gateway": lease.gateway }]);
    let address = json!({ "address": lease.cidr(), "gateway": lease.gateway });
    let others = [
        json!({ "type": "host-local", "ranges": [range], "routes": [{ "dst": "0.0.0.0/0" }] }),
        json!({ "type": "static", "addresses": [address], "routes": [{ "dst": "0.0.0.0/0" }] }),
    ];
    for ipam in others {
        let mut attachment = case.node.attach(case.version);
        let what = format!("with {}", ipam["type"]);
        attachment.conf["ipam"] = ipam;
        round_trip(case, &attachment).during(what)?;
    }
    for main in [
        json!({ "type": "bridge", "bridge": "cni9", "isGateway": false }),
        json!({ "type": "ptp", "ipMasq": false }),
        json!({ "type": "macvlan", "master": "eth0" }),
    ] {
        let mut conf = main.clone();
        conf["cniVersion"] = case.version.into();
        conf["name"] = "n3".into();
        conf["ipam"] = json!({ "type": "azure-vnet-ipam" });
        let attachment = case.node.attach_with(conf);
        // A NIC that is a port of a bridge cannot carry a macvlan, so that one is checked on a link of its own.
        let attachment = if main["type"] == "macvlan" {
            on_free_link(attachment)
        } else {
            attachment
        };
        round_trip(case, &attachment).during(format!("under {}", main["type"]))?;
    }
    Ok(())
}

fn on_free_link(mut attachment: Attachment<'_>) -> Attachment<'_> {
    let host = attachment.node.vm().namespace();
    if !crate::fixture::links(host)
        .iter()
        .any(|link| link == "free0")
    {
        crate::fixture::ip(host, "link add free0 up type veth peer name free1");
    }
    attachment.conf["master"] = "free0".into();
    attachment
}

fn round_trip(case: &Case<'_>, attachment: &Attachment<'_>) -> Verdict {
    let result = attachment.add()?;
    address_of(&result)?;
    if case.version >= "0.4.0" {
        attachment.check(&result).silent()?;
    }
    attachment.finish()
}
