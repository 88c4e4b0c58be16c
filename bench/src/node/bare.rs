//! A pod behind two programs that look nothing up: they write both MACs and redirect. What is left is what the devices cost, the limit
//! of any datapath over a veth.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use azure_vnet_testbed::Vm;
use azure_vnet_testbed::address_plan::{FABRIC_MAC, GATEWAY, Mac, SUBNET};
use azure_vnet_testbed::raw_program::{self, Kind, instruction};

use super::{Attached, by_hand};

const POD_MAC: Mac = Mac([0x02, 0xba, 0, 0, 0, 1]);
/// Where an IPv4 packet in an Ethernet frame has its addresses.
const SOURCE: i32 = 26;
const DESTINATION: i32 = 30;
/// `enum bpf_func_id` of linux/bpf.h.
const REDIRECT: i32 = 23;
const REDIRECT_PEER: i32 = 155;
const SKB_STORE_BYTES: i32 = 9;

/// The pod has an address of the pool, and nobody translates it.
pub fn with_redirects(vm: &Vm) -> Result<Vec<Attached<'_>>> {
    let address = *vm.nic.pool.first().context("a NIC without a pool")?;
    let pod = by_hand::sandbox(vm, 0)?;
    let pod_mac = text(POD_MAC);
    by_hand::batch(
        vm.namespace(),
        &[
            format!("link add veth0 type veth peer name eth0 address {pod_mac} netns pod0"),
            "link set veth0 up".to_owned(),
        ],
    )?;
    by_hand::configure(&pod, address, SUBNET.prefix_len(), GATEWAY)?;
    let fabric = text(FABRIC_MAC);
    let neighbour = format!("neighbour add {GATEWAY} lladdr {fabric} nud permanent dev eth0");
    by_hand::batch(&pod, &[neighbour])?;
    let out = redirect(
        (SOURCE, address),
        (FABRIC_MAC, vm.nic.mac),
        (REDIRECT, index(vm, "eth0")?),
    );
    let back = redirect(
        (DESTINATION, address),
        (POD_MAC, FABRIC_MAC),
        (REDIRECT_PEER, index(vm, "veth0")?),
    );
    attach(vm, "veth0", "bare_out", &out)?;
    attach(vm, "eth0", "bare_back", &back)?;
    Ok(vec![Attached::ByHand(pod)])
}

/// What has `address` there gets these MACs (to, from), and is handed to a device; all else goes on.
fn redirect(
    (place, address): (i32, Ipv4Addr),
    (to, from): (Mac, Mac),
    (helper, index): (i32, i32),
) -> Vec<u64> {
    let [t, f] = [to.0, from.0];
    let words = [
        [t[0], t[1], t[2], t[3]],
        [t[4], t[5], f[0], f[1]],
        [f[2], f[3], f[4], f[5]],
    ];
    let word = |index: usize| i32::from_ne_bytes(words[index]);
    vec![
        // r6 = the packet; r0 = the address; 14 instructions on if it is another
        instruction(0xbf, 6, 1, 0, 0),
        instruction(0x20, 0, 0, 0, place),
        instruction(0x56, 0, 0, 14, u32::from(address).cast_signed()),
        // both MACs on the stack, and from there to the beginning of the frame
        instruction(0x62, 10, 0, -12, word(0)),
        instruction(0x62, 10, 0, -8, word(1)),
        instruction(0x62, 10, 0, -4, word(2)),
        instruction(0xbf, 1, 6, 0, 0),
        instruction(0xb7, 2, 0, 0, 0),
        instruction(0xbf, 3, 10, 0, 0),
        instruction(0x07, 3, 0, 0, -12),
        instruction(0xb7, 4, 0, 0, 12),
        instruction(0xb7, 5, 0, 0, 0),
        instruction(0x85, 0, 0, 0, SKB_STORE_BYTES),
        // r0 = redirect(index, 0)
        instruction(0xb7, 1, 0, 0, index),
        instruction(0xb7, 2, 0, 0, 0),
        instruction(0x85, 0, 0, 0, helper),
        instruction(0x95, 0, 0, 0, 0),
        // TC_ACT_UNSPEC
        instruction(0xb7, 0, 0, 0, -1),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

fn attach(vm: &Vm, device: &str, name: &str, instructions: &[u64]) -> Result<()> {
    let path = format!("/sys/fs/bpf/{name}");
    let load = || raw_program::pin(&raw_program::load(Kind::Tc, name, instructions)?, &path);
    let loaded = vm.namespace().run(load)?;
    loaded.with_context(|| format!("cannot load the program for {device}"))?;
    let tc = |line: &str| -> Result<()> {
        vm.program("tc")?.args(line.split(' ')).checked()?;
        Ok(())
    };
    tc(&format!("qdisc add dev {device} clsact"))?;
    tc(&format!(
        "filter add dev {device} ingress bpf direct-action object-pinned {path}"
    ))
}

fn index(vm: &Vm, device: &str) -> Result<i32> {
    let path = format!("/sys/class/net/{device}/ifindex");
    let text = vm.namespace().run(|| std::fs::read_to_string(path))??;
    Ok(text.trim().parse()?)
}

fn text(mac: Mac) -> String {
    mac.0.map(|byte| format!("{byte:02x}")).join(":")
}
