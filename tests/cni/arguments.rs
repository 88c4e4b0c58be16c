//! J. `runtimeConfig`, `CNI_ARGS`, chaining.

use std::collections::BTreeSet;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::libcni;
use serde_json::{Map, Value, json};

use crate::attachment::Attachment;
use crate::fixture::ip_json;
use crate::result::{address_of, sandbox_interface};
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect, failed, not_applicable};

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 132, versions: Versions::From("0.3.0"), level: "R", check: "`portMappings` with the specification's and with containerd's keys: same rules", test: Run(port_mappings) },
    Row { number: 133, versions: Versions::From("0.3.0"), level: "R", check: "a certain address by runtimeConfig, `CNI_ARGS`, `args.cni`; one that is taken or out of range: error, nothing allocated", test: Run(certain_address) },
    Row { number: 134, versions: Versions::From("0.3.0"), level: "R", check: "MAC: runtimeConfig before `args.cni` before `CNI_ARGS`; an invalid one: error", test: Run(certain_mac) },
    Row { number: 135, versions: Versions::All, level: "R", check: "the five Kubernetes keys in `CNI_ARGS`, `IgnoreUnknown` anywhere, as 1, true, TRUE", test: Run(kubernetes_args) },
    Row { number: 136, versions: Versions::All, level: "D11", check: "`CNI_ARGS` unknown without `IgnoreUnknown`, or malformed: error ≥100 or 4 on ADD, ignored on DEL", test: Run(odd_args) },
    Row { number: 137, versions: Versions::From("0.3.0"), level: "M", check: "chained with portmap, tuning, bandwidth, firewall: add, check, del", test: Run(chained) },
    Row { number: 138, versions: Versions::From("0.3.0"), level: "M", check: "`prevResult` on ADD is kept and re-indexed, or refused", test: Run(prev_result_kept) },
];

fn port_mappings(_: &Case<'_>) -> Verdict {
    not_applicable("host ports are portmap's, see 137")
}

/// Fails unless ADD gives this address.
fn gives(attachment: &Attachment<'_>, args: &str, wanted: std::net::Ipv4Addr) -> Verdict {
    let result = attachment
        .call("ADD")
        .env("CNI_ARGS", args)
        .run()
        .result()?;
    let got = address_of(&result)?;
    expect(got == wanted, format!("the address {wanted}"), got)?;
    attachment.finish()
}

fn certain_address(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let ours = case.node.subject.is_ours();
    let wanted = if ours {
        case.node.lease(3).address
    } else {
        "10.9.0.190".parse().unwrap()
    };
    let prefix = case.node.lease(0).prefix;
    let attach = |key: &str, value: Value| {
        let mut attachment = case.node.attach(case.version);
        attachment.conf["capabilities"] = json!({ "ips": true });
        attachment.conf[key] = value;
        attachment
    };
    for text in [wanted.to_string(), format!("{wanted}/{prefix}")] {
        gives(
            &attach("runtimeConfig", json!({ "ips": [text] })),
            "",
            wanted,
        )
        .during(format!("runtimeConfig {text}"))?;
    }
    gives(
        &attach("args", json!({ "cni": { "ips": [wanted] } })),
        "",
        wanted,
    )
    .during("args.cni.ips")?;
    // The reference's bridge knows MAC only, and its IPAM plugin IP only, so each needs IgnoreUnknown for the other's sake.
    gives(
        &case.node.attach(case.version),
        &format!("IgnoreUnknown=1;IP={wanted}"),
        wanted,
    )
    .during("CNI_ARGS")?;
    before.nothing_left(case.node)?;

    let holder = attach("runtimeConfig", json!({ "ips": [wanted] }));
    holder.add()?;
    let held = case.node.snapshot();
    for unavailable in [wanted.to_string(), "192.0.2.1".into()] {
        let attachment = attach("runtimeConfig", json!({ "ips": [unavailable] }));
        attachment.call("ADD").run().failed().during(&unavailable)?;
        held.nothing_left(case.node).during(&unavailable)?;
    }
    holder.del()
}

fn certain_mac(case: &Case<'_>) -> Verdict {
    let macs = [
        "02:00:00:01:34:01",
        "02:00:00:01:34:02",
        "02:00:00:01:34:03",
    ];
    let try_with = |runtime_config: bool, args: bool, variable: &str| -> Verdict<String> {
        let mut attachment = case.node.attach(case.version);
        attachment.conf["capabilities"] = json!({ "mac": true });
        if runtime_config {
            attachment.conf["runtimeConfig"] = json!({ "mac": macs[0] });
        }
        if args {
            attachment.conf["args"] = json!({ "cni": { "mac": macs[1] } });
        }
        let result = attachment
            .call("ADD")
            .env("CNI_ARGS", variable)
            .run()
            .result()?;
        let (_, interface) = sandbox_interface(&result, "eth0")?;
        let link = ip_json(attachment.sandbox.namespace(), "link show dev eth0");
        let mac = link[0]["address"].as_str().unwrap_or_default().to_owned();
        expect(
            interface["mac"] == mac.as_str(),
            "the link's MAC in the result",
            interface,
        )?;
        attachment.finish()?;
        Ok(mac)
    };
    let variable = format!("IgnoreUnknown=1;MAC={}", macs[2]);
    for (runtime_config, args, wanted) in [
        (false, false, macs[2]),
        (false, true, macs[1]),
        (true, true, macs[0]),
    ] {
        let got = try_with(runtime_config, args, &variable)?;
        expect(got == wanted, format!("the MAC {wanted}"), got)?;
    }
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    let reply = attachment
        .call("ADD")
        .env("CNI_ARGS", "IgnoreUnknown=1;MAC=no-mac")
        .run();
    reply.failed().during("an invalid MAC")?;
    before.nothing_left(case.node).during("an invalid MAC")
}

fn kubernetes_args(case: &Case<'_>) -> Verdict {
    let keys = [
        "K8S_POD_NAMESPACE=default",
        "K8S_POD_NAME=web",
        "K8S_POD_INFRA_CONTAINER_ID=abc",
        "K8S_POD_UID=7c6ee0d4-0b1b-4b8c-9a77-6c1f8f3d1d11",
    ];
    for (place, value) in [(0, "1"), (4, "true"), (2, "TRUE")] {
        let mut pairs: Vec<String> = keys.map(str::to_owned).to_vec();
        pairs.insert(place, format!("IgnoreUnknown={value}"));
        let args = pairs.join(";");
        let attachment = case.node.attach(case.version);
        attachment
            .call("ADD")
            .env("CNI_ARGS", &args)
            .run()
            .result()
            .during(&args)?;
        attachment
            .del_by(attachment.call("DEL").env("CNI_ARGS", &args))
            .during(&args)?;
    }
    Ok(())
}

fn odd_args(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    // A trailing `;` is tolerated: the decision on this row, where the reference refuses it.
    for args in ["NO_SUCH_KEY=p", "FOO", "A=B=C", "IgnoreUnknown=yes;A=B"] {
        let attachment = case.node.attach(case.version);
        let reply = attachment.call("ADD").env("CNI_ARGS", args).run();
        let error = reply.failed().during(args)?;
        expect(
            error.code >= 100 || error.code == 4,
            "a code ≥100, or 4",
            &reply,
        )
        .during(args)?;
        attachment
            .del_by(attachment.call("DEL").env("CNI_ARGS", args))
            .during(args)?;
    }
    before.nothing_left(case.node)
}

/// The subject's plugin without the keys that belong to the list.
fn of_list(case: &Case<'_>) -> Value {
    let mut plugin = case.node.conf(case.version);
    let keys = plugin.as_object_mut().unwrap();
    keys.remove("cniVersion");
    keys.remove("name");
    plugin
}

fn chained(case: &Case<'_>) -> Verdict {
    let before: BTreeSet<String> = case.node.reservations();
    let mac = "02:00:00:01:37:01";
    if case.version > "1.0.0" {
        return not_applicable("Debian's plugins stop at 1.0.0");
    }
    let mut list = json!({
        "cniVersion": case.version,
        "name": "n1",
        "plugins": [
            of_list(case),
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
            { "type": "tuning", "mac": mac },
            { "type": "bandwidth", "ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u64, "egressRate": 10_000_000, "egressBurst": 4_294_967_295_u64 },
        ],
    });
    if case.version >= "0.4.0" {
        // Debian's firewall knows no earlier version.
        let firewall = json!({ "type": "firewall", "backend": "iptables" });
        list["plugins"].as_array_mut().unwrap().push(firewall);
    }
    // Debian's portmap fails its own CHECK of an IPv4-only pod with ports, whatever is before it: no ports where CHECK is asked.
    let list = Conflist::parse(&list.to_string()).unwrap();
    for ports in [true, false] {
        let sandbox = case.node.sandbox();
        let mut attachment = libcni::Attachment {
            container_id: format!("chain{}", case.node.number()),
            netns: sandbox.path.clone(),
            ifname: "eth0".into(),
            ..libcni::Attachment::default()
        };
        if ports {
            let mapping =
                json!([{ "HostPort": 8137, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }]);
            attachment.capability_args = Map::from_iter([("portMappings".to_owned(), mapping)]);
        }
        let vm = case.node.vm();
        let result = libcni::add(vm, &list, &attachment)
            .map_err(|error| failed("ADD of the chain succeeds", error))?;
        let checked = if case.version >= "0.4.0" && !ports {
            libcni::check(vm, &list, &attachment)
        } else {
            Ok(())
        };
        let deleted = libcni::del(vm, &list, &attachment);
        checked.map_err(|error| failed("CHECK of the chain succeeds", error))?;
        deleted.map_err(|error| failed("DEL of the chain succeeds", error))?;
        let (_, interface) = sandbox_interface(&result, "eth0")?;
        expect(
            interface["mac"] == mac,
            "the MAC that tuning set, in the result",
            &result,
        )?;
        let left = case.node.reservations();
        expect(left == before, "no reservation left", format!("{left:?}"))?;
    }
    Ok(())
}

fn prev_result_kept(case: &Case<'_>) -> Verdict {
    let mut attachment = case.node.attach(case.version);
    let label = if case.version < "1.0.0" {
        json!("4")
    } else {
        Value::Null
    };
    let mut ip = json!({ "address": "192.0.2.8/24", "interface": 0 });
    if !label.is_null() {
        ip["version"] = label;
    }
    attachment.conf["prevResult"] = json!({
        "cniVersion": case.version,
        "interfaces": [{ "name": "first0", "mac": "02:00:00:01:38:01", "sandbox": attachment.sandbox.path }],
        "ips": [ip],
        "routes": [],
        "dns": {},
    });
    let reply = attachment.call("ADD").run();
    if !reply.status.success() {
        return reply.failed().map(drop);
    }
    let result = reply.result()?;
    let list = |key: &str| result[key].as_array().cloned().unwrap_or_default();
    let prior = list("ips")
        .into_iter()
        .find(|ip| ip["address"] == "192.0.2.8/24");
    let prior = prior.ok_or_else(|| failed("the address of prevResult in the result", &result))?;
    let interface = |ip: &Value| {
        let index = ip["interface"]
            .as_u64()
            .and_then(|index| usize::try_from(index).ok());
        index
            .and_then(|index| list("interfaces").get(index).cloned())
            .unwrap_or_default()["name"]
            .clone()
    };
    expect(
        interface(&prior) == "first0",
        "its index still that of first0",
        &result,
    )?;
    let own = list("ips")
        .into_iter()
        .find(|ip| ip["address"] != "192.0.2.8/24");
    let own = own.ok_or_else(|| failed("an address of our own", &result))?;
    expect(
        interface(&own) == "eth0",
        "our address with the index of eth0",
        &result,
    )?;
    attachment.finish()
}
