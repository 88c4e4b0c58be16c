//! K. The IPAM plugin on its own.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;

use azure_vnet_testbed::http::{Response, Server};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::fixture::Node;
use crate::result::address_of;
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect, failed};
use crate::status::status;

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 139, versions: Versions::From("0.3.0"), level: "M", check: "ADD: no `interfaces`, no `ips[].interface`; `version` only before 1.0.0", test: Run(result_shape) },
    Row { number: 140, versions: Versions::All, level: "M", check: "DEL of an unknown ID, twice, without namespace, with the pool gone from the configuration", test: Run(del_always_works) },
    Row { number: 141, versions: Versions::All, level: "M", check: "50 ADDs at once, 25 DELs among them: unique addresses, survivors recorded", test: Run(many_at_once) },
    Row { number: 142, versions: Versions::All, level: "M", check: "pool exhausted: error ≥100 or 11 that says so, nothing leaked; STATUS 50 at 1.1.0", test: Run(exhausted) },
    Row { number: 143, versions: Versions::All, level: "Q", check: "record cut off or empty after a crash: recovered, or an error; no leak", test: Run(damaged_record) },
    Row { number: 144, versions: Versions::All, level: "M", check: "network, broadcast, gateway and Azure's own addresses are never handed out", test: Run(reserved_addresses) },
    Row { number: 145, versions: Versions::All, level: "D4", check: "ADD twice with the same key: the same address (or, for others, an error)", test: Run(same_key) },
    Row { number: 146, versions: Versions::All, level: "Q", check: "reservations of an earlier boot are reclaimed", test: Run(reboot) },
];

/// ADD of the IPAM plugin alone.
fn add(attachment: &Attachment<'_>) -> Verdict<Value> {
    attachment.call_ipam("ADD").run().result()
}

fn del(attachment: &Attachment<'_>) -> Verdict {
    attachment.call_ipam("DEL").run().silent()
}

fn result_shape(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = add(&attachment)?;
    expect(result.get("interfaces").is_none(), "no interfaces", &result)?;
    for ip in result["ips"].as_array().into_iter().flatten() {
        let label = ip.get("version").is_some();
        expect(
            ip.get("interface").is_none() && label == (case.version < "1.0.0"),
            "no index, a version only before 1.0.0",
            ip,
        )?;
    }
    address_of(&result)?;
    del(&attachment)
}

fn del_always_works(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    del(&attachment).during("unknown")?;
    for (what, netns) in [
        ("path empty", ""),
        ("path missing", "/run/netns/no-such-namespace"),
    ] {
        add(&attachment)?;
        attachment
            .call_ipam("DEL")
            .env("CNI_NETNS", netns)
            .run()
            .silent()
            .during(what)?;
        del(&attachment).during("again")?;
        before.nothing_left(case.node).during(what)?;
    }
    add(&attachment)?;
    let mut conf = attachment.conf.clone();
    conf["ipam"] = json!({ "type": conf["ipam"]["type"] });
    if case.node.subject.is_ours() {
        conf["ipam"]["subnet"] = "no-subnet".into();
        conf["ipam"]["environment"] = "no-environment".into();
    }
    let reply = attachment.call_ipam("DEL").conf(&conf).run();
    let left = before.nothing_left(case.node);
    if left.is_err() {
        del(&attachment)?;
    }
    reply.silent().during("pool gone")?;
    left.during("pool gone")
}

/// Fifty attachments in parallel; every second one goes again while the others still come.
fn many_at_once(case: &Case<'_>) -> Verdict {
    let before = case.node.reservations();
    let ids: Vec<String> = (0..50)
        .map(|_| format!("p{}", case.node.number()))
        .collect();
    let call = |id: &str, command: &str| {
        let conf = case.node.conf(case.version);
        let plugin = case.node.program(case.node.subject.plugins()[1]);
        let env = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ""),
            ("CNI_PATH", azure_vnet_testbed::PLUGIN_DIR),
        ];
        env.into_iter()
            .fold(plugin, |call, (name, value)| call.env(name, value))
            .conf(&conf)
            .run()
    };
    let outcomes: Vec<Verdict<Option<Ipv4Addr>>> = thread::scope(|scope| {
        let call = &call;
        let threads: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(number, id)| {
                scope.spawn(move || {
                    let address = address_of(&call(id, "ADD").result()?)?;
                    if number % 2 == 0 {
                        return Ok(Some(address));
                    }
                    call(id, "DEL").silent().map(|()| None)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a check does not panic here"))
            .collect()
    });
    let survivors = case.node.reservations().difference(&before).count();
    let cleaned: Vec<Verdict> = ids
        .iter()
        .step_by(2)
        .map(|id| call(id, "DEL").silent())
        .collect();
    let outcomes = outcomes.into_iter().collect::<Verdict<Vec<_>>>()?;
    let addresses: Vec<Ipv4Addr> = outcomes.into_iter().flatten().collect();
    let unique: BTreeSet<_> = addresses.iter().collect();
    expect(
        unique.len() == addresses.len(),
        "every address once",
        format!("{addresses:?}"),
    )?;
    expect(
        survivors == addresses.len(),
        format!("{} reservations", addresses.len()),
        survivors,
    )?;
    cleaned.into_iter().collect::<Verdict<()>>()?;
    expect(
        case.node.reservations() == before,
        "no reservation left",
        format!("{:?}", case.node.reservations()),
    )
}

/// A machine with few addresses: a small pool on the NIC, or a small range in the configuration.
fn with_few<'n>(node: &'n Node, version: &str, count: u8) -> Attachment<'n> {
    let mut attachment = node.attach(version);
    if !node.subject.is_ours() {
        let last = Ipv4Addr::new(10, 66, 0, 9 + count);
        attachment.conf["name"] = "few".into();
        attachment.conf["ipam"]["ranges"] =
            json!([[{ "subnet": "10.66.0.0/24", "rangeStart": "10.66.0.10", "rangeEnd": last }]]);
    }
    attachment
}

fn exhausted(case: &Case<'_>) -> Verdict {
    let node = case.node.sibling(3)?;
    let holders: Vec<_> = (0..3).map(|_| with_few(&node, case.version, 3)).collect();
    for holder in &holders {
        add(holder)?;
    }
    let before = node.reservations();
    let late = with_few(&node, case.version, 3);
    let reply = late.call_ipam("ADD").run();
    let error = reply.failed()?;
    expect(
        error.code >= 100 || error.code == 11,
        "a code ≥100, or 11",
        &reply,
    )?;
    let says = ["in use", "no IP", "exhausted", "available"]
        .iter()
        .any(|word| error.text().contains(word));
    expect(says, "a msg that says so", error.text())?;
    expect(
        node.reservations() == before,
        "no reservation more",
        format!("{:?}", node.reservations()),
    )?;
    if case.version >= "1.1.0" {
        let call = status(&late);
        let plugin = node.subject.plugins()[1];
        call.of(plugin).run().error(50)?;
    }
    holders.iter().try_for_each(del)?;
    add(&late).during("after DEL of the others")?;
    del(&late)
}

/// What a crash of the machine can leave of a record.
fn damaged_record(case: &Case<'_>) -> Verdict {
    for empty in [false, true] {
        let what = if empty { "empty" } else { "cut off" };
        let node = case.node.sibling(3)?;
        let first = with_few(&node, case.version, 3);
        let address = address_of(&add(&first)?)?;
        damage(&node, address, empty);
        let second = with_few(&node, case.version, 3);
        match second.call_ipam("ADD").run().result() {
            Ok(result) => {
                let other = address_of(&result)?;
                expect(
                    other != address,
                    format!("another address than {address}, which is in use"),
                    other,
                )
                .during(what)?;
            }
            Err(_) => second
                .call_ipam("ADD")
                .run()
                .failed()
                .map(drop)
                .during(what)?,
        }
        del(&first).during(what)?;
        del(&second).during(what)?;
        let all: Vec<_> = (0..3).map(|_| with_few(&node, case.version, 3)).collect();
        for attachment in &all {
            add(attachment).during(format!("{what}: all addresses can be had again"))?;
        }
    }
    Ok(())
}

fn damage(node: &Node, address: Ipv4Addr, empty: bool) {
    let path = if node.subject.is_ours() {
        "/run/azure-vnet/ipam.json".to_owned()
    } else {
        format!("/var/lib/cni/networks/few/{address}")
    };
    node.inside(|| {
        let whole = fs::read(&path).unwrap();
        let keep = if empty { 0 } else { whole.len() / 2 };
        fs::write(&path, &whole[..keep]).unwrap();
    });
}

fn reserved_addresses(case: &Case<'_>) -> Verdict {
    let node = case.node.sibling(1)?;
    let mut attachment = with_few(&node, case.version, 1);
    let subnet = "10.66.0.0/29";
    let _server = offer_everything(&node, &mut attachment, subnet);
    let mut given = Vec::new();
    let attachments: Vec<_> = (0..8)
        .map(|_| {
            let mut next = node.attach(case.version);
            next.conf = attachment.conf.clone();
            next
        })
        .collect();
    for attachment in &attachments {
        let reply = attachment.call_ipam("ADD").run();
        let Ok(result) = reply.result() else {
            reply.failed()?;
            break;
        };
        given.push(address_of(&result)?);
    }
    let mut never = vec![
        Ipv4Addr::new(10, 66, 0, 0),
        Ipv4Addr::new(10, 66, 0, 1),
        Ipv4Addr::new(10, 66, 0, 7),
    ];
    if node.subject.is_ours() {
        // Azure keeps the first three hosts of a subnet, and the primary address is the node's.
        never.extend([2, 3, 4].map(|host| Ipv4Addr::new(10, 66, 0, host)));
    }
    let wrong: Vec<_> = given
        .iter()
        .filter(|address| never.contains(address))
        .collect();
    expect(
        wrong.is_empty() && !given.is_empty(),
        format!("some of {subnet} without {never:?}"),
        format!("{given:?}"),
    )
}

/// A source that offers all eight addresses of the subnet, as no Azure would.
fn offer_everything(
    node: &Node,
    attachment: &mut Attachment<'_>,
    subnet: &'static str,
) -> Option<Server> {
    if !node.subject.is_ours() {
        attachment.conf["ipam"]["ranges"] = json!([[{ "subnet": subnet }]]);
        return None;
    }
    let address = Ipv4Addr::new(127, 0, 0, 66);
    attachment.conf["ipam"]["wireserver"] = format!("http://{address}").into();
    // A NIC without an address of its own in the subnet has nothing for pods.
    let ip = node.vm().program("ip").unwrap();
    let own = ip.args(["address", "add", "10.66.0.4/29", "dev", "eth0"]);
    own.checked().unwrap();
    let mac = node.vm().nic.mac.compact();
    let addresses = (0..8).fold(String::new(), |text, host| {
        let primary = host == 4;
        text + &format!(r#"<IPAddress Address="10.66.0.{host}" IsPrimary="{primary}"/>"#)
    });
    let body = format!(
        r#"<Interfaces><Interface MacAddress="{mac}" IsPrimary="true"><IPSubnet Prefix="{subnet}">{addresses}</IPSubnet></Interface></Interfaces>"#
    );
    let server = Server::start(node.vm().namespace(), address, move |_| Response {
        status: 200,
        content_type: "text/xml; charset=utf-8",
        body: body.clone(),
    });
    Some(server.unwrap())
}

fn same_key(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let first = address_of(&add(&attachment)?)?;
    let reply = attachment.call_ipam("ADD").run();
    if case.node.subject.is_ours() || reply.status.success() {
        let second = address_of(&reply.result()?)?;
        expect(first == second, format!("{first} again"), second)?;
    } else {
        reply.failed()?;
    }
    del(&attachment)
}

fn reboot(case: &Case<'_>) -> Verdict {
    let node = case.node.sibling(3)?;
    let before: Vec<_> = (0..3).map(|_| with_few(&node, case.version, 3)).collect();
    for attachment in &before {
        add(attachment)?;
    }
    let boot_id = "/proc/sys/kernel/random/boot_id";
    node.inside(|| {
        fs::write("/run/boot_id", "11111111-2222-4333-8444-555555555555\n").unwrap();
        mount_bind("/run/boot_id", boot_id).map_err(|error| failed("another boot id", error))
    })?;
    let after: Vec<_> = (0..3).map(|_| with_few(&node, case.version, 3)).collect();
    let verdict = after
        .iter()
        .try_for_each(|attachment| add(attachment).map(drop));
    node.inside(|| unmount(boot_id, UnmountFlags::DETACH))
        .unwrap();
    verdict.during("all addresses can be had after a boot")
}
