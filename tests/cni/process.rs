//! A. Process contract and VERSION.

use std::fs::File;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::call::Reply;
use crate::journal::{Journal, Observed};
use crate::row::Test::{Journal as Calls, Run};
use crate::row::{Case, During as _, Row, VERSIONS, Verdict, Versions, expect, failed};
use crate::snapshot::files;

/// The list says one second; this is a check against hanging, on a machine that does other things as well.
const AT_ONCE: Duration = Duration::from_secs(5);

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 1, versions: Versions::Once, level: "M", check: "VERSION with no other variable and empty input: versions ascending, 0.3.0 and 0.3.1 among them (ours: all seven)", test: Run(version_alone) },
    Row { number: 2, versions: Versions::Once, level: "M", check: "VERSION echoes a `cniVersion` that is offered", test: Run(version_echoes) },
    Row { number: 3, versions: Versions::Once, level: "R", check: "VERSION with garbage or an unknown version on stdin: the newest version", test: Run(version_of_garbage) },
    Row { number: 4, versions: Versions::Once, level: "R", check: "VERSION answers although stdin stays open", test: Run(version_with_open_stdin) },
    Row { number: 5, versions: Versions::Once, level: "R", check: "VERSION with libcni's dummy variables", test: Run(version_as_libcni_asks) },
    Row { number: 6, versions: Versions::Once, level: "Q", check: "VERSION while the state is locked by another process", test: Run(version_while_locked) },
    Row { number: 7, versions: Versions::Once, level: "D3", check: "`CNI_COMMAND` unset or empty: about text on stderr, rc 0", test: Run(about) },
    Row { number: 8, versions: Versions::Once, level: "M", check: "unknown command (`FOO`, `add`): error 4 with variable and value", test: Run(unknown_command) },
    Row { number: 9, versions: Versions::All, level: "M", check: "any failure: exactly one JSON object on stdout", test: Calls(failures_are_one_object) },
    Row { number: 10, versions: Versions::All, level: "M", check: "any failure: `cniVersion` of the configuration in the error", test: Calls(failures_carry_the_version) },
    Row { number: 11, versions: Versions::Once, level: "M", check: "no code in 0, 8-10, 12-49, 52-99 in the whole run", test: Calls(codes_are_defined) },
    Row { number: 12, versions: Versions::All, level: "M", check: "any successful ADD: exactly one JSON object of the requested version", test: Calls(adds_are_one_object) },
    Row { number: 13, versions: Versions::All, level: "M", check: "any successful DEL, CHECK, GC, STATUS: nothing on stdout", test: Calls(others_are_silent) },
    Row { number: 14, versions: Versions::From("0.3.1"), level: "R", check: "ADD with 3 MB of configuration", test: Run(large_configuration) },
    Row { number: 15, versions: Versions::All, level: "Q", check: "ADD with stdout closed: no half state after DEL", test: Run(stdout_closed) },
];

/// VERSION of both plugins of the subject.
fn version(case: &Case<'_>, stdin: &str) -> [Reply; 2] {
    case.node.subject.plugins().map(|plugin| {
        let call = case.node.program(plugin).env("CNI_COMMAND", "VERSION");
        call.stdin(stdin).run()
    })
}

fn version_alone(case: &Case<'_>) -> Verdict {
    version(case, "")
        .iter()
        .try_for_each(|reply| announces(case, reply))
}

fn announces(case: &Case<'_>, reply: &Reply) -> Verdict {
    let document = reply.result()?;
    let own = document["cniVersion"].as_str().unwrap_or_default();
    expect(
        VERSIONS.contains(&own),
        "a cniVersion that exists",
        &document,
    )?;
    let offered: Vec<String> = serde_json::from_value(document["supportedVersions"].clone())
        .map_err(|_| failed("a list of supportedVersions", &document))?;
    expect(
        offered.is_sorted_by(|a, b| a < b),
        "versions in ascending order, each once",
        &document,
    )?;
    let wanted: &[&str] = if case.node.subject.is_ours() {
        &VERSIONS
    } else {
        &["0.3.0", "0.3.1"]
    };
    let has_all = wanted
        .iter()
        .all(|version| offered.iter().any(|other| other == version));
    expect(
        has_all,
        format!("{wanted:?} among the supported versions"),
        &document,
    )
}

fn version_echoes(case: &Case<'_>) -> Verdict {
    for asked in ["0.3.1", "0.4.0", "1.1.0"]
        .into_iter()
        .filter(|asked| case.node.offers(asked))
    {
        for reply in version(case, &json!({ "cniVersion": asked }).to_string()) {
            let document = reply.result()?;
            expect(
                document["cniVersion"] == asked,
                format!("cniVersion {asked}, as asked"),
                &document,
            )?;
        }
    }
    Ok(())
}

fn version_of_garbage(case: &Case<'_>) -> Verdict {
    for stdin in [
        "garbage",
        "{\"cniVersion\":\"9.9.9\"}",
        "[]",
        "{\"cniVersion\":7}",
    ] {
        for reply in version(case, stdin) {
            let document = reply.result().during(stdin)?;
            let newest = case.node.newest();
            expect(
                document["cniVersion"] == newest,
                format!("cniVersion {newest}, the newest"),
                &document,
            )
            .during(stdin)?;
        }
    }
    Ok(())
}

fn version_with_open_stdin(case: &Case<'_>) -> Verdict {
    for plugin in case.node.subject.plugins() {
        let call = case.node.program(plugin).env("CNI_COMMAND", "VERSION");
        let reply = call.stdin_held_open().run();
        reply.result()?;
        expect(
            reply.took < AT_ONCE,
            "an answer at once",
            format!("it took {:?}", reply.took),
        )?;
    }
    Ok(())
}

fn version_as_libcni_asks(case: &Case<'_>) -> Verdict {
    for plugin in case.node.subject.plugins() {
        let dummies = ["CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
        let call = case
            .node
            .program(plugin)
            .env("CNI_COMMAND", "VERSION")
            .env("CNI_CONTAINERID", "");
        let call = dummies
            .into_iter()
            .fold(call, |call, name| call.env(name, "dummy"));
        let reply = call.stdin("{\"cniVersion\":\"1.1.0\"}").run();
        announces(case, &reply)?;
    }
    Ok(())
}

fn version_while_locked(case: &Case<'_>) -> Verdict {
    let _held = hold_all_locks(case);
    for reply in version(case, "") {
        announces(case, &reply)?;
        expect(
            reply.took < AT_ONCE,
            "an answer at once",
            format!("it took {:?}", reply.took),
        )?;
    }
    Ok(())
}

/// Locks every file that could be a lock of the subject's.
fn hold_all_locks(case: &Case<'_>) -> Vec<File> {
    let paths = case.node.inside(|| files(&["/run", "/var/lib/cni"]));
    let locks = paths
        .iter()
        .filter_map(|line| line.strip_prefix("file "))
        .filter(|path| path.ends_with("lock"));
    let held: Vec<File> = locks
        .map(|path| {
            let file = case.node.inside(|| File::open(path)).unwrap();
            flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
            file
        })
        .collect();
    assert!(!held.is_empty(), "the subject has no lock file");
    held
}

fn about(case: &Case<'_>) -> Verdict {
    for plugin in case.node.subject.plugins() {
        let call = case.node.program(plugin).unrecorded();
        for reply in [call.clone().run(), call.env("CNI_COMMAND", "").run()] {
            reply.silent()?;
            let says = |text: &str| {
                expect(
                    reply.stderr.contains(text),
                    format!("{text:?} on stderr"),
                    &reply,
                )
            };
            says(plugin)?;
            says("CNI protocol versions supported: ")?;
        }
    }
    Ok(())
}

fn unknown_command(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    for command in ["FOO", "add"] {
        for reply in [
            attachment.call(command).run(),
            attachment.call_ipam(command).run(),
        ] {
            reply
                .error(4)
                .during(command)?
                .names(&["CNI_COMMAND", command])?;
        }
    }
    Ok(())
}

fn failures_are_one_object(journal: &Journal, version: Option<&str>) -> Verdict {
    let calls = journal.at(version);
    for Observed { reply, .. } in calls.iter().filter(|call| !call.reply.status.success()) {
        let one = reply
            .document()
            .is_some_and(|document| document.is_object());
        expect(one, "exactly one JSON object on stdout", reply)?;
    }
    Ok(())
}

fn failures_carry_the_version(journal: &Journal, version: Option<&str>) -> Verdict {
    for Observed { reply, version, .. } in journal.at(version) {
        let Some(version) = version.filter(|_| !reply.status.success()) else {
            continue;
        };
        let document = reply.document().unwrap_or_default();
        expect(
            document["cniVersion"] == version.as_str(),
            format!("cniVersion {version} in the error"),
            &reply,
        )?;
    }
    Ok(())
}

fn codes_are_defined(journal: &Journal, version: Option<&str>) -> Verdict {
    for Observed { reply, .. } in journal.at(version) {
        let Some(code) = reply.code() else { continue };
        let undefined = matches!(code, 0 | 8..=10 | 12..=49 | 52..=99);
        expect(
            !undefined,
            "a code that the specification defines, or one ≥100",
            &reply,
        )?;
    }
    Ok(())
}

fn adds_are_one_object(journal: &Journal, version: Option<&str>) -> Verdict {
    let calls = journal.at(version);
    for Observed { reply, version, .. } in calls.iter().filter(|call| call.reply.command == "ADD") {
        let Some(version) = version.as_ref().filter(|_| reply.status.success()) else {
            continue;
        };
        let result = reply.result()?;
        expect(
            result["cniVersion"] == version.as_str(),
            format!("a result of version {version}"),
            reply,
        )?;
    }
    Ok(())
}

fn others_are_silent(journal: &Journal, version: Option<&str>) -> Verdict {
    let silent = ["DEL", "CHECK", "GC", "STATUS"];
    let calls = journal.at(version);
    let others = calls
        .iter()
        .filter(|call| silent.contains(&call.reply.command.as_str()));
    for Observed { reply, .. } in others.filter(|call| call.reply.status.success()) {
        expect(reply.stdout.is_empty(), "nothing on stdout", reply)?;
    }
    Ok(())
}

fn large_configuration(case: &Case<'_>) -> Verdict {
    let mut attachment = case.node.attach(case.version);
    let label = json!({ "key": "k".repeat(60), "value": "v".repeat(60) });
    let labels = Value::from(vec![label; 3_000_000 / 140]);
    attachment.conf["args"] = json!({ "labels": labels });
    attachment.add()?;
    attachment.del()
}

fn stdout_closed(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    let attachment = case.node.attach(case.version);
    let reply = attachment.call("ADD").stdout_closed().run();
    if !reply.status.success() && reply.status.code().is_some() {
        before
            .nothing_left(case.node)
            .during("after an ADD that failed")?;
    }
    attachment.del()?;
    before.nothing_left(case.node).during("after DEL")
}
