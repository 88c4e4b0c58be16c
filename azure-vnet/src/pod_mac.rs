//! The MAC that a runtime asks for the pod's interface. The bridge delivers by MACs, so one that somebody else is known by would turn
//! the node against itself, or one pod's traffic to another.

use std::path::Path;

use azure_vnet_cni::{Add, CniError, code};

use crate::config::{self, Config};
use crate::error::Error;
use crate::live;
use crate::names;
use crate::netlink::{MacAddress, Netlink};
use crate::node;
use crate::plan;
use crate::state;

/// A wish, and what is wrong with the place where it stands if it cannot be had.
struct Wish {
    mac: MacAddress,
    by: &'static str,
    code: u32,
}

/// What is asked for, if anything is. `CNI_ARGS` is asked last (CONVENTIONS.md).
///
/// # Errors
/// Code 7, or 4 for `CNI_ARGS`: it is no MAC of an interface, or that of the router, of a link of the node, of another pod, or of an
/// address that another pod will get.
pub async fn requested(
    config: &Config,
    request: &Add,
    host: &Netlink,
) -> Result<Option<MacAddress>, Error> {
    let Some(wish) = wish(config, request)? else {
        return Ok(None);
    };
    match holder(&wish, request, host).await? {
        None => Ok(Some(wish.mac)),
        Some(holder) => {
            let Wish { mac, by, code } = wish;
            let problem =
                format!("{by} {mac} is the MAC of {holder}: ask for another, or for none");
            Err(CniError::new(code, problem).into())
        }
    }
}

fn wish(config: &Config, request: &Add) -> Result<Option<Wish>, CniError> {
    let of = |mac, by, code| Some(Wish { mac, by, code });
    match (config.mac, request.args.get("MAC")) {
        (None, Some(text)) => {
            let mac = config::unicast(text).ok_or_else(|| {
                CniError::invalid_environment(format!(
                    "CNI_ARGS has MAC={text:?}, which is not a unicast MAC address"
                ))
            })?;
            Ok(of(mac, "CNI_ARGS MAC", code::INVALID_ENVIRONMENT))
        }
        (Some(mac), _) => Ok(of(mac, "the requested mac", code::INVALID_CONFIG)),
        (None, None) => Ok(None),
    }
}

/// Who has the MAC already, in words.
async fn holder(wish: &Wish, request: &Add, host: &Netlink) -> Result<Option<String>, Error> {
    let mac = wish.mac;
    if mac == node::ROUTER_MAC {
        return Ok(Some("the pods' router and of Azure's fabric".to_owned()));
    }
    let links = host.links().await?;
    if let Some(link) = links.iter().find(|link| link.mac == Some(mac)) {
        return Ok(Some(format!("the node's link {}", link.name)));
    }
    // What a killed ADD of this very attachment left goes.
    let own = names::host_veth(request.conf.name(), &request.container_id, &request.ifname);
    for (bridge, _) in node::remembered() {
        let pods = live::pods(&bridge).map_err(node::NodeError::from)?;
        if let Some(pod) = pods
            .iter()
            .find(|pod| pod.mac == mac && pod.host_veth != own)
        {
            return Ok(Some(format!(
                "the pod {} (link {})",
                pod.address, pod.host_veth
            )));
        }
    }
    let Some(address) = plan::address_of(mac) else {
        return Ok(None);
    };
    // Without a record nothing is known of the pool; then the bridge's table keeps two pods apart.
    let pool = azure_vnet_ipam::pool(Path::new(state::DIRECTORY)).unwrap_or_default();
    let is_asked_for = (request.requested_ips()?).is_some_and(|it| it.value == [address]);
    let is_others = pool.contains(&address) && !is_asked_for;
    Ok(is_others.then(|| format!("whatever pod gets the address {address}")))
}
