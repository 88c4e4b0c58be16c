//! cnitool, the command line of libcni itself: the only client that sends CHECK, GC and STATUS.

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::process;
use azure_vnet_testbed::{Azure, CONFIG_DIR, Vm};
use serde_json::{Value, json};
use socket2::Type;

use crate::node::Node;
use crate::recorder::{self, RECORDED_PLUGINS};
use crate::{debian, leftovers, report};

const CNITOOL: &str = "/run/cnitool";
const SANDBOX: &str = "/run/sandbox";

/// A VM with cnitool and one sandbox for it.
struct Cnitool<'vm> {
    node: Node<'vm>,
    sandbox: Namespace,
}

/// What libcni makes of a version.
struct Version {
    name: &'static str,
    /// Before it is known, libcni refuses it itself.
    check: bool,
    /// Before they are known, libcni lets STATUS succeed, and GC end what it has cached.
    gc_and_status: bool,
}

#[test]
fn every_verb_at_every_version() {
    let (cnitool, source) = debian::cnitool();
    report(&format!("cnitool of {source}"));
    let program = std::fs::read(cnitool).unwrap();
    for name in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ] {
        let version = Version {
            name,
            check: ["0.4.0", "1.0.0", "1.1.0"].contains(&name),
            gc_and_status: name == "1.1.0",
        };
        every_verb(&program, &version);
    }
}

fn every_verb(program: &[u8], version: &Version) {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let cnitool = Cnitool::install(vm, program, version.name);
    cnitool.add();
    let internet = SocketAddrV4::new(azure.internet.address(), REPORT_PORT);
    let seen = ask(Type::STREAM, &cnitool.sandbox, None, internet).unwrap();
    assert_eq!(seen, vm.nic.primary);
    let checked = cnitool.run("check").map_err(|error| error.to_string());
    assert_eq!(checked.is_ok(), version.check, "{checked:?}");
    cnitool.run("status").unwrap();
    cnitool.run("del").unwrap();
    cnitool.run("del").unwrap();

    // cnitool's GC knows of no valid attachment, so libcni ends this one. It does not say so to the plugin: the list is missing, and
    // with it the only thing that tells what is garbage.
    cnitool.add();
    let collected = cnitool.run("gc").map_err(|error| error.to_string());
    assert_eq!(collected.is_err(), version.gc_and_status, "{collected:?}");
    leftovers::assert_none(&cnitool.node);

    cnitool.add();
    vm.remove_sandbox(SANDBOX).unwrap();
    cnitool.run("del").unwrap();
    leftovers::assert_none(&cnitool.node);

    let mut expected = vec![
        ("ADD", 0),
        ("CHECK", 0),
        ("STATUS", 0),
        ("DEL", 0),
        ("DEL", 0),
    ];
    expected.extend([("ADD", 0), ("DEL", 0), ("GC", 1), ("ADD", 0), ("DEL", 0)]);
    expected.retain(|(verb, _)| match *verb {
        "CHECK" => version.check,
        "GC" | "STATUS" => version.gc_and_status,
        _ => true,
    });
    let calls = recorder::calls(vm);
    let calls: Vec<_> = calls
        .iter()
        .map(|call| (call.verb(), call.status))
        .collect();
    assert_eq!(calls, expected, "{}", version.name);
}

impl<'vm> Cnitool<'vm> {
    fn install(vm: &'vm Vm, program: &[u8], version: &str) -> Self {
        let node = Node::boot(vm);
        recorder::install(&node);
        let write = || std::fs::write(CNITOOL, program);
        vm.namespace().run(write).unwrap().unwrap();
        node.run("chmod", &["755", CNITOOL]);
        // Debian's portmap knows nothing newer than 1.0.0.
        let plugin = json!({ "type": "azure-vnet", "bridge": "azure0", "ipam": { "type": "azure-vnet-ipam" } });
        let list = json!({ "cniVersion": version, "name": "azure", "plugins": [plugin] });
        let list = Conflist::parse(&list.to_string()).unwrap();
        vm.write_file(&format!("{CONFIG_DIR}/10-azure.conflist"), &list.to_json())
            .unwrap();
        Self {
            node,
            sandbox: vm.new_sandbox(SANDBOX).unwrap(),
        }
    }

    /// Adds the sandbox; it must be given an address of the pool.
    fn add(&self) {
        let result: Value = serde_json::from_str(&self.run("add").unwrap()).unwrap();
        let address = result["ips"][0]["address"]
            .as_str()
            .or(result["ip4"]["ip"].as_str());
        let address: Ipv4Addr = address.unwrap().split('/').next().unwrap().parse().unwrap();
        assert!(self.node.vm.nic.pool.contains(&address), "{result}");
    }

    fn run(&self, verb: &str) -> Result<String, process::Error> {
        let cnitool = self.node.vm.program(CNITOOL).unwrap();
        cnitool
            .args([verb, "azure", SANDBOX])
            .env("CNI_PATH", RECORDED_PLUGINS)
            .checked()
    }
}
