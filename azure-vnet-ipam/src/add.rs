//! ADD: an address for one attachment.

use std::time::Duration;

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
    source::{self, Found},
    static_address,
    store::{Locked, State, Store, now},
    warn,
};

/// For an answer of the source. The host agent is one hop away and answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Azure's virtual public address, which serves DNS on every VM whatever the `VNet` is.
const AZURE_DNS: &str = "168.63.129.16";

/// Gives the attachment an address: the one it has, if it has one.
pub fn add(request: &Add) -> Result<Success, Error> {
    let mut config = Config::read(&request.conf)?;
    if let Some(address) = static_address::requested(request)? {
        config.wanted.address = Some(address);
    }
    config.wanted.observed = node::observed();
    config.wanted.master = config.master.as_deref().map(master::find).transpose()?;
    let key = Key::new(request.conf.name(), &request.container_id, &request.ifname);
    let store = Store::new(&config.state_dir);
    let lease = match from_snapshot(&config, &store, &key)? {
        Some(lease) => lease,
        None => after_asking(&config, &store, &key)?,
    };
    Ok(reply(&lease))
}

/// The usual case: what the node knows about its pool is fresh, and there is an address left.
fn from_snapshot(config: &Config, store: &Store, key: &Key) -> Result<Option<Lease>, Error> {
    let mut locked = store.lock()?;
    if let Some(lease) = locked.state.pool.held(key, &config.wanted)? {
        return Ok(Some(lease));
    }
    if locked.state.is_due(now(), config.query_interval) {
        return Ok(None);
    }
    match locked.state.pool.lease(key, &config.wanted) {
        Ok(lease) => {
            locked.commit()?;
            Ok(Some(lease))
        }
        // Somebody may have added addresses to the NIC since: worth a question before giving up.
        Err(_) => Ok(None),
    }
}

/// Asks the source, without the lock, and tries again with what it said.
fn after_asking(config: &Config, store: &Store, key: &Key) -> Result<Lease, Error> {
    let asked_at = now();
    let answer = config.source.fetch(PATIENCE);
    let mut locked = store.lock()?;
    learn(&mut locked, answer, asked_at)?;
    let lease = locked.state.pool.lease(key, &config.wanted);
    // Also when there was no address: the next call need not ask again.
    locked.commit()?;
    Ok(lease?)
}

/// Puts the answer into the state; without one, an old snapshot is better than no pod.
fn learn(
    locked: &mut Locked,
    answer: Result<Found, source::Error>,
    asked_at: u64,
) -> Result<(), source::Error> {
    let state: &mut State = &mut locked.state;
    match answer {
        Ok(found) => {
            found.warnings.iter().for_each(warn);
            state.learn(found.subnets, asked_at);
            Ok(())
        }
        Err(cause) if state.has_snapshot() => {
            let age = now().saturating_sub(state.fetched_at);
            warn(format_args!(
                "{}; going on with what was known {age} s ago",
                chain(&cause)
            ));
            state.asked_at = asked_at;
            Ok(())
        }
        Err(cause) => Err(cause),
    }
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

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
