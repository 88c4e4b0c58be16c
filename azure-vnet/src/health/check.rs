//! The checks: their names, what each means, and what mends it. docs/checks.md is made of this table.

use serde::{Serialize, Serializer};

macro_rules! checks {
    ($($variant:ident $name:literal $means:literal $mends:literal)*) => {
        /// A check by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Check {
            $(#[doc = $means] $variant,)*
        }

        impl Check {
            /// All of them, in the order in which they are asked.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name, which stays.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What is asked.
            pub fn means(self) -> &'static str {
                match self { $(Self::$variant => $means,)* }
            }

            /// What mends it, in general; the finding has the command for the node at hand.
            pub fn mends(self) -> &'static str {
                match self { $(Self::$variant => $mends,)* }
            }
        }
    };
}

checks! {
    Nic "nic"
        "The NIC is there, up, and has an IPv4 address."
        "its manager, which the finding names, configures it again"
    NicManager "nic_manager"
        "Which program configures the NIC. Never wrong by itself: the other checks' commands are that program's."
        "nothing"
    Mtu "mtu"
        "NIC, bridge and pods' links have one MTU."
        "`azure-vnet gc` for the bridge; a pod with another MTU than the NIC has to be made anew"
    Gateway "gateway"
        "The node reaches its gateway by the NIC: a look-up, and the neighbour entry."
        "the NIC's manager sets the address and its routes again; remove the route, or the firewall's rule for ARP"
    Platform "platform"
        "The node reaches 168.63.129.16 (DNS, DHCP, wireserver, probes) by the NIC: a look-up."
        "remove the route or rule that the finding names, or have the NIC's manager set its routes again"
    DefaultRoute "default_route"
        "The node reaches the world by the NIC: a look-up."
        "the NIC's manager sets its routes again"
    Forwarding "ip_forward"
        "The node routes: `net.ipv4.ip_forward`, and `forwarding` of bridge and NIC."
        "`sysctl -w`, and find out what switched it off"
    NodeToPod "node_to_pod"
        "The node reaches each pod by the bridge: a look-up."
        "`azure-vnet gc`; remove the address or rule that the finding names"
    PodToNode "pod_to_node"
        "A pod's packet for the node's address is taken by the node: a look-up with the pod's address and the bridge."
        "remove the rule that the finding names"
    PodToPod "pod_to_pod"
        "A pod's packet for another pod of the node goes to the bridge: a look-up with the pod's address and the bridge."
        "remove the rule that the finding names, or `azure-vnet gc`"
    PodToOut "pod_to_out"
        "A pod's packet for the world leaves by the NIC of its bridge: a look-up with the pod's address and the bridge. A VPN is a warning."
        "remove the route or rule that the finding names, or `azure-vnet gc`"
    OutToPod "out_to_pod"
        "A packet from the world for a pod goes to the bridge: a look-up with the NIC."
        "remove the rule that the finding names, or `azure-vnet gc`"
    Rules "rules"
        "No rule of others (`ip rule`) decides about pods' packets before the main table and ours."
        "`ip rule del pref N`, if the table does not lead where the main table does"
    Programs "programs"
        "A packet of a pod for the world passes the eBPF programs: they are asked, on a copy of their state."
        "what the reason says (docs/operations.md)"
    Names "names"
        "A name server of /etc/resolv.conf answers within two seconds."
        "a firewall rule or route to the server; `resolvectl status` where systemd-resolved is"
    Kernel "kernel"
        "The kernel has what the eBPF tier needs."
        "a newer kernel, or the netfilter tier"
    Ebpf "ebpf"
        "The eBPF tier can be used."
        "mount the BPF file system"
    Netfilter "netfilter"
        "The netfilter tier can be used."
        "install nftables"
    Configuration "configuration"
        "There is a configuration with azure-vnet, and it is understood."
        "install or correct it"
    ConfigurationOrder "configuration_order"
        "It is the first in /etc/cni/net.d, which runtimes take."
        "remove or rename the other"
    PortsFree "ports_free"
        "The eBPF tier has ports left to masquerade with, where the configuration wants that tier."
        "`sysctl -w net.ipv4.ip_local_port_range`, or other ports"
    Plugins "plugins"
        "The plugins that it names are in /opt/cni/bin."
        "install them"
    Iptables "iptables"
        "The rules of iptables can be listed."
        "what the program says; the finding names the program that was run"
    Masquerade "iptables_masquerade"
        "No rule of iptables masquerades pods before azure-vnet decides."
        "delete the rule"
    NftMasquerade "nft_masquerade"
        "No nftables rule of others masquerades pods before azure-vnet decides."
        "delete the rule"
    IpMasqAgent "ip_masq_agent"
        "ip-masq-agent is not here."
        "remove its DaemonSet and its chain"
    Forward "forward_policy"
        "The FORWARD chains of iptables and nftables pass what pods send and get, and so do iptables' chains before and behind them."
        "the rules that the finding names, at the place that it says; or delete the one that drops"
    Ebtables "ebtables"
        "No rule of ebtables rewrites frames, as the original plugin's do."
        "flush them when no pod of the original is left"
    Ports "ports"
        "The ports to masquerade with are apart from the node's own and from `NodePorts`."
        "put `net.ipv4.ip_local_port_range` back, or choose other ports"
    Datapath "datapath"
        "Bridge, ports, neighbours, forwarding entries, routes, rules, programs, maps or tables of all pods are there."
        "`azure-vnet gc`, or any ADD or DEL"
    Queues "queues"
        "Netfilter asks no program about packets (NFQUEUE), so that new flows may take the fast path."
        "nothing, if that program has to see every packet; else stop it, and `azure-vnet gc`"
    PassedBy "passed_by"
        "Replies on the fast path pass nobody by at a pod's veth."
        "`azure-vnet gc`"
    FlowTable "flow_table"
        "The flow table is less than 80 % full."
        "find who opens so many flows: `azure-vnet flows --top 5`, `azure-vnet pods`"
    DestinationPorts "destination_ports"
        "No destination uses 80 % of the ports that one can have."
        "`azure-vnet flows --top 5`; spread over more addresses, or more ports"
    Shares "shares"
        "No pod has 80 % of the flows that one may have."
        "see what that pod does, or raise `masquerade.flowsPerPod`"
    Conntrack "conntrack"
        "The kernel's table of connections is less than 80 % full: the netfilter tier and Services need it."
        "`sysctl -w net.netfilter.nf_conntrack_max`, and find who opens so many"
    Spoofing "spoofing"
        "No pod sends with an address that is not its own at the moment."
        "find out what the pod is: a VPN, nested containers, or hostile"
    Links "links"
        "Every link of a pod has its record."
        "the DEL of that pod"
    Maps "maps"
        "The eBPF maps have nothing of pods that are gone."
        "`azure-vnet gc`"
    Versions "versions"
        "There are no pins of another version of the maps."
        "the next ADD takes over from them"
    Pool "pool"
        "The record of addresses can be read, and an address is free for the next pod. A node that is just full is a warning."
        "`azure-vnet gc` for pods that are gone; more ipconfigs on the NIC, or fewer pods"
    Leases "leases"
        "Every address in use has its pod, every pod its address, and the NIC has them all."
        "what the finding says"
    Addresses "addresses"
        "No address of the pool is on a link of the node, as cloud-init puts them there."
        "`ip address delete`, and keep cloud-init from configuring secondary addresses"
    Original "original"
        "There is no state of the original azure-vnet."
        "drain, `azure-vnet teardown`, remove the files"
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// docs/checks.md.
pub fn page() -> String {
    let rows = Check::ALL.iter().map(|check| {
        format!(
            "| `{}` | {} | {} |\n",
            check.name(),
            check.means(),
            check.mends()
        )
    });
    format!(
        "# What `azure-vnet doctor` asks\n\n\
         <!-- Written by `azure-vnet generate` from azure-vnet/src/health/check.rs. -->\n\n\
         In this order. Those from `nic` to `out_to_pod` are one path: the first that breaks is named, and\n\
         what hangs on it is not asked. `/healthz` asks the same, and `azure_vnet_check` has a gauge for\n\
         each. In a container that does not see the node's folders and programs, what only those could say\n\
         is left out.\n\n\
         | check | what it means | fix |\n|---|---|---|\n{}",
        rows.collect::<String>()
    )
}
