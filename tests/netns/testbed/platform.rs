//! Do the platform's services know who asks, and refuse whom Azure's refuse?

use std::net::SocketAddrV4;

use azure_vnet_testbed::address_plan::{IMDS, WIRESERVER};
use azure_vnet_testbed::exchange::{ask, get_logged};
use azure_vnet_testbed::{Azure, PLATFORM_REPORT_PORT, dns, http, imds, wireserver};
use serde_json::Value;
use socket2::Type;

use crate::{LIMIT, ip};

#[test]
fn wireserver_tells_every_vm_its_own_addresses() {
    let azure = Azure::builder().vms(2).pool(2).build().unwrap();
    let (status, xml) = http::get(
        azure.vms[1].namespace(),
        WIRESERVER,
        wireserver::TARGET,
        &[],
        LIMIT,
    )
    .unwrap();
    assert_eq!(status, 200);
    let expected = concat!(
        r#"<Interfaces><Interface MacAddress="000D3A000002" IsPrimary="true"><IPSubnet Prefix="10.0.0.0/20">"#,
        r#"<IPAddress Address="10.0.1.4" IsPrimary="true"/><IPAddress Address="10.0.1.5" IsPrimary="false"/>"#,
        r#"<IPAddress Address="10.0.1.6" IsPrimary="false"/></IPSubnet></Interface></Interfaces>"#,
    );
    assert_eq!(xml, expected);
    assert_eq!(azure.wireserver_log()[0].source, azure.vms[1].nic.primary);
}

/// The resolver that DHCP names answers with the source it saw, by the C library and to a bare datagram alike.
#[test]
fn names_are_resolved_at_the_platforms_address() {
    let azure = Azure::builder().vms(2).build().unwrap();
    for vm in &azure.vms {
        let resolved = dns::resolve_whoami(vm.namespace()).unwrap();
        assert_eq!(resolved, vm.nic.primary);
        let port = SocketAddrV4::new(WIRESERVER, PLATFORM_REPORT_PORT);
        let seen = ask(Type::DGRAM, vm.namespace(), None, port).unwrap();
        assert_eq!(seen, vm.nic.primary);
    }
}

#[test]
fn metadata_is_for_the_primary_address_only() {
    let azure = Azure::builder().pool(3).build().unwrap();
    let vm = &azure.vms[0];
    let (status, text) = http::get(
        vm.namespace(),
        IMDS,
        imds::TARGET,
        &[("Metadata", "true")],
        LIMIT,
    )
    .unwrap();
    assert_eq!(status, 200);
    let network: Value = serde_json::from_str(&text).unwrap();
    let addresses = network["interface"][0]["ipv4"]["ipAddress"]
        .as_array()
        .unwrap();
    assert_eq!(addresses.len(), 4);
    assert_eq!(addresses[0]["privateIpAddress"], "10.0.0.4");
    assert_eq!(
        http::get(vm.namespace(), IMDS, imds::TARGET, &[], LIMIT)
            .unwrap()
            .0,
        400,
        "without the header"
    );

    let pod = vm.nic.pool[0];
    ip(vm, &format!("address add {pod}/32 dev lo"));
    ip(
        vm,
        &format!("route replace {IMDS} via 10.0.0.1 dev eth0 src {pod} metric 1"),
    );
    let refused = get_logged(vm.namespace(), IMDS, imds::TARGET, || azure.imds_log()).unwrap_err();
    assert!(refused.to_string().starts_with("status 403"), "{refused}");
    let last = azure.imds_log().pop().unwrap();
    assert_eq!((last.source, last.status), (pod, 403));
}
