//! Who has which address: one VNet subnet shared by the VMs, Azure's platform addresses, and the hosts outside.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The subnet of the VMs, in VNet 10.0.0.0/16.
pub const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 20);
/// The subnet's gateway: no host has it, the fabric answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The subnet of the VMs' second NICs, in the same VNet.
pub const SECOND_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 16, 0), 20);
/// What masquerading leaves alone, as in the documented rule.
pub const INSIDE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
/// Azure's platform address: wireserver, DNS, DHCP, and the source of health probes.
pub const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// The instance metadata service.
pub const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// A host in a peered VNet.
pub const PEERED: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 10);
/// A host of the on-premises network.
pub const ON_PREM: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 10);
/// The addresses of one host in the internet (documentation ranges of RFC 5737).
pub const INTERNET: [Ipv4Addr; 3] = [
    Ipv4Addr::new(203, 0, 113, 10),
    Ipv4Addr::new(203, 0, 113, 11),
    Ipv4Addr::new(198, 51, 100, 10),
];
/// The addresses of a load balancer that leaves them in the packet (Azure's floating IP): the public one, and the one in the VNet.
pub const FRONTENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(10, 0, 8, 1)];
/// The MAC address in every ARP answer of Azure's fabric.
pub const FABRIC_MAC: Mac = Mac([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);

/// The most VMs the subnet has room for.
pub const MAX_VMS: u8 = 16;
/// The most pool addresses of a VM: those of its 256 behind the primary, without the last, which may be the broadcast address.
pub const MAX_POOL: u8 = 250;

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

impl Mac {
    /// As Azure's services write it: `000D3A000001`.
    pub fn compact(self) -> String {
        self.0.map(|byte| format!("{byte:02X}")).concat()
    }
}

/// A VM's network interface as Azure knows it.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its MAC address, in Microsoft's range.
    pub mac: Mac,
    /// The primary address, the VM's own.
    pub primary: Ipv4Addr,
    /// The secondary addresses: the pool for pods.
    pub pool: Vec<Ipv4Addr>,
    /// The subnet that all of them are in.
    pub subnet: Ipv4Net,
}

impl Nic {
    /// The NIC of VM number `vm`, with a pool of this size. VM 0 has 10.0.0.4 and 10.0.0.5 onwards, VM 1 10.0.1.4 and so on.
    pub fn of_vm(vm: u8, pool: u8) -> Self {
        let address = |host| Ipv4Addr::new(10, 0, vm, host);
        Self {
            mac: Mac([0x00, 0x0d, 0x3a, 0x00, 0x00, vm + 1]),
            primary: address(4),
            pool: (5..5 + pool).map(address).collect(),
            subnet: SUBNET,
        }
    }

    /// The second NIC of VM number `vm`, in a subnet of its own: VM 0 has 10.0.16.4 and 10.0.16.5 onwards.
    pub fn second_of_vm(vm: u8, pool: u8) -> Self {
        let address = |host| Ipv4Addr::new(10, 0, 16 + vm, host);
        Self {
            mac: Mac([0x00, 0x0d, 0x3a, 0x00, 0x01, vm + 1]),
            primary: address(4),
            pool: (5..5 + pool).map(address).collect(),
            subnet: SECOND_SUBNET,
        }
    }

    /// The first host of the subnet: no host has it, the fabric answers for it.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.subnet.network().to_bits() + 1)
    }

    /// All addresses of the NIC, the primary first.
    pub fn ipconfigs(&self) -> impl Iterator<Item = Ipv4Addr> {
        std::iter::once(self.primary).chain(self.pool.iter().copied())
    }
}
