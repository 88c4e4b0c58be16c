//! 168.63.129.16: the host agent's list of a VM's addresses, from which the IPAM plugin fills its pool.

use std::io;

use crate::address_plan::{Nic, WIRESERVER};
use crate::azure::Ipconfigs;
use crate::http::{Request, Response, Server};
use crate::namespace::Namespace;

/// What the plugin asks for.
pub const TARGET: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

/// Answers each VM, known by any of its ipconfigs, with its own interfaces: the NICs of one VM stand together, the first one first.
pub(crate) fn start(fabric: &Namespace, vms: Ipconfigs) -> io::Result<Server> {
    Server::start(fabric, WIRESERVER, move |request| {
        answer(request, &vms.now())
    })
}

fn answer(request: &Request, vms: &[Vec<Nic>]) -> Response {
    if request.target != TARGET {
        return Response::refuse(
            404,
            "the simulated wireserver knows getinterfaceinfov1 only",
        );
    }
    let asks = |nic: &Nic| nic.ipconfigs().any(|address| address == request.source);
    match vms.iter().find(|nics| nics.iter().any(asks)) {
        Some(nics) => Response {
            status: 200,
            content_type: "text/xml; charset=utf-8",
            body: interface_info(nics),
        },
        None => Response::refuse(403, "not a VM of this fabric"),
    }
}

/// The document as Azure's host agent writes it: attributes only, MAC without separators, one line.
fn interface_info(nics: &[Nic]) -> String {
    let interfaces = nics.iter().enumerate();
    let interfaces: String = interfaces
        .map(|(number, nic)| interface(nic, number == 0))
        .collect();
    format!("<Interfaces>{interfaces}</Interfaces>")
}

fn interface(nic: &Nic, is_first: bool) -> String {
    let addresses = nic.ipconfigs().fold(String::new(), |text, address| {
        text + &format!(
            r#"<IPAddress Address="{address}" IsPrimary="{}"/>"#,
            address == nic.primary
        )
    });
    let (mac, subnet) = (nic.mac.compact(), nic.subnet);
    format!(
        r#"<Interface MacAddress="{mac}" IsPrimary="{is_first}"><IPSubnet Prefix="{subnet}">{addresses}</IPSubnet></Interface>"#
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
        assert_eq!(interface_info(&[Nic::of_vm(1, 1)]), expected);
    }

    #[test]
    fn second_nic_stands_behind_the_first_and_is_not_primary() {
        let second = interface_info(&[Nic::of_vm(0, 0), Nic::second_of_vm(0, 0)]);
        let expected = concat!(
            r#"<Interface MacAddress="000D3A000101" IsPrimary="false"><IPSubnet Prefix="10.0.16.0/20">"#,
            r#"<IPAddress Address="10.0.16.4" IsPrimary="true"/></IPSubnet></Interface></Interfaces>"#,
        );
        assert!(second.ends_with(expected), "{second}");
    }
}
