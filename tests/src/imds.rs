//! 169.254.169.254: the instance metadata service.
//!
//! It serves the VM itself and nobody on it: Azure answers the primary address only, which is why a pod's request must be
//! masqueraded. A request from a pod's own address is refused, and stands in the log with status 403.

use std::io;

use serde_json::{Value, json};

use crate::address_plan::{IMDS, Nic};
use crate::azure::Ipconfigs;
use crate::http::{Request, Response, Server};
use crate::namespace::Namespace;

/// The network part of the metadata, in a version that knows all its fields.
pub const TARGET: &str = "/metadata/instance/network?api-version=2021-02-01";

/// Answers each VM, known by the primary address of its first NIC, with its own network: the NICs of one VM stand together.
pub(crate) fn start(fabric: &Namespace, vms: Ipconfigs) -> io::Result<Server> {
    Server::start(fabric, IMDS, move |request| answer(request, &vms.now()))
}

fn answer(request: &Request, vms: &[Vec<Nic>]) -> Response {
    let asks = |nics: &&Vec<Nic>| {
        nics.first()
            .is_some_and(|nic| nic.primary == request.source)
    };
    let Some(nics) = vms.iter().find(asks) else {
        return Response::refuse(403, "not the primary address of a VM");
    };
    // Both are asked for by the real service, against requests that were not meant for it.
    if request
        .headers
        .get("metadata")
        .is_none_or(|value| !value.eq_ignore_ascii_case("true"))
    {
        return Response::refuse(400, "Bad request. Required metadata header not specified");
    }
    match request.target.split_once('?') {
        Some(("/metadata/instance/network", query)) if query.contains("api-version=") => Response {
            status: 200,
            content_type: "application/json; charset=utf-8",
            body: network(nics).to_string(),
        },
        Some(("/metadata/instance/network", _)) | None => {
            Response::refuse(400, "Bad request. api-version was not specified")
        }
        Some(_) => Response::refuse(
            404,
            "the simulated IMDS knows /metadata/instance/network only",
        ),
    }
}

fn network(nics: &[Nic]) -> Value {
    let interfaces: Vec<_> = nics.iter().map(interface).collect();
    json!({ "interface": interfaces })
}

fn interface(nic: &Nic) -> Value {
    let addresses: Vec<_> = nic
        .ipconfigs()
        .map(|address| json!({ "privateIpAddress": address, "publicIpAddress": "" }))
        .collect();
    let (network, length) = (nic.subnet.network(), nic.subnet.prefix_len().to_string());
    json!({
        "ipv4": { "ipAddress": addresses, "subnet": [{ "address": network, "prefix": length }] },
        "ipv6": { "ipAddress": [] },
        "macAddress": nic.mac.compact(),
    })
}
