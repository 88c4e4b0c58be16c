//! Every kind of traffic of the table, in every way to masquerade, with bridges that hand what they forward to iptables and without,
//! and however strictly sources are checked; and what is late for a pod that is gone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod late;
mod table;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::conflist::Conflist;
use serde_json::json;

/// A way to masquerade.
#[derive(Debug, Clone, Copy)]
enum Way {
    Tcx,
    ClsBpf,
    Netfilter,
    /// Where nft is not there.
    Iptables,
}

const WAYS: [Way; 4] = [Way::Tcx, Way::ClsBpf, Way::Netfilter, Way::Iptables];

impl Way {
    fn list(self) -> Conflist {
        let tier = match self {
            Self::Tcx | Self::ClsBpf => "ebpf",
            Self::Netfilter | Self::Iptables => "netfilter",
        };
        Conflist::shipped().with_setting("azure-vnet", "masquerade", &json!({ "datapath": tier }))
    }

    /// Two VMs that go this way.
    fn azure(self) -> Azure {
        let mut azure = Azure::builder().vms(2).build().unwrap();
        for vm in &mut azure.vms {
            match self {
                Self::ClsBpf => vm.set_environment("AZURE_VNET_FORCE_CLS_BPF", "1"),
                Self::Iptables => vm.replace_programs(&[("nft", None)]).unwrap(),
                Self::Tcx | Self::Netfilter => {}
            }
        }
        azure
    }
}

/// Frames that the fabric refused, and packets that the first VM sent for its own addresses.
fn offences(azure: &Azure) -> u64 {
    let of_vm = |vm| {
        let verdicts = azure.fabric.verdicts(vm).unwrap();
        verdicts.spoofed() + verdicts.returned
    };
    (0..azure.vms.len()).map(of_vm).sum()
}
