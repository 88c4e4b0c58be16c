//! 168.63.129.16: the host agent's list of a VM's addresses, from which the IPAM plugin fills its pool.

use std::io;

use crate::address_plan::{Nic, SUBNET, WIRESERVER};
use crate::http::{Request, Response, Server};
use crate::namespace::Namespace;

/// What the plugin asks for.
pub const TARGET: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

/// Answers each VM, known by any of its ipconfigs, with its own interfaces.
pub fn start(fabric: &Namespace, nics: Vec<Nic>) -> io::Result<Server> {
    Server::start(fabric, WIRESERVER, move |request| answer(request, &nics))
}

fn answer(request: &Request, nics: &[Nic]) -> Response {
    if request.target != TARGET {
        return Response::refuse(
            404,
            "the simulated wireserver knows getinterfaceinfov1 only",
        );
    }
    match nics
        .iter()
        .find(|nic| nic.ipconfigs().any(|address| address == request.source))
    {
        Some(nic) => Response {
            status: 200,
            content_type: "text/xml; charset=utf-8",
            body: interface_info(nic),
        },
        None => Response::refuse(403, "not a VM of this fabric"),
    }
}

/// The document as Azure's host agent writes it: attributes only, MAC without separators, one line.
fn interface_info(nic: &Nic) -> String {
    let addresses = nic.ipconfigs().fold(String::new(), |text, address| {
        text + &format!(
            r#"<IPAddress Address="{address}" IsPrimary="{}"/>"#,
            address == nic.primary
        )
    });
    let mac = nic.mac.compact();
    format!(
        r#"<Interfaces><Interface MacAddress="{mac}" IsPrimary="true"><IPSubnet Prefix="{SUBNET}">{addresses}</IPSubnet></Interface></Interfaces>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_names_the_primary_and_the_pool() {
        let expected = concat!(
            r#"<Interfaces><Interface MacAddress="000D3A000002" IsPrimary="true"><IPSubnet Prefix="10.0.0.0/20">"#,
            r#"<IPAddress Address="10.0.1.4" IsPrimary="true"/><IPAddress Address="10.0.1.5" IsPrimary="false"/>"#,
            r#"</IPSubnet></Interface></Interfaces>"#,
        );
        assert_eq!(interface_info(&Nic::of_vm(1, 1)), expected);
    }
}
