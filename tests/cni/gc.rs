//! H. GC.

use serde_json::{Value, json};

use crate::add::masqueraded;
use crate::attachment::Attachment;
use crate::fake::Fake;
use crate::fixture::Node;
use crate::result::address_of;
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect};
use crate::snapshot::Snapshot;
use crate::status::without_attachment;

const VALID: &str = "cni.dev/valid-attachments";
/// What the specification's text at the tag 1.1.0 calls it; libcni sends both from 1.2.3 on.
const OLD_VALID: &str = "cni.dev/attachments";

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 113, versions: Versions::From("1.1.0"), level: "M", check: "valid = [c1]: c2's reservation, masquerade and veth are gone, c1 intact, no output", test: Run(stale_goes) },
    Row { number: 114, versions: Versions::From("1.1.0"), level: "M", check: "GC is passed on to IPAM with the whole of stdin", test: Run(passed_on) },
    Row { number: 115, versions: Versions::From("1.1.0"), level: "R", check: "`cni.dev/valid-attachments`, `cni.dev/attachments`, or both: same effect", test: Run(either_key) },
    Row { number: 116, versions: Versions::From("1.1.0"), level: "R", check: "`null` or `[]`: all attachments of the network are collected", test: Run(nothing_valid) },
    Row { number: 117, versions: Versions::From("1.1.0"), level: "D7", check: "neither key: error 7, nothing collected", test: Run(no_key) },
    Row { number: 118, versions: Versions::From("1.1.0"), level: "M", check: "valid = [c1/eth1]: c1/eth0 is collected", test: Run(by_interface) },
    Row { number: 119, versions: Versions::From("1.1.0"), level: "M", check: "another network is not touched", test: Run(other_network) },
    Row { number: 120, versions: Versions::From("1.1.0"), level: "S", check: "IPAM's GC fails: the rest is collected, then the error", test: Run(goes_on) },
];

/// GC of the attachment's network with these keys.
fn gc(attachment: &Attachment<'_>, keys: &[(&str, Value)]) -> crate::call::Reply {
    let mut conf = attachment.conf.clone();
    for (key, value) in keys {
        conf[*key] = value.clone();
    }
    without_attachment(attachment.call("GC")).conf(&conf).run()
}

fn valid(attachments: &[&Attachment<'_>]) -> Value {
    let entry = |attachment: &&Attachment<'_>| json!({ "containerID": attachment.id, "ifname": attachment.ifname });
    attachments.iter().map(entry).collect()
}

/// A stale attachment: its namespace went without DEL.
fn stale<'a>(case: &Case<'a>) -> Verdict<Attachment<'a>> {
    let attachment = case.node.attach(case.version);
    attachment.add()?;
    attachment.forget();
    attachment.sandbox.remove_path();
    Ok(attachment)
}

fn stale_goes(case: &Case<'_>) -> Verdict {
    let one = case.node.attach(case.version);
    let result = one.add()?;
    let before = case.node.snapshot();
    let two = case.node.attach(case.version);
    let address = address_of(&two.add()?)?;
    masqueraded(case, &two)?;
    two.forget();
    two.sandbox.remove_path();
    gc(&one, &[(VALID, valid(&[&one]))]).silent()?;
    gone(&before, case.node).during("c2")?;
    case.node.no_flows_of(address)?;
    drop(two);
    one.check(&result).silent().during("c1 after GC")?;
    one.del()
}

/// All that came since is gone, and nothing that was there before.
fn gone(before: &Snapshot, node: &Node) -> Verdict {
    before.unchanged(node)
}

fn passed_on(case: &Case<'_>) -> Verdict {
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let mut attachment = fake.attach(case.version);
    attachment.conf["example.com/unknown"] = json!([1, 2]);
    let keep = valid(&[&attachment]);
    gc(
        &attachment,
        &[(VALID, keep.clone()), (OLD_VALID, keep.clone())],
    )
    .silent()?;
    let mut sent = attachment.conf.clone();
    sent[VALID] = keep.clone();
    sent[OLD_VALID] = keep;
    let calls = fake.calls();
    let passed = calls.iter().any(|call| {
        call.command == "GC"
            && serde_json::from_str::<Value>(&call.stdin).is_ok_and(|stdin| stdin == sent)
    });
    expect(
        passed,
        format!("a call of GC with {sent}"),
        format!("{calls:?}"),
    )
}

fn either_key(case: &Case<'_>) -> Verdict {
    for keys in [vec![VALID], vec![OLD_VALID], vec![VALID, OLD_VALID]] {
        let one = case.node.attach(case.version);
        let result = one.add()?;
        let before = case.node.snapshot();
        let _two = stale(case)?;
        let keep = valid(&[&one]);
        let with: Vec<_> = keys.iter().map(|key| (*key, keep.clone())).collect();
        gc(&one, &with).silent().during(format!("{keys:?}"))?;
        gone(&before, case.node).during(format!("{keys:?}"))?;
        one.check(&result).silent().during(format!("{keys:?}"))?;
        one.del()?;
    }
    Ok(())
}

fn nothing_valid(case: &Case<'_>) -> Verdict {
    for none in [Value::Null, json!([])] {
        let before = case.node.snapshot();
        let [one, two] = [stale(case)?, stale(case)?];
        gc(&one, &[(VALID, none.clone())]).silent().during(&none)?;
        before.nothing_left(case.node).during(&none)?;
        drop(two);
    }
    Ok(())
}

fn no_key(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    let before = case.node.snapshot();
    gc(&attachment, &[]).error(7)?;
    before.unchanged(case.node)?;
    attachment.check(&result).silent()?;
    attachment.del()
}

fn by_interface(case: &Case<'_>) -> Verdict {
    let eth0 = case.node.attach(case.version);
    let eth1 = eth0.sister("eth1");
    let result = eth1.add()?;
    let before = case.node.snapshot();
    eth0.add()?;
    gc(&eth0, &[(VALID, valid(&[&eth1]))]).silent()?;
    gone(&before, case.node).during("eth0")?;
    eth0.forget();
    eth1.check(&result).silent().during("eth1 after GC")?;
    eth1.del()
}

fn other_network(case: &Case<'_>) -> Verdict {
    let mut other = case.node.attach(case.version);
    other.conf["name"] = "n2".into();
    let result = other.add()?;
    let before = case.node.snapshot();
    let one = stale(case)?;
    gc(&one, &[(VALID, json!([]))]).silent()?;
    gone(&before, case.node)?;
    other
        .check(&result)
        .silent()
        .during("the other network's attachment")?;
    other.del()
}

fn goes_on(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let attachment = fake.attach(case.version);
    attachment.add()?;
    attachment.forget();
    attachment.sandbox.remove_path();
    fake.refuse(
        "GC",
        case.version,
        123,
        "cannot collect",
        "the record is busy",
    );
    let reply = gc(&attachment, &[(VALID, json!([]))]);
    let error = reply.error(123)?;
    expect(error.msg == "cannot collect", "IPAM's msg", &reply)?;
    before.nothing_left_but_reservations(case.node)?;
    fake.answer("GC", "", "", 0);
    gc(&attachment, &[(VALID, json!([]))])
        .silent()
        .during("GC again")?;
    before.nothing_left(case.node)
}
