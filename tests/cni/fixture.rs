//! The machine that a check works on: a VM of the simulated Azure, the plugins of one subject, sandboxes that are used again.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use azure_vnet_testbed::address_plan::{GATEWAY, SUBNET};
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};
use rustix::fs::symlink;
use serde_json::{Value, json};

use crate::call::Call;
use crate::journal::Journal;
use crate::row::{VERSIONS, Verdict, failed};

/// Reference plugins that the testbed does not put beside the others.
const MORE_PLUGINS: [&str; 3] = ["firewall", "macvlan", "static"];
/// Secondary addresses of a VM: the list asks for 60 at least.
const POOL: u8 = 80;

/// Whose plugins are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Our pair, with masquerading in TC eBPF. The IPAM plugin is the same file, and called within.
    Ebpf,
    /// Our pair, with masquerading in netfilter. The IPAM plugin is a file of its own, and executed.
    Netfilter,
    /// `bridge` and `host-local` of containernetworking/plugins, as Debian has them.
    Reference,
}

impl Subject {
    /// Our own pair, in whichever tier.
    pub fn is_ours(self) -> bool {
        self != Self::Reference
    }

    /// The network plugin and the IPAM plugin.
    pub fn plugins(self) -> [&'static str; 2] {
        match self {
            Self::Ebpf | Self::Netfilter => ["azure-vnet", "azure-vnet-ipam"],
            Self::Reference => ["bridge", "host-local"],
        }
    }

    /// Where our plugins are.
    fn folder(self) -> PathBuf {
        let folder = azure_vnet_testbed::bin_dir().unwrap();
        match self {
            Self::Netfilter => folder.join("apart"),
            Self::Ebpf | Self::Reference => folder,
        }
    }

    /// The bridge in the configuration.
    pub fn bridge(self) -> &'static str {
        if self.is_ours() { "azure0" } else { "cni0" }
    }

    /// What the host ends of veth pairs are called.
    pub fn veth_prefix(self) -> &'static str {
        if self.is_ours() { "azv" } else { "veth" }
    }
}

/// A VM with the plugins of a subject.
pub struct Node {
    /// Fabric, platform services and hosts outside.
    pub azure: Azure,
    /// Whose plugins.
    pub subject: Subject,
    /// What all calls of this subject came to.
    pub journal: Arc<Journal>,
    /// The versions that the network plugin says it supports.
    pub offered: Vec<String>,
    /// Sandboxes that are not in use, with their paths.
    pub sandboxes: Mutex<Vec<(String, Namespace)>>,
    serial: AtomicU32,
}

impl Node {
    /// A VM on which one attachment has come and gone, so that what the first one leaves on purpose (bridge, datapath, base
    /// chains) is there.
    pub fn boot(subject: Subject, journal: &Arc<Journal>) -> Verdict<Self> {
        let node = Self::fresh(subject, journal, POOL)?;
        let version = node.newest();
        let first = node.attach(version);
        first.add()?;
        first.del()?;
        drop(first);
        Ok(node)
    }

    /// A VM that no plugin has touched, with this many addresses for pods.
    pub fn fresh(subject: Subject, journal: &Arc<Journal>, pool: u8) -> Verdict<Self> {
        let azure = Azure::builder()
            .pool(pool)
            .bin_dir(subject.folder())
            .build();
        let azure = azure.unwrap_or_else(|error| panic!("simulated Azure: {error}"));
        let mut node = Self {
            azure,
            subject,
            journal: Arc::clone(journal),
            offered: Vec::new(),
            sandboxes: Mutex::default(),
            serial: AtomicU32::new(0),
        };
        node.inside(|| {
            for plugin in MORE_PLUGINS {
                symlink(
                    format!("/usr/lib/cni/{plugin}"),
                    format!("{PLUGIN_DIR}/{plugin}"),
                )
                .unwrap();
            }
        });
        let reply = node
            .program(subject.plugins()[0])
            .env("CNI_COMMAND", "VERSION")
            .run();
        let offered = reply.result()?["supportedVersions"].clone();
        node.offered = serde_json::from_value(offered)
            .map_err(|_| failed("VERSION lists the supported versions", &reply))?;
        Ok(node)
    }

    /// Another VM for the same subject, which a check may ruin.
    pub fn sibling(&self, pool: u8) -> Verdict<Self> {
        Self::fresh(self.subject, &self.journal, pool)
    }

    /// The VM.
    pub fn vm(&self) -> &Vm {
        &self.azure.vms[0]
    }

    /// Runs `work` among the files and links of the VM.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.vm().namespace().run(work).unwrap()
    }

    /// A plugin of the VM, by its type.
    pub fn program(&self, plugin: &str) -> Call<'_> {
        Call::new(self, &format!("{PLUGIN_DIR}/{plugin}"))
    }

    /// The newest version of the specification that the subject offers.
    pub fn newest(&self) -> &'static str {
        self.offered_versions()
            .next_back()
            .expect("a plugin that offers no version at all")
    }

    /// The versions that exist and that the subject offers, oldest first.
    pub fn offered_versions(&self) -> impl DoubleEndedIterator<Item = &'static str> + Clone {
        VERSIONS.into_iter().filter(|version| self.offers(version))
    }

    /// Whether the subject offers this version.
    pub fn offers(&self, version: &str) -> bool {
        self.offered.iter().any(|offered| offered == version)
    }

    /// A number that no other check on this VM has.
    pub fn number(&self) -> u32 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// The configuration of the fixture: masquerade on, one default route.
    pub fn conf(&self, version: &str) -> Value {
        match self.subject {
            Subject::Ebpf | Subject::Netfilter => json!({
                "cniVersion": version,
                "name": "n1",
                "type": "azure-vnet",
                "mode": "bridge",
                "bridge": self.subject.bridge(),
                "masquerade": { "datapath": if self.subject == Subject::Ebpf { "ebpf" } else { "netfilter" } },
                "ipam": { "type": "azure-vnet-ipam" },
            }),
            Subject::Reference => json!({
                "cniVersion": version,
                "name": "n1",
                "type": "bridge",
                "bridge": self.subject.bridge(),
                "isGateway": true,
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": "10.9.0.0/24", "rangeEnd": "10.9.0.199" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }),
        }
    }

    /// Where a pod's addresses come from: a lease that a fake IPAM plugin may grant. Equal numbers give equal addresses.
    pub fn lease(&self, number: u8) -> Lease {
        if self.subject.is_ours() {
            let pool = &self.vm().nic.pool;
            Lease {
                address: pool[pool.len() - 1 - usize::from(number)],
                prefix: SUBNET.prefix_len(),
                gateway: GATEWAY,
            }
        } else {
            Lease {
                address: Ipv4Addr::new(10, 9, 0, 200 + number),
                prefix: 24,
                gateway: Ipv4Addr::new(10, 9, 0, 1),
            }
        }
    }
}

/// An address for a pod.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The prefix length of its subnet.
    pub prefix: u8,
    /// The gateway of its subnet.
    pub gateway: Ipv4Addr,
}

impl Lease {
    /// Address and prefix length.
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }
}

/// The names of the links of a namespace, in order of creation.
pub fn links(namespace: &Namespace) -> Vec<String> {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
    let text = text.unwrap().unwrap();
    let lines = text.lines().skip(2);
    let mut names: Vec<String> = lines
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    names.sort();
    names
}

/// What `ip -j` says in a namespace.
pub fn ip_json(namespace: &Namespace, line: &str) -> Value {
    let output = namespace
        .program("ip")
        .unwrap()
        .arg("-j")
        .args(line.split(' '));
    let text = output.checked().unwrap_or_else(|error| panic!("{error}"));
    if text.trim().is_empty() {
        return json!([]);
    }
    serde_json::from_str(&text).unwrap()
}

/// A change in a namespace by `ip`.
pub fn ip(namespace: &Namespace, line: &str) {
    let output = namespace.program("ip").unwrap().args(line.split(' '));
    output.checked().unwrap_or_else(|error| panic!("{error}"));
}
