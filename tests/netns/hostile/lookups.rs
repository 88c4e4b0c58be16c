//! What others put into the kernel's tables does not make a look-up dearer: counted, not timed.

use std::fmt::Write as _;

use azure_vnet_testbed::PLUGIN_DIR;
use azure_vnet_testbed::field::{Field, Tier};
use azure_vnet_testbed::trace::{self, Counts};
use serde_json::json;

/// How many entries somebody has put there.
const ENTRIES: u32 = 100_000;

/// A page more or less of what is read anyway.
const SLACK: usize = 20;

#[test]
fn an_address_costs_the_same_beside_a_full_table_of_the_bridge() {
    let azure = Tier::Tcx.azure();
    let field = Field::new(&azure, Tier::Tcx);
    let before = address(&field, "before");
    let mut entries = String::new();
    for number in 0..ENTRIES {
        let [_, a, b, c] = number.to_be_bytes();
        let _ = writeln!(
            entries,
            "fdb add 02:ff:00:{a:02x}:{b:02x}:{c:02x} dev other0 master static"
        );
    }
    let bridge = field.vm.program("bridge").unwrap();
    bridge
        .args(["-batch", "-"])
        .stdin(entries)
        .checked()
        .unwrap();
    let beside = address(&field, "beside");
    assert!(
        beside.system_calls <= before.system_calls + SLACK,
        "{beside:?}, and without the entries {before:?}"
    );
    // A trace in which nothing is found would be below everything.
    assert!(before.netlink_messages > 1, "{before:?}");
}

/// What it costs the IPAM plugin to give an address.
fn address(field: &Field<'_>, container: &str) -> Counts {
    const FILE: &str = "/run/lookups.trace";
    let conf = json!({
        "cniVersion": "1.0.0", "name": "azure", "type": "azure-vnet",
        "ipam": { "type": "azure-vnet-ipam" },
    });
    let strace = field.vm.program("strace").unwrap();
    strace
        .args(trace::options(FILE))
        .arg(format!("{PLUGIN_DIR}/azure-vnet-ipam"))
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", "/run/netns/none")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "")
        .env("CNI_PATH", PLUGIN_DIR)
        .stdin(conf.to_string())
        .checked()
        .unwrap();
    Counts::read(&field.run(&format!("cat {FILE}")))
}
