//! What `prevResult` says of the interface that is checked.

use azure_vnet_cni::Check;
use azure_vnet_cni::reply::{Interface, Ip, Route};
use ipnet::{IpNet, Ipv4Net};

use super::Difference;
use crate::datapath;
use crate::names;
use crate::netlink::MacAddress;
use crate::netlink::link::Link;
use crate::node::Node;
use crate::plan::{self, NoAddress, Plan, PodAddress, PodRoute};

/// What must be there.
#[derive(Debug)]
pub struct Expected<'a> {
    network: &'a str,
    /// The node's end of the pod's veth.
    pub host_veth: String,
    container: u32,
    ifname: &'a str,
    /// As the last plugin that changed it says; none if nobody says anything.
    pub mac: Option<MacAddress>,
    /// The pod's IPv4 address.
    pub address: Ipv4Net,
    addresses: Vec<PodAddress>,
    /// The routes of all plugins: a result does not say whose they are.
    pub routes: &'a [Route],
}

impl<'a> Expected<'a> {
    /// Reads `prevResult`.
    pub fn read(request: &'a Check) -> Result<Self, Difference> {
        let (ifname, result) = (request.ifname.as_str(), &request.prev);
        let not_listed = || Difference::NotListed {
            ifname: ifname.to_owned(),
        };
        let is_ours =
            |interface: &Interface| interface.name == ifname && interface.sandbox.is_some();
        let in_pod = result.interfaces.iter().position(is_ours);
        let in_pod = in_pod.ok_or_else(not_listed)?;
        let on_it = |ip: &&Ip| ip.interface.is_none_or(|index| index == in_pod);
        let ips = || result.ips.iter().filter(on_it);
        let address = ips().find_map(|ip| match ip.address {
            IpNet::V4(v4) => Some(v4),
            IpNet::V6(_) => None,
        });
        let addresses = ips().map(|ip| PodAddress {
            address: ip.address,
            gateway: ip.gateway,
        });
        Ok(Self {
            network: request.conf.name(),
            host_veth: names::host_veth(request.conf.name(), &request.container_id, ifname),
            container: names::container(&request.container_id),
            ifname,
            mac: result.interfaces[in_pod].mac.parse().ok(),
            address: address.ok_or_else(not_listed)?,
            addresses: addresses.collect(),
            routes: &result.routes,
        })
    }

    /// The plan that the ADD had, on this node as it is now.
    pub fn plan(&self, node: &Node) -> Result<Plan, NoAddress> {
        let routes = self.routes.iter();
        let routes: Vec<PodRoute> = routes
            .map(|route| PodRoute {
                to: route.dst,
                via: route.gw,
            })
            .collect();
        let attachment = plan::Attachment {
            host_veth: &self.host_veth,
            ifname: self.ifname,
            addresses: &self.addresses,
            routes: &routes,
        };
        let plan = Plan::new(&attachment, node)?;
        Ok(match self.mac {
            Some(mac) => plan.with_pod_mac(mac),
            None => plan,
        })
    }

    /// The pod as the datapath has to know it.
    pub fn served(&self, port: &Link) -> datapath::Pod {
        datapath::Pod {
            network: self.network.to_owned(),
            host_veth: self.host_veth.clone(),
            ifindex: port.index,
            container: self.container,
            address: self.address.addr(),
            mac: self.mac.unwrap_or(MacAddress([0; 6])),
        }
    }
}
