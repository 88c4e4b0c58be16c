//! E. What an ADD leaves that fails, is killed, or has to wait.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::add::masqueraded;
use crate::attachment::Attachment;
use crate::fake::{Fake, ipam_result};
use crate::fixture::{Subject, ip, ip_json, links};
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect};

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 67, versions: Versions::From("1.0.0"), level: "M", check: "`CNI_IFNAME` exists: error; link, address, reservations, masquerade unchanged", test: Run(existing_interface) },
    Row { number: 68, versions: Versions::All, level: "M", check: "ADD twice: the second fails, the first still works", test: Run(add_twice) },
    Row { number: 70, versions: Versions::All, level: "S", check: "namespace path missing, a plain file, a directory: error ≥100 or 4; IPAM not called", test: Run(no_namespace) },
    Row { number: 71, versions: Versions::From("1.0.0"), level: "R", check: "`CNI_NETNS` is the plugin's own namespace: error before any change", test: Run(own_namespace) },
    Row { number: 72, versions: Versions::All, level: "Q", check: "failures after IPAM (bad route, duplicate address, no masquerading): nothing left at once", test: Run(failed_adds_leave_nothing) },
    Row { number: 73, versions: Versions::All, level: "M", check: "DEL after each of these failures: nothing left", test: Run(del_after_failed_adds) },
    Row { number: 76, versions: Versions::All, level: "Q", check: "SIGKILL at 2, 5, 10, 20, 40, 80 ms, then DEL: nothing left", test: Run(killed) },
    Row { number: 77, versions: Versions::Once, level: "Q", check: "xtables lock held for 5 s by another process: ADD waits or says 11 (every version in turn)", test: Run(xtables_lock) },
    Row { number: 78, versions: Versions::Once, level: "Q", check: "links come and go on the host during 50 ADDs (every version in turn)", test: Run(churn) },
];

fn existing_interface(case: &Case<'_>) -> Verdict {
    for own in [true, false] {
        let first = case.node.attach(case.version);
        let link = || ip_json(first.sandbox.namespace(), "address show dev eth0");
        if own {
            first.add()?;
        } else {
            ip(
                first.sandbox.namespace(),
                "link add eth0 type veth peer name other",
            );
            ip(
                first.sandbox.namespace(),
                "address add 192.0.2.7/24 dev eth0",
            );
        }
        let (before, link_before) = (case.node.snapshot(), link());
        let second = first.sister("eth0");
        second.call("ADD").run().failed()?;
        second.forget();
        let what = if own {
            "its own interface"
        } else {
            "a foreign interface"
        };
        before.unchanged(case.node).during(what)?;
        expect(
            link() == link_before,
            format!("the link as it was, {link_before}"),
            link(),
        )
        .during(what)?;
        if own {
            first.del()?;
        } else {
            ip(first.sandbox.namespace(), "link del eth0");
        }
    }
    Ok(())
}

fn add_twice(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    attachment.call("ADD").run().failed()?;
    masqueraded(case, &attachment).during("after the second ADD")?;
    if case.version >= "0.4.0" {
        attachment.check(&result).silent()?;
    }
    attachment.finish()
}

fn no_namespace(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let attachment = fake.attach(case.version);
    let file = format!("{}/file", fake.dir);
    case.node.inside(|| File::create(&file)).unwrap();
    for path in ["/run/netns/no-such-namespace", &file, "/run"] {
        let reply = attachment.call("ADD").env("CNI_NETNS", path).run();
        let error = reply.failed().during(path)?;
        expect(
            error.code >= 100 || error.code == 4,
            "a code ≥100, or 4",
            &reply,
        )
        .during(path)?;
    }
    attachment.forget();
    fake.was_not_called()?;
    before.nothing_left(case.node)
}

fn own_namespace(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    let mut attachment = fake.attach(case.version);
    attachment.ifname = "pod0".into();
    let reply = attachment
        .call("ADD")
        .env("CNI_NETNS", "/proc/self/ns/net")
        .run();
    if links(case.node.vm().namespace()).contains(&attachment.ifname) {
        ip(case.node.vm().namespace(), "link del pod0");
    }
    attachment.forget();
    reply.failed()?;
    fake.was_not_called()?;
    before.unchanged(case.node)
}

/// An attachment whose ADD must fail: why, and a variable that is part of the reason.
type Failing<'a> = (
    &'static str,
    Attachment<'a>,
    Option<(&'static str, &'static str)>,
);

/// Attachments whose ADD must fail late, each for another reason.
fn failing<'a>(case: &Case<'a>) -> Vec<Failing<'a>> {
    let lease = case.node.lease(0);
    let refusing = Fake::new(case.node);
    refusing.refuse(
        "ADD",
        case.version,
        123,
        "no address today",
        "come back tomorrow",
    );
    let bad_route = Fake::new(case.node);
    let mut result = ipam_result(case.version, &[lease]);
    let route = json!([{ "dst": "192.0.2.0/24", "gw": "224.0.0.5" }]);
    if case.version < "0.3.0" {
        result["ip4"]["routes"] = route;
    } else {
        result["routes"] = route;
    }
    bad_route.grant(&result);
    let mut all = vec![
        ("IPAM refuses", refusing.attach(case.version), None),
        (
            "a route that the kernel refuses",
            bad_route.attach(case.version),
            None,
        ),
    ];
    if case.version >= "0.3.0" {
        let twice = Fake::new(case.node);
        twice.grant(&ipam_result(case.version, &[lease, lease]));
        all.push(("the same address twice", twice.attach(case.version), None));
    }
    if case.node.subject == Subject::Reference {
        let mut conflict = case.node.attach(case.version);
        conflict.conf["ipam"]["ranges"] = json!([[{ "subnet": "10.9.0.0/25", "rangeStart": "10.9.0.20", "gateway": "10.9.0.2" }]]);
        all.push(("the bridge has another address", conflict, None));
    }
    if case.node.subject != Subject::Ebpf {
        let no_tool = case.node.attach(case.version);
        all.push((
            "the masquerading tool is missing",
            no_tool,
            Some(("PATH", "/nonexistent")),
        ));
    }
    all
}

fn failed_adds_leave_nothing(case: &Case<'_>) -> Verdict {
    for (why, attachment, variable) in failing(case) {
        let before = case.node.snapshot();
        fail(&attachment, variable).during(why)?;
        before.nothing_left(case.node).during(why)?;
    }
    Ok(())
}

fn del_after_failed_adds(case: &Case<'_>) -> Verdict {
    for (why, attachment, variable) in failing(case) {
        let before = case.node.snapshot();
        // Whether the error has the right form is the row before's business.
        let call = attachment.call("ADD");
        let call = variable
            .iter()
            .fold(call, |call, (name, value)| call.env(name, *value));
        expect(!call.run().status.success(), "ADD fails", "it succeeded").during(why)?;
        attachment.del().during(why)?;
        before.nothing_left(case.node).during(why)?;
    }
    Ok(())
}

fn fail(attachment: &Attachment<'_>, variable: Option<(&str, &str)>) -> Verdict {
    let call = attachment.call("ADD");
    let call = variable
        .iter()
        .fold(call, |call, (name, value)| call.env(name, *value));
    call.run().failed().map(drop)
}

fn killed(case: &Case<'_>) -> Verdict {
    for milliseconds in [2, 5, 10, 20, 40, 80] {
        let before = case.node.snapshot();
        let attachment = case.node.attach(case.version);
        attachment
            .call("ADD")
            .run_and_kill(Duration::from_millis(milliseconds));
        let what = format!("killed after {milliseconds} ms");
        attachment.del().during(&what)?;
        before.nothing_left(case.node).during(&what)?;
        let link = links(attachment.sandbox.namespace());
        expect(
            link == ["lo"],
            "no link in the container",
            format!("{link:?}"),
        )
        .during(&what)?;
    }
    Ok(())
}

fn xtables_lock(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let lock = case
        .node
        .inside(|| File::create("/run/xtables.lock"))
        .unwrap();
    flock(lock.as_fd(), FlockOperation::LockExclusive).unwrap();
    let holder = thread::spawn(move || {
        thread::sleep(Duration::from_secs(5));
        drop(lock);
    });
    for version in case.node.offered_versions() {
        let attachment = case.node.attach(version);
        let reply = attachment.call("ADD").run();
        expect(
            reply.took < Duration::from_mins(1),
            "an end within 60 s",
            format!("it took {:?}", reply.took),
        )?;
        if reply.status.success() {
            attachment.del()?;
        } else {
            reply.error(11).during(version)?;
            attachment.forget();
        }
    }
    holder.join().unwrap();
    before.nothing_left(case.node)
}

fn churn(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let stop = AtomicBool::new(false);
    let verdict = thread::scope(|scope| {
        scope.spawn(|| {
            let mut batch = String::new();
            for n in 0..20 {
                let _ = write!(batch, "link add churn{n} type bridge\nlink del churn{n}\n");
            }
            while !stop.load(Ordering::Relaxed) {
                let ip = case.node.vm().program("ip").unwrap();
                ip.args(["-batch", "-"])
                    .stdin(batch.clone())
                    .checked()
                    .unwrap();
            }
        });
        let verdict = fifty(case);
        stop.store(true, Ordering::Relaxed);
        verdict
    });
    verdict?;
    before.nothing_left(case.node)
}

fn fifty(case: &Case<'_>) -> Verdict {
    let versions = case.node.offered_versions().cycle();
    for version in versions.take(50) {
        let attachment = case.node.attach(version);
        attachment.add().during(version)?;
        attachment.del().during(version)?;
    }
    Ok(())
}
