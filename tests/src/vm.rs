//! A VM: a NIC at the fabric, the network that Azure's DHCP gives it, and files of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

use crate::address_plan::{IMDS, Nic, WIRESERVER};
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
    /// Its second NIC, `eth1`, if it has one.
    pub second_nic: Option<Nic>,
    namespace: Namespace,
    /// What its programs get beside the environment of the caller.
    environment: Vec<(String, String)>,
    /// What the runtime remembers of each attachment (network, container, interface): the result of its ADD.
    pub(crate) results: Mutex<BTreeMap<(String, String, String), Value>>,
}

impl Vm {
    /// Boots VM number `number` and connects it. IP forwarding stays off, as the kernel has it; what needs it must say so.
    pub(crate) fn boot(
        fabric: &Fabric,
        number: usize,
        nics: Vec<Nic>,
        mtu: u16,
        bin_dir: &Path,
    ) -> Result<Self, Error> {
        let name = format!("vm{number}");
        let files = |source| Error::Setup {
            what: format!("mount the files of {name}"),
            source,
        };
        let namespace = Namespace::machine(|| mounts::prepare(bin_dir)).map_err(files)?;
        kernel_settings(&namespace)?;
        iproute::batch(&namespace, &["link set lo up".into()])?;
        let resolver = namespace.run(mounts::write_resolver);
        resolver.and_then(|done| done).map_err(files)?;
        for (index, nic) in nics.iter().enumerate() {
            fabric.connect_vm(number, index, nic, &namespace, mtu)?;
            iproute::batch(&namespace, &dhcp_lease(index, nic))?;
        }
        let mut nics = nics.into_iter();
        let nic = nics
            .next()
            .ok_or_else(|| Error::TooMany(format!("{name} without NIC")))?;
        Ok(Self {
            name,
            nic,
            second_nic: nics.next(),
            namespace,
            environment: Vec::new(),
            results: Mutex::default(),
        })
    }

    /// A VM that booted by itself: its first process is in this namespace, and its NIC has been connected.
    pub fn booted(name: &str, nic: Nic, namespace: Namespace) -> Self {
        Self {
            name: name.to_owned(),
            nic,
            second_nic: None,
            namespace,
            environment: Vec::new(),
            results: Mutex::default(),
        }
    }

    /// What the DHCP client does when the VM boots again: the lease of each NIC, on the NIC itself.
    pub fn configure_as_dhcp(&self) -> Result<(), Error> {
        for (index, nic) in [Some(&self.nic), self.second_nic.as_ref()]
            .into_iter()
            .flatten()
            .enumerate()
        {
            iproute::batch(
                &self.namespace,
                &[
                    format!("link set eth{index} nomaster"),
                    format!("address flush dev eth{index}"),
                ],
            )?;
            iproute::batch(&self.namespace, &dhcp_lease(index, nic))?;
        }
        Ok(())
    }

    /// The VM's network and mount namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A program to run on the VM.
    pub fn program(&self, name: &str) -> Result<Program, Error> {
        let program = self.namespace.program(name).map_err(Error::namespace)?;
        let environment = self.environment.iter();
        Ok(environment.fold(program, |program, (key, value)| program.env(key, value)))
    }

    /// Sets a variable for all programs of the VM, plugins included.
    pub fn set_environment(&mut self, key: &str, value: &str) {
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    /// Leaves the VM's programs, plugins included, without some of those that the host has: each name finds nothing, or another program.
    pub fn replace_programs(&mut self, changes: &[(&str, Option<&str>)]) -> Result<(), Error> {
        const FOLDER: &str = "/run/testbed/programs";
        let path = std::env::var_os("PATH").unwrap_or_default();
        let linked = self
            .namespace
            .run(|| mounts::link_programs(FOLDER, &path, changes));
        linked
            .and_then(|done| done)
            .map_err(|source| Error::Setup {
                what: format!("choose the programs of {}", self.name),
                source,
            })?;
        self.set_environment("PATH", FOLDER);
        Ok(())
    }

    /// Sets a sysctl of the VM; the key is a path below /proc/sys/net.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        iproute::sysctls(&self.namespace, &[(key, value)])
    }

    /// Whether bridges hand what they forward to iptables. An error where that is asked for and the kernel has no `br_netfilter`, which
    /// may be a module.
    pub fn set_bridge_nf(&self, enabled: bool) -> Result<(), Error> {
        let is_there = || Path::new("/proc/sys/net/bridge").exists();
        if !is_there() {
            // Of the host, whose modules they are; whether it helped is seen by the setting.
            let _ = Program::new("modprobe").arg("br_netfilter").output();
        }
        if !enabled && !is_there() {
            return Ok(());
        }
        let value = if enabled { "1" } else { "0" };
        self.set_sysctl("bridge/bridge-nf-call-iptables", value)
    }

    /// How strictly sources are checked against the way back (`rp_filter`: 0, 1 strict, 2 loose), on the links that there are and on
    /// those to come.
    pub fn set_rp_filter(&self, value: &str) -> Result<(), Error> {
        let links = self.links()?;
        let mut names = ["all", "default"]
            .into_iter()
            .chain(links.iter().map(String::as_str));
        names.try_for_each(|name| self.set_sysctl(&format!("ipv4/conf/{name}/rp_filter"), value))
    }

    /// Puts the plugins of another directory in the place of those that are installed, as an upgrade does.
    pub fn install_programs(&self, bin_dir: &Path) -> Result<(), Error> {
        let install = || mounts::replace(bin_dir);
        let failed = |source| Error::Setup {
            what: format!("install {} on {}", bin_dir.display(), self.name),
            source,
        };
        self.namespace
            .run(install)
            .and_then(|done| done)
            .map_err(failed)
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

/// New namespaces inherit these from the host, whose settings are none of the simulation's business. Loose reverse path filtering is
/// what systemd sets on Azure's images.
pub(crate) fn kernel_settings(namespace: &Namespace) -> Result<(), Error> {
    let settings = [
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/all/rp_filter", "2"),
        ("ipv4/conf/default/rp_filter", "2"),
    ];
    iproute::sysctls(namespace, &settings)
}

/// What the DHCP client of Azure's images sets up: the address, and all routes with the lease's source and metric. cloud-init gives
/// each further NIC a metric 100 higher, so that its default route is a spare.
fn dhcp_lease(index: usize, nic: &Nic) -> Vec<String> {
    let (primary, gateway) = (nic.primary, nic.gateway());
    let (prefix, broadcast) = (nic.subnet.prefix_len(), nic.subnet.broadcast());
    let metric = 100 * (index + 1);
    let lease = format!("dev eth{index} proto dhcp src {primary} metric {metric}");
    vec![
        format!("link set eth{index} up"),
        format!(
            "address add {primary}/{prefix} broadcast {broadcast} dev eth{index} metric {metric}"
        ),
        format!("route add default via {gateway} {lease}"),
        format!("route add {gateway} scope link {lease}"),
        format!("route add {WIRESERVER} via {gateway} {lease}"),
        format!("route add {IMDS} via {gateway} {lease}"),
    ]
}
