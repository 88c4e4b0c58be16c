//! Nodes that no plugin set up: the floor, and what people do without one.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use azure_vnet_testbed::address_plan::{GATEWAY, SUBNET};
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::{Azure, NETNS_DIR, Vm};

use super::{Attached, BRIDGE};
use crate::variant::{Subject, Variant};

/// Pods on a bridge that the NIC is a port of. The fabric is told the pods' MAC addresses where it has to send to them: what a plugin has
/// to do about that is not in the figure.
pub fn bridged(azure: &Azure, number: usize, subject: Subject) -> Result<Vec<Attached<'_>>> {
    let vm = &azure.vms[number];
    let (mac, primary, length) = (vm.nic.mac, vm.nic.primary, SUBNET.prefix_len());
    let mut lines = vec![
        format!("link add {BRIDGE} address {mac} type bridge forward_delay 0"),
        format!("link set eth0 master {BRIDGE}"),
        format!("link set {BRIDGE} up"),
        "address flush dev eth0".to_owned(),
        format!("address add {primary}/{length} dev {BRIDGE}"),
        format!("route add default via {GATEWAY} dev {BRIDGE}"),
    ];
    let mut fabric = vec![];
    let mut pods = vec![];
    for (pod, address) in vm.nic.pool[..usize::from(subject.scale.pods)]
        .iter()
        .enumerate()
    {
        let pod_mac = format!("02:bb:00:00:{number:02x}:{pod:02x}");
        pods.push(sandbox(vm, pod)?);
        lines.push(format!(
            "link add veth{pod} type veth peer name eth0 address {pod_mac} netns pod{pod}"
        ));
        lines.push(format!("link set veth{pod} master {BRIDGE} up"));
        // The fabric answers for everybody, pods included.
        lines.push(format!(
            "neighbour add {address} lladdr {pod_mac} nud permanent dev {BRIDGE}"
        ));
        fabric.push(format!(
            "neighbour replace {address} lladdr {pod_mac} nud permanent dev vm{number}"
        ));
    }
    batch(vm.namespace(), &lines)?;
    for (pod, address) in pods.iter().zip(&vm.nic.pool) {
        configure(pod, *address, length, GATEWAY)?;
    }
    let (on, rule) = match subject.variant {
        Variant::Iptables => ("1", true),
        _ => ("0", false),
    };
    sysctl(vm, "bridge/bridge-nf-call-iptables", on)?;
    if rule {
        documented_rule(vm, subject)?;
    } else {
        batch(azure.fabric.namespace(), &fabric)?;
    }
    Ok(pods.into_iter().map(Attached::ByHand).collect())
}

/// `-m addrtype ! --dst-type local ! -d 10.0.0.0/8 -j MASQUERADE`, from the README of Azure's plugin. It knows one range; more of
/// them are rules that accept before it.
fn documented_rule(vm: &Vm, subject: Subject) -> Result<()> {
    // Every node with containers has it on; without it br_netfilter does not find the way back to a pod.
    sysctl(vm, "ipv4/ip_forward", "1")?;
    let accept = subject.scale.prefixes().into_iter().skip(1);
    let accept = accept.map(|prefix| format!("-A POSTROUTING -d {prefix} -j ACCEPT"));
    let accept = accept.collect::<Vec<_>>().join("\n");
    let rules = format!(
        "*nat\n{accept}\n-A POSTROUTING -m addrtype ! --dst-type local ! -d 10.0.0.0/8 -j MASQUERADE\nCOMMIT\n"
    );
    let restore = vm.program("iptables-restore")?.stdin(rules);
    restore.checked().context("cannot load the iptables rule")?;
    Ok(())
}

/// A routed veth for each pod, and a flowtable over it and the NIC.
pub fn with_flowtable(vm: &Vm, subject: Subject) -> Result<Vec<Attached<'_>>> {
    sysctl(vm, "ipv4/ip_forward", "1")?;
    let mut lines = vec![];
    let mut pods = vec![];
    for (pod, address) in (0..subject.scale.pods)
        .map(usize::from)
        .zip(routed_addresses())
    {
        pods.push(sandbox(vm, pod)?);
        lines.push(format!(
            "link add veth{pod} type veth peer name eth0 netns pod{pod}"
        ));
        lines.push(format!("address add {ROUTED_GATEWAY}/32 dev veth{pod}"));
        lines.push(format!("link set veth{pod} up"));
        lines.push(format!("route add {address}/32 dev veth{pod}"));
    }
    batch(vm.namespace(), &lines)?;
    for (pod, address) in pods.iter().zip(routed_addresses()) {
        configure(pod, address, 16, ROUTED_GATEWAY)?;
    }
    let rules = "table ip bench {
  flowtable fast { hook ingress priority 0; devices = { eth0, veth0 }; }
  chain forward {
    type filter hook forward priority 0;
    ct state established flow add @fast
  }
  chain postrouting {
    type nat hook postrouting priority 100;
    oifname eth0 ip daddr != 10.0.0.0/8 masquerade
  }
}
";
    let nft = vm.program("nft")?.args(["-f", "-"]).stdin(rules);
    nft.checked()
        .context("this kernel has no flowtable (CONFIG_NF_FLOW_TABLE, CONFIG_NFT_FLOW_OFFLOAD)")?;
    Ok(pods.into_iter().map(Attached::ByHand).collect())
}

const ROUTED_GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 21, 0, 1);

fn routed_addresses() -> impl Iterator<Item = Ipv4Addr> {
    (2..=255).map(|host| Ipv4Addr::new(172, 21, 0, host))
}

pub fn sandbox(vm: &Vm, pod: usize) -> Result<Namespace> {
    Ok(vm.new_sandbox(&format!("{NETNS_DIR}/pod{pod}"))?)
}

/// The pod's side.
pub fn configure(pod: &Namespace, address: Ipv4Addr, length: u8, gateway: Ipv4Addr) -> Result<()> {
    let lines = [
        "link set lo up".to_owned(),
        format!("address add {address}/{length} dev eth0"),
        "link set eth0 up".to_owned(),
        format!("route add default via {gateway}"),
    ];
    batch(pod, &lines)
}

pub fn batch(namespace: &Namespace, lines: &[String]) -> Result<()> {
    let ip = namespace.program("ip")?.args(["-batch", "-"]);
    let ip = ip.stdin(lines.join("\n") + "\n");
    ip.checked()?;
    Ok(())
}

pub fn sysctl(vm: &Vm, key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    let written = vm.namespace().run(|| fs::write(&path, value))?;
    written.with_context(|| format!("cannot write {path} on {}", vm.name))
}
