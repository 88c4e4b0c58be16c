//! The fabric: what lies at the other end of every VM's NIC.
//!
//! Like Azure's, it answers every ARP request with 12:34:56:78:9a:bc, delivers packets for an ipconfig to the NIC's MAC address
//! only, routes between all it knows, and lets nobody pretend to be somebody else.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::address_plan::{FABRIC_MAC, IMDS, Mac, Nic, WIRESERVER};
use crate::anti_spoofing::{self, Verdicts};
use crate::namespace::Namespace;
use crate::{Error, iproute};

/// The link-local gateway of the hosts outside. They have it as a permanent neighbour and never ask for it.
const HOST_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A router between the VMs, the platform services and the hosts outside.
#[derive(Debug)]
pub struct Fabric {
    namespace: Namespace,
}

impl Fabric {
    /// A fabric with the platform addresses and nothing else.
    pub(crate) fn new() -> Result<Self, Error> {
        let namespace = Namespace::network().map_err(Error::namespace)?;
        iproute::sysctls(
            &namespace,
            &[
                ("ipv4/ip_forward", "1"),
                // Links inherit these. A router that plays everybody's part must not doubt where packets come from, nor tell a VM
                // of a shorter way.
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
                // Every ARP target resolves: proxy_arp for what lies behind another link, _pvlan for what lies behind the same one.
                ("ipv4/conf/default/proxy_arp", "1"),
                ("ipv4/conf/default/proxy_arp_pvlan", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
            ],
        )?;
        let lines = [
            "link set lo up".into(),
            format!("address add {WIRESERVER}/32 dev lo"),
            format!("address add {IMDS}/32 dev lo"),
        ];
        iproute::batch(&namespace, &lines)?;
        Ok(Self { namespace })
    }

    /// Connects NIC number `index` of a VM, and filters what comes from it.
    pub(crate) fn connect_vm(
        &self,
        vm: usize,
        index: usize,
        nic: &Nic,
        namespace: &Namespace,
        mtu: u16,
    ) -> Result<(), Error> {
        let (link, mac) = (vm_link(vm, index), nic.mac);
        let peer = namespace.net_path();
        let mut lines = vec![format!(
            "link add {link} mtu {mtu} address {FABRIC_MAC} type veth peer name eth{index} mtu {mtu} address {mac} netns {peer}"
        )];
        lines.push(format!("link set {link} up"));
        for address in nic.ipconfigs() {
            lines.push(format!(
                "neighbour add {address} lladdr {mac} nud permanent dev {link}"
            ));
            lines.push(format!("route add {address}/32 dev {link}"));
        }
        // The filter is in place before the link is up at the VM's end.
        iproute::batch(&self.namespace, &lines)?;
        // Azure answers at once; a Linux proxy waits a random time for the owner to answer first.
        iproute::sysctls(
            &self.namespace,
            &[(&format!("ipv4/neigh/{link}/proxy_delay"), "0")],
        )?;
        iproute::load_rules(&self.namespace, &anti_spoofing::filter(&link, nic))
    }

    /// Delivers an address to a VM's first NIC, which has it not, and lets the VM answer from there.
    pub(crate) fn balance(&self, vm: usize, mac: Mac, frontend: Ipv4Addr) -> Result<(), Error> {
        let link = vm_link(vm, 0);
        let lines = [
            format!("neighbour add {frontend} lladdr {mac} nud permanent dev {link}"),
            format!("route add {frontend}/32 dev {link}"),
        ];
        iproute::batch(&self.namespace, &lines)?;
        let rule = anti_spoofing::allow_frontend(&link, frontend);
        iproute::load_rules(&self.namespace, &rule)
    }

    /// Takes away NIC number 0 of a VM. Its counters stay.
    pub(crate) fn disconnect_vm(&self, vm: usize) -> Result<(), Error> {
        let line = format!("link delete {}", vm_link(vm, 0));
        iproute::batch(&self.namespace, &[line])
    }

    /// Knows NIC number 0 of a VM by another primary address from now on.
    pub(crate) fn readdress_vm(
        &self,
        vm: usize,
        nic: &Nic,
        primary: Ipv4Addr,
    ) -> Result<(), Error> {
        let (link, mac, former) = (vm_link(vm, 0), nic.mac, nic.primary);
        let lines = [
            format!("neighbour add {primary} lladdr {mac} nud permanent dev {link}"),
            format!("route add {primary}/32 dev {link}"),
            format!("route delete {former}/32 dev {link}"),
            format!("neighbour delete {former} dev {link}"),
        ];
        iproute::batch(&self.namespace, &lines)?;
        let rules = anti_spoofing::exchange(&link, former, primary);
        iproute::load_rules(&self.namespace, &rules)
    }

    /// Connects a host outside by its own link; one of them takes all unknown destinations.
    pub(crate) fn connect_host(
        &self,
        link: &str,
        host: &Namespace,
        addresses: &[Ipv4Addr],
        default: bool,
    ) -> Result<(), Error> {
        let peer = host.net_path();
        let mut here = vec![
            format!(
                "link add {link} address {FABRIC_MAC} type veth peer name eth0 address {HOST_MAC} netns {peer}"
            ),
            format!("link set {link} up"),
        ];
        let mut there = vec![
            "link set lo up".into(),
            "link set eth0 up".into(),
            format!("neighbour add {HOST_GATEWAY} lladdr {FABRIC_MAC} nud permanent dev eth0"),
            format!("route add default via {HOST_GATEWAY} dev eth0 onlink"),
        ];
        for address in addresses {
            here.push(format!(
                "neighbour add {address} lladdr {HOST_MAC} nud permanent dev {link}"
            ));
            here.push(format!("route add {address}/32 dev {link}"));
            there.push(format!("address add {address}/32 dev eth0"));
        }
        if default {
            here.push(format!("route add default dev {link}"));
        }
        iproute::batch(&self.namespace, &here)?;
        iproute::batch(host, &there)
    }

    /// Starts counting what leaves `inside` with a pod's address.
    pub(crate) fn watch_for_leaks<'a>(
        &self,
        nics: impl IntoIterator<Item = &'a Nic>,
        inside: Ipv4Net,
    ) -> Result<(), Error> {
        iproute::load_rules(&self.namespace, &anti_spoofing::leak_detector(nics, inside))?;
        // A segment outside the window is still part of its connection; the detector must not take it for the start of another.
        iproute::sysctls(
            &self.namespace,
            &[("netfilter/nf_conntrack_tcp_be_liberal", "1")],
        )
    }

    /// What was counted against this VM so far.
    pub fn verdicts(&self, vm: usize) -> Result<Verdicts, Error> {
        anti_spoofing::verdicts(&self.counters()?, &vm_link(vm, 0))
    }

    /// What was counted against this VM on its second NIC so far.
    pub fn second_verdicts(&self, vm: usize) -> Result<Verdicts, Error> {
        anti_spoofing::verdicts(&self.counters()?, &vm_link(vm, 1))
    }

    /// How many packets left the range with a pod's address, other than replies of connections that came in.
    pub fn leaked(&self) -> Result<u64, Error> {
        anti_spoofing::leaked(&self.counters()?)
    }

    /// The namespace of the fabric. Sockets opened in it may bind 168.63.129.16, as health probes do.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn counters(&self) -> Result<String, Error> {
        let nft = self.namespace.program("nft").map_err(Error::namespace)?;
        Ok(nft.args(["-j", "list", "counters"]).checked()?)
    }
}

/// The MAC address of every host outside; each has a link of its own.
const HOST_MAC: &str = "02:00:00:00:00:01";

/// The fabric's end of a NIC.
pub(crate) fn vm_link(vm: usize, nic: usize) -> String {
    match nic {
        0 => format!("vm{vm}"),
        _ => format!("vm{vm}nic{nic}"),
    }
}
