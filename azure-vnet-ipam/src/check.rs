//! CHECK: the attachment still has the address that its ADD reported.

use std::net::Ipv4Addr;

use azure_vnet_cni::{Check, reply::Success};
use ipnet::IpNet;

use crate::{
    config,
    error::Error,
    pool::{Key, Lease},
    refresh,
    store::Store,
};

/// How an attachment differs from what its ADD left.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    #[error(
        "no address is reserved for {key}, so another container may get what this one uses ({reported}); \
         delete it"
    )]
    NotReserved { key: Key, reported: String },
    #[error("{}", refresh::notice_of_loss(.0))]
    Lost(Lease),
    #[error("{reserved} is reserved for {key}, but its ADD reported {reported}; delete it")]
    Another {
        reserved: Ipv4Addr,
        key: Key,
        reported: String,
    },
}

/// Compares the record with `prevResult`. Nothing is changed, nobody is asked and no lock is taken.
pub fn check(request: &Check) -> Result<(), Error> {
    let key = Key::new(request.conf.name(), &request.container_id, &request.ifname);
    let state = Store::new(&config::state_dir(&request.conf)).read()?;
    let reported = addresses(&request.prev);
    let difference = match state.pool.of(&key) {
        Some(lease) if reports(&request.prev, lease) => {
            match state.pool.lost().find(|lost| lost.key == key) {
                Some(lost) => Difference::Lost(lost.clone()),
                None => return Ok(()),
            }
        }
        Some(lease) => Difference::Another {
            reserved: lease.address,
            key,
            reported,
        },
        None => Difference::NotReserved { key, reported },
    };
    Err(difference.into())
}

/// Other plugins of the chain may have added addresses of their own.
fn reports(prev: &Success, lease: &Lease) -> bool {
    let reserved = IpNet::from(lease.address_in_subnet());
    prev.ips.iter().any(|ip| {
        // A record that was made again knows addresses only.
        ip.address == reserved || (!lease.is_subnet_known() && ip.address.addr() == lease.address)
    })
}

fn addresses(prev: &Success) -> String {
    if prev.ips.is_empty() {
        return "no address".into();
    }
    let addresses: Vec<String> = prev.ips.iter().map(|ip| ip.address.to_string()).collect();
    addresses.join(", ")
}
