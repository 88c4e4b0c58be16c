//! What the datapath of a bridge is told: from the configuration of a call, and from the node as it is.

use azure_vnet_cni::NetConf;
use ipnet::Ipv4Net;

use crate::config::Config;
use crate::datapath::{self, Datapath, Uplink};
use crate::error::Error;
use crate::live;
use crate::masquerade::agent;
use crate::netlink::{Netlink, address};
use crate::node::record::{self, Record};
use crate::node::{self, Node, NodeWanted};

/// For the pods of `subnet`.
pub fn uplink(config: &Config, subnet: Ipv4Net, node: &Node) -> Uplink {
    let source = &config.masquerade.policy;
    Uplink {
        bridge: node.bridge.name.clone(),
        bridge_ifindex: node.bridge.index,
        name: node.nic.name.clone(),
        address: node.primary,
        ifindex: node.nic.index,
        mac: node.mac,
        mtu: node.nic.mtu,
        fast_path: config.masquerade.fast_path,
        ports: config.masquerade.port_range(),
        timeouts: config.masquerade.timeouts,
        flows_per_pod: config.masquerade.flows_per_pod,
        policy: source.policy(subnet, agent::in_force().settings.as_ref()),
        subnet,
        source: source.clone(),
    }
}

/// Sets a datapath up anew for pods whose own is lost with all that was written down of it, as an ADD with this configuration
/// would: a node may see no ADD for days. What fails is logged.
pub async fn revive_beside(netlink: &Netlink, conf: &NetConf) {
    if let Err(error) = revive(netlink, conf).await {
        tracing::warn!(
            "the masquerade of pods could not be set up anew: {}",
            error.chain()
        );
    }
}

async fn revive(netlink: &Netlink, conf: &NetConf) -> Result<(), Error> {
    let mut lost = record::all();
    lost.retain(|record| !datapath::is_known(&record.bridge));
    if lost.is_empty() {
        return Ok(());
    }
    let config = Config::read(conf)?;
    for record in lost
        .iter()
        .filter(|record| is_meant(&config, record, &lost))
    {
        if let Some((subnet, node)) = node_of(netlink, record).await? {
            tracing::info!("mending: the datapath of {} is lost", record.bridge);
            Datapath::ensure(config.masquerade.datapath, uplink(&config, subnet, &node))?;
        }
    }
    Ok(())
}

/// Whether the configuration is that of this bridge. One that names neither bridge nor NIC is if there is no choice.
fn is_meant(config: &Config, record: &Record, lost: &[Record]) -> bool {
    match (&config.bridge, &config.master) {
        (None, None) => lost.len() == 1,
        (bridge, master) => {
            bridge.as_ref().is_none_or(|name| *name == record.bridge)
                && master.as_ref().is_none_or(|name| *name == record.nic)
        }
    }
}

/// Subnet and node of a bridge that has pods, if all of it is there.
async fn node_of(netlink: &Netlink, record: &Record) -> Result<Option<(Ipv4Net, Node)>, Error> {
    let pods = live::pods(&record.bridge).map_err(datapath::Error::from)?;
    let Some(nic) = record.nic(netlink).await? else {
        return Ok(None);
    };
    let addresses = netlink.addresses_on(&nic).await?;
    let mut nets = addresses.iter().filter_map(address::ipv4_net);
    let Some(net) = nets.find(|net| pods.iter().any(|pod| net.contains(&pod.address))) else {
        return Ok(None);
    };
    let subnet = net.trunc();
    let wanted = NodeWanted {
        bridge: Some(record.bridge.clone()),
        master: Some(record.nic.clone()),
        mac: nic.mac,
        subnet,
    };
    let node = node::find(netlink, &wanted).await?;
    Ok(node.map(|node| (subnet, node)))
}
