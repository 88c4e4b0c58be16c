//! C. Version negotiation.

use serde_json::{Value, json};

use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect};

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 36, versions: Versions::All, level: "M", check: "ADD: the result's `cniVersion` is the configuration's", test: Run(result_in_version) },
    Row { number: 37, versions: Versions::Once, level: "M", check: "`cniVersion` 0.5.0, 9.9.9, 1.2.0 on ADD, DEL, CHECK: error 1, details list what is supported", test: Run(unknown_versions) },
    Row { number: 38, versions: Versions::Once, level: "R", check: "`cniVersion` `0.3`, `v0.3.1`, `\"0.3.1 \"`, `abc`: error 1", test: Run(inexact_versions) },
    Row { number: 39, versions: Versions::Once, level: "R", check: "`cniVersion` absent or empty: a result of 0.1.0", test: Run(absent_version) },
    Row { number: 40, versions: Versions::Once, level: "R", check: "`cniVersion` is a number: error 6", test: Run(numeric_version) },
    Row { number: 41, versions: Versions::To("0.3.1"), level: "R", check: "CHECK before 0.4.0: error 1", test: Run(check_too_early) },
    Row { number: 42, versions: Versions::To("1.0.0"), level: "R", check: "GC and STATUS before 1.1.0: error 1 (4 if 1.1.0 is not offered)", test: Run(gc_and_status_too_early) },
    Row { number: 43, versions: Versions::To("0.1.0"), level: "M", check: "0.1.0's variable `CNI_VERSION` is ignored", test: Run(version_variable) },
];

fn result_in_version(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    expect(
        result["cniVersion"] == case.version,
        format!("cniVersion {}", case.version),
        &result,
    )?;
    attachment.finish()
}

fn unknown_versions(case: &Case<'_>) -> Verdict {
    let before = case.node.snapshot();
    for version in ["0.5.0", "9.9.9", "1.2.0"] {
        let attachment = case.node.attach(version);
        for command in ["ADD", "DEL", "CHECK"] {
            let error = attachment.call(command).run().error(1).during(version)?;
            for supported in case.node.offered_versions() {
                expect(
                    error.details.contains(supported),
                    format!("{supported} in the details"),
                    error.text(),
                )?;
            }
        }
        attachment.forget();
    }
    before.nothing_left(case.node)
}

fn inexact_versions(case: &Case<'_>) -> Verdict {
    for version in ["0.3", "v0.3.1", "0.3.1 ", "abc"] {
        let attachment = case.node.attach(version);
        attachment.call("ADD").run().error(1).during(version)?;
        attachment.forget();
    }
    Ok(())
}

fn absent_version(case: &Case<'_>) -> Verdict {
    for version in [Value::Null, json!("")] {
        let mut attachment = case.node.attach(case.version);
        attachment.conf["cniVersion"] = version.clone();
        if version.is_null() {
            attachment
                .conf
                .as_object_mut()
                .unwrap()
                .remove("cniVersion");
        }
        let result = attachment.add()?;
        let old = ["0.1.0", "0.2.0"]
            .iter()
            .any(|old| result["cniVersion"] == *old);
        expect(
            old && result["ip4"]["ip"].is_string(),
            "a result of 0.1.0",
            &result,
        )?;
        attachment.finish()?;
    }
    Ok(())
}

fn numeric_version(case: &Case<'_>) -> Verdict {
    let mut attachment = case.node.attach(case.version);
    attachment.conf["cniVersion"] = json!(1);
    let reply = attachment.call("ADD").run();
    attachment.forget();
    reply.error(6).map(drop)
}

fn check_too_early(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let result = attachment.add()?;
    attachment.check(&result).error(1)?;
    attachment.finish()
}

fn gc_and_status_too_early(case: &Case<'_>) -> Verdict {
    let mut attachment = case.node.attach(case.version);
    attachment.conf["cni.dev/valid-attachments"] = json!([]);
    let codes: &[u64] = if case.node.offers("1.1.0") {
        &[1]
    } else {
        &[1, 4]
    };
    for command in ["GC", "STATUS"] {
        let call = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
        let call = call
            .into_iter()
            .fold(attachment.call(command), |call, name| call.env(name, ""));
        call.run().error_among(codes).during(command)?;
    }
    Ok(())
}

fn version_variable(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    attachment
        .call("ADD")
        .env("CNI_VERSION", "0.1.0")
        .run()
        .result()?;
    attachment.finish()
}
