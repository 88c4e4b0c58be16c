//! H. STATUS.

use std::time::Duration;

use crate::attachment::Attachment;
use crate::call::Call;
use crate::fake::Fake;
use crate::fixture::Subject;
use crate::row::Test::Run;
use crate::row::{Case, During as _, Row, Verdict, Versions, expect};

/// Runtimes ask twice a second; the list says 200 ms. This is a check against waiting for something, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 108, versions: Versions::From("1.1.0"), level: "M", check: "healthy, with empty variables: rc 0, no output, soon", test: Run(healthy) },
    Row { number: 109, versions: Versions::From("1.1.0"), level: "M", check: "without `CNI_PATH`: rc 0, or error 50, or 4 naming it", test: Run(without_path) },
    Row { number: 110, versions: Versions::From("1.1.0"), level: "M", check: "IPAM's STATUS says 50: passed on", test: Run(ipam_says_50) },
    Row { number: 111, versions: Versions::From("1.1.0"), level: "S", check: "IPAM plugin missing; no masquerading to be had; pool exhausted: error 50 each", test: Run(says_50) },
    Row { number: 112, versions: Versions::From("1.1.0"), level: "M", check: "ADD after a STATUS that failed is attempted as ever", test: Run(add_after_failure) },
];

/// STATUS as libcni calls it: the variables of an attachment are there and empty.
pub fn status<'a>(attachment: &Attachment<'a>) -> Call<'a> {
    without_attachment(attachment.call("STATUS"))
}

/// Empties the variables that a call without attachment does not have.
pub fn without_attachment(call: Call<'_>) -> Call<'_> {
    let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
    names
        .into_iter()
        .fold(call, |call, name| call.env(name, ""))
}

fn healthy(case: &Case<'_>) -> Verdict {
    let reply = status(&case.node.attach(case.version)).run();
    reply.silent()?;
    expect(
        reply.took < SOON,
        "an answer soon",
        format!("it took {:?}", reply.took),
    )
}

fn without_path(case: &Case<'_>) -> Verdict {
    let call = status(&case.node.attach(case.version));
    for call in [call.clone().without("CNI_PATH"), call.env("CNI_PATH", "")] {
        let reply = call.run();
        if reply.status.success() {
            reply.silent()?;
            continue;
        }
        let error = reply.error_among(&[50, 4])?;
        if error.code == 4 {
            error.names(&["CNI_PATH"])?;
        }
    }
    Ok(())
}

fn ipam_says_50(case: &Case<'_>) -> Verdict {
    let fake = Fake::new(case.node);
    fake.refuse(
        "STATUS",
        case.version,
        50,
        "no address can be had",
        "the source is away",
    );
    let reply = status(&fake.attach(case.version)).run();
    let error = reply.error(50)?;
    expect(error.msg == "no address can be had", "IPAM's msg", &reply)
}

fn says_50(case: &Case<'_>) -> Verdict {
    let attachment = case.node.attach(case.version);
    let missing = status(&attachment).env("CNI_PATH", "/nonexistent").run();
    missing.error(50).during("IPAM plugin missing")?;
    if case.node.subject == Subject::Netfilter {
        let reply = status(&attachment).env("PATH", "/nonexistent").run();
        reply.error(50).during("nft missing")?;
    }
    let mut netfilter = case.node.attach(case.version);
    netfilter.conf["masquerade"] = serde_json::json!({ "datapath": "netfilter" });
    status(&netfilter)
        .env("PATH", "/nonexistent")
        .run()
        .error(50)
        .during("netfilter wanted, nft missing")?;
    exhausted(case).during("pool exhausted")
}

fn exhausted(case: &Case<'_>) -> Verdict {
    let node = case.node.sibling(2)?;
    let [one, two, three] = [0, 1, 2].map(|_| node.attach(case.version));
    one.add()?;
    status(&three).run().silent().during("one address free")?;
    two.add()?;
    status(&three).run().error(50)?;
    two.del()?;
    status(&three)
        .run()
        .silent()
        .during("an address free again")?;
    one.del()
}

fn add_after_failure(case: &Case<'_>) -> Verdict {
    let fake = Fake::granting(case.node, case.version, case.node.lease(0));
    fake.refuse("STATUS", case.version, 50, "no address can be had", "");
    let attachment = fake.attach(case.version);
    status(&attachment).run().failed()?;
    attachment.add()?;
    attachment.del()
}
