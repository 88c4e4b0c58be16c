//! Which NIC has which address: what the datapath of each bridge is told of its own NIC and of the others.

use ipnet::Ipv4Net;

use super::look::Look;
use crate::datapath::{Addresses, Elsewhere, Nics};
use crate::netlink::link::Link;

impl Look {
    /// The NICs of all bridges. Another link is a way to the fabric where it has a bridge of ours or a default route.
    pub fn addresses(&self) -> Addresses {
        let served = self.networks.iter();
        let served = served.filter_map(|it| Some((&it.record.bridge, it.nic.as_ref()?, &it.nets)));
        let nics = served.clone().map(|(bridge, nic, nets)| {
            let others = served.clone().map(|(_, link, nets)| (link, nets));
            let others = others.filter(|(link, _)| link.index != nic.index);
            let without_bridge = self.others.iter().map(|(link, nets)| (link, nets));
            (
                bridge.clone(),
                of_one(nic, nets, others.chain(without_bridge)),
            )
        });
        nics.collect()
    }
}

fn of_one<'a>(
    nic: &Link,
    own: &[Ipv4Net],
    others: impl Iterator<Item = (&'a Link, &'a Vec<Ipv4Net>)>,
) -> Nics {
    let mut elsewhere = Vec::new();
    for (link, nets) in others {
        let Some(mac) = link.mac else { continue };
        for net in nets {
            if own.iter().all(|it| it.addr() != net.addr()) {
                elsewhere.push(Elsewhere {
                    address: net.addr(),
                    nic: link.name.clone(),
                    ifindex: link.index,
                    mac,
                });
            }
        }
    }
    Nics {
        name: nic.name.clone(),
        addresses: own.to_vec(),
        elsewhere,
    }
}
