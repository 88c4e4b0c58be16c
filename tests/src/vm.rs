//! A VM: a NIC at the fabric, the network that Azure's DHCP gives it, and files of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

use crate::address_plan::{GATEWAY, IMDS, Nic, SUBNET, WIRESERVER};
use crate::fabric::Fabric;
use crate::namespace::Namespace;
use crate::process::Program;
use crate::{Error, iproute, mounts};

/// A simulated VM.
#[derive(Debug)]
pub struct Vm {
    /// Its name, for messages.
    pub name: String,
    /// Its NIC, `eth0`, as Azure knows it.
    pub nic: Nic,
    namespace: Namespace,
    /// What the runtime remembers of each attachment (network, container, interface): the result of its ADD.
    pub(crate) results: Mutex<BTreeMap<(String, String, String), Value>>,
}

impl Vm {
    /// Boots VM number `number` and connects it. IP forwarding stays off, as the kernel has it; what needs it must say so.
    pub(crate) fn boot(
        fabric: &Fabric,
        number: usize,
        nic: Nic,
        mtu: u16,
        bin_dir: &Path,
    ) -> Result<Self, Error> {
        let name = format!("vm{number}");
        let files = |source| Error::Setup {
            what: format!("mount the files of {name}"),
            source,
        };
        let namespace = Namespace::machine(|| mounts::prepare(bin_dir)).map_err(files)?;
        iproute::sysctls(
            &namespace,
            // New namespaces inherit these from the host, whose settings are none of the simulation's business. Loose reverse path
            // filtering is what systemd sets on Azure's images.
            &[
                ("ipv4/ip_forward", "0"),
                ("ipv4/conf/all/rp_filter", "2"),
                ("ipv4/conf/default/rp_filter", "2"),
            ],
        )?;
        fabric.connect_vm(number, &nic, &namespace, mtu)?;
        iproute::batch(&namespace, &dhcp_lease(&nic))?;
        Ok(Self {
            name,
            nic,
            namespace,
            results: Mutex::default(),
        })
    }

    /// The VM's network and mount namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A program to run on the VM.
    pub fn program(&self, name: &str) -> Result<Program, Error> {
        self.namespace.program(name).map_err(Error::namespace)
    }

    /// The names of the VM's links now.
    pub fn links(&self) -> Result<Vec<String>, Error> {
        let failed = |source| Error::Setup {
            what: format!("list the links of {}", self.name),
            source,
        };
        let names = self.namespace.run(|| {
            let entries = std::fs::read_dir("/sys/class/net")?;
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        });
        let mut names: Vec<String> = names.and_then(|names| names).map_err(failed)?;
        names.sort();
        Ok(names)
    }

    /// Writes a file of the VM, with its directory.
    pub fn write_file(&self, path: &str, text: &str) -> Result<(), Error> {
        let path = Path::new(path);
        let write = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(path, text)
        };
        let failed = |source| Error::Setup {
            what: format!("write {} on {}", path.display(), self.name),
            source,
        };
        self.namespace
            .run(write)
            .and_then(|done| done)
            .map_err(failed)
    }
}

/// What the DHCP client of Azure's images sets up: the address, and all routes with the lease's source and metric.
fn dhcp_lease(nic: &Nic) -> Vec<String> {
    let Nic { primary, .. } = nic;
    let (prefix, broadcast) = (SUBNET.prefix_len(), SUBNET.broadcast());
    let lease = format!("dev eth0 proto dhcp src {primary} metric 100");
    vec![
        "link set lo up".into(),
        "link set eth0 up".into(),
        format!("address add {primary}/{prefix} broadcast {broadcast} dev eth0 metric 100"),
        format!("route add default via {GATEWAY} {lease}"),
        format!("route add {GATEWAY} scope link {lease}"),
        format!("route add {WIRESERVER} via {GATEWAY} {lease}"),
        format!("route add {IMDS} via {GATEWAY} {lease}"),
    ]
}
