//! A call's line in the log.

use std::fmt;
use std::time::Instant;

use crate::error::CniError;
use crate::request::{Add, Request};
use crate::{Outcome, log};

/// Tells a call's own line from those within it.
pub const TARGET: &str = "azure_vnet_call";

/// Serves a call at the level that its configuration asks for, and writes down what it was, how it ended and how long
/// it took.
pub fn served(
    request: Request,
    serve: impl FnOnce(Request) -> Result<Outcome, CniError>,
) -> Result<Outcome, CniError> {
    log::configure(request.conf());
    let start = Instant::now();
    let call = Call::of(&request);
    // Runtimes ask for it twice a second.
    let is_frequent = matches!(request, Request::Status(_));
    let outcome = serve(request);
    let took = start.elapsed();
    match &outcome {
        Ok(_) if is_frequent => tracing::debug!(target: TARGET, "{call}: ok, {took:.1?}"),
        Ok(Outcome::Done) => tracing::info!(target: TARGET, "{call}: ok, {took:.1?}"),
        Ok(Outcome::Added(success)) => {
            let addresses: Vec<String> = success
                .ips
                .iter()
                .map(|ip| ip.address.to_string())
                .collect();
            tracing::info!(target: TARGET, "{call}: {}, {took:.1?}", addresses.join(" "));
        }
        Err(error) => {
            let (code, why) = (error.code, Why(error));
            tracing::error!(target: TARGET, "{call}: failed with code {code}, {took:.1?}: {why}");
        }
    }
    outcome
}

/// What a call is called in the log.
struct Call {
    verb: &'static str,
    network: String,
    rest: String,
}

impl Call {
    fn of(request: &Request) -> Self {
        let (verb, rest) = match request {
            Request::Add(add) => (
                "ADD",
                attachment(&add.container_id, &add.ifname) + &pod(add),
            ),
            Request::Del(del) => ("DEL", attachment(&del.container_id, &del.ifname)),
            Request::Check(check) => ("CHECK", attachment(&check.container_id, &check.ifname)),
            Request::Gc(gc) => ("GC", format!(" of all but {}", gc.valid.len())),
            Request::Status(_) => ("STATUS", String::new()),
        };
        Self {
            verb,
            network: request.conf().name().to_owned(),
            rest,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}{}", self.verb, self.network, self.rest)
    }
}

fn attachment(container_id: &str, ifname: &str) -> String {
    format!(" {container_id} {ifname}")
}

fn pod(add: &Add) -> String {
    let said = |key| add.args.get(key).map(str::escape_debug);
    match (said("K8S_POD_NAMESPACE"), said("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => format!(" {namespace}/{name}"),
        _ => String::new(),
    }
}

/// An error on one line.
struct Why<'a>(&'a CniError);

impl fmt::Display for Why<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CniError { msg, details, .. } = self.0;
        let both = if details.is_empty() {
            msg.clone()
        } else {
            format!("{msg}: {details}")
        };
        out.write_str(&both.replace('\n', " "))
    }
}
