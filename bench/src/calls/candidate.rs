//! A plugin on a VM of its own.

use std::fmt;

use anyhow::Result;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::libcni::{self, Attachment};
use azure_vnet_testbed::{CONFIG_DIR, NETNS_DIR, Vm};
use serde_json::{Value, json};

/// Which plugin, set up how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ebpf,
    EbpfWithTcx,
    Netfilter,
    Reference,
}

impl Kind {
    pub const ALL: [Self; 4] = [
        Self::Ebpf,
        Self::EbpfWithTcx,
        Self::Netfilter,
        Self::Reference,
    ];

    /// The file names of the plugins.
    pub fn programs(self) -> [&'static str; 2] {
        match self {
            Self::Reference => ["bridge", "host-local"],
            _ => ["azure-vnet", "azure-vnet-ipam"],
        }
    }

    /// The one plugin of the list: chained ones cost all the same.
    fn plugin(self) -> Value {
        if self == Self::Reference {
            let ranges = json!([[{ "subnet": "172.20.0.0/22" }]]);
            let ipam = json!({ "type": "host-local", "ranges": ranges, "routes": [{ "dst": "0.0.0.0/0" }] });
            return json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": ipam });
        }
        let datapath = if self == Self::Netfilter {
            "netfilter"
        } else {
            "ebpf"
        };
        json!({
            "type": "azure-vnet", "mode": "bridge", "bridge": "azure0", "ipam": { "type": "azure-vnet-ipam" },
            "masquerade": { "datapath": datapath },
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "azure-vnet eBPF",
            Self::EbpfWithTcx => "azure-vnet eBPF, list unknown",
            Self::Netfilter => "azure-vnet netfilter",
            Self::Reference => "bridge + host-local, ipMasq",
        })
    }
}

/// The plugin, its VM, and the list that it is called with.
pub struct Candidate<'a> {
    pub kind: Kind,
    pub vm: &'a Vm,
    pub list: Conflist,
    /// What the plugin reads.
    pub stdin: String,
}

impl<'a> Candidate<'a> {
    /// Installs the list where runtimes have it, except where the plugin is not to find it.
    #[expect(clippy::expect_used, reason = "made of constants")]
    pub fn new(kind: Kind, vm: &'a Vm) -> Result<Self> {
        let mut plugin = kind.plugin();
        let list = json!({ "cniVersion": "0.3.1", "name": "bench", "plugins": [plugin] });
        let list = Conflist::parse(&list.to_string()).expect("a list of one plugin with a type");
        plugin["cniVersion"] = "0.3.1".into();
        plugin["name"] = "bench".into();
        if kind != Kind::EbpfWithTcx {
            vm.write_file(&format!("{CONFIG_DIR}/10-bench.conflist"), &list.to_json())?;
        }
        Ok(Self {
            kind,
            vm,
            list,
            stdin: plugin.to_string(),
        })
    }

    pub fn attachment(container_id: &str) -> Attachment {
        Attachment {
            container_id: container_id.to_owned(),
            netns: format!("{NETNS_DIR}/{container_id}"),
            ifname: "eth0".into(),
            ..Attachment::default()
        }
    }

    /// Adds a pod that is not measured. Its namespace lives by its path.
    pub fn stand(&self, number: usize) -> Result<()> {
        let attachment = Self::attachment(&format!("standing{number}"));
        self.vm.new_sandbox(&attachment.netns)?;
        libcni::add(self.vm, &self.list, &attachment)?;
        Ok(())
    }

    /// Removes it.
    pub fn leave(&self, number: usize) -> Result<()> {
        let attachment = Self::attachment(&format!("standing{number}"));
        libcni::del(self.vm, &self.list, &attachment)?;
        Ok(self.vm.remove_sandbox(&attachment.netns)?)
    }
}
