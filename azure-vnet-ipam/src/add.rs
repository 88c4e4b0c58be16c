//! ADD: an address for one attachment.

use azure_vnet_cni::{
    Add,
    reply::{Dns, Ip, Route, Success},
};
use ipnet::{IpNet, Ipv4Net};

use crate::{
    config::Config,
    error::Error,
    master, node,
    pool::{self, Key, Lease},
    refresh, static_address,
    store::{Locked, Store, now},
    warn,
};

/// Azure's virtual public address, which serves DNS on every VM whatever the `VNet` is.
const AZURE_DNS: &str = "168.63.129.16";

/// Gives the attachment an address: the one it has, if it has one.
pub fn add(request: &Add) -> Result<Success, Error> {
    let mut config = Config::read(&request.conf)?;
    if let Some(address) = static_address::requested(request)? {
        config.wanted.address = Some(address);
    }
    config.wanted.master = master::of(&config)?;
    let key = Key::new(request.conf.name(), &request.container_id, &request.ifname);
    let store = Store::new(&config.state_dir);
    let lease = match from_snapshot(&mut config, &store, &key)? {
        Served::With(lease) => lease,
        Served::NotYet { outcomes } => after_asking(&mut config, &store, &key, outcomes)?,
    };
    Ok(reply(&lease))
}

/// What the snapshot gave.
enum Served {
    With(Lease),
    /// Nothing: the source has to be asked once more than the state that was looked at says.
    NotYet {
        outcomes: u64,
    },
}

/// The usual case: there is an address in what the node knows about its pool.
fn from_snapshot(config: &mut Config, store: &Store, key: &Key) -> Result<Served, Error> {
    // Before the lock, to hold it for less: an address that comes into use meanwhile is in the record, or, if that is lost,
    // claimed by the time this pod's network plugin would claim it.
    config.wanted.observed = node::observed();
    let mut locked = store.lock()?;
    let outcomes = locked.state.outcomes;
    // Without, also a lease is not complete: a record that was made again knows addresses only.
    if !locked.state.has_snapshot() {
        return Ok(Served::NotYet { outcomes });
    }
    if let Some(lease) = locked.state.pool.held(key, &config.wanted)? {
        return Ok(Served::With(lease));
    }
    let is_due = locked.state.is_due(now(), config.query_interval);
    if is_due && config.source.is_local() {
        return Ok(Served::NotYet { outcomes });
    }
    match locked.state.pool.lease(key, &config.wanted) {
        Ok(lease) => {
            if is_due {
                // Whoever reads this does not ask as well.
                locked.state.asked_at = now();
            }
            record(locked)?;
            if is_due {
                refresh::later(&config.source, store);
            }
            Ok(Served::With(lease))
        }
        // Somebody may have added addresses to the NIC since: worth a question before giving up.
        Err(error) if error.may_pass() => Ok(Served::NotYet { outcomes }),
        Err(error) => Err(error.into()),
    }
}

/// Nothing can be had without asking.
fn after_asking(
    config: &mut Config,
    store: &Store,
    key: &Key,
    outcomes: u64,
) -> Result<Lease, Error> {
    refresh::now(config, store, outcomes)?;
    config.wanted.observed = node::observed();
    config.wanted.observed.gone = store.gone();
    let mut locked = store.lock()?;
    let pool = &mut locked.state.pool;
    if matches!(
        pool.choose(&config.wanted),
        Err(pool::Error::Exhausted { .. })
    ) {
        pool.reclaim(&config.wanted.observed, &store.of_original());
    }
    let lease = pool.lease(key, &config.wanted)?;
    record(locked)?;
    Ok(lease)
}

/// Writes the state, and says what background calls could not.
fn record(mut locked: Locked) -> Result<(), Error> {
    let notices = std::mem::take(&mut locked.state.notices);
    locked.commit()?;
    notices.iter().for_each(warn);
    Ok(())
}

fn reply(lease: &Lease) -> Success {
    let gateway = pool::gateway(lease.subnet).into();
    let address = IpNet::from(lease.address_in_subnet());
    let anywhere = IpNet::from(Ipv4Net::default());
    Success {
        ips: vec![Ip {
            address,
            gateway: Some(gateway),
            interface: None,
        }],
        routes: vec![Route::new(anywhere, Some(gateway))],
        dns: Dns {
            nameservers: vec![AZURE_DNS.into()],
            ..Dns::default()
        },
        nic: lease.nic.map(String::from),
        ..Success::default()
    }
}
