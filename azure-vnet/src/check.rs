//! CHECK: is everything that ADD made still there? The plan is worked out again, from `prevResult` and
//! the node, and compared with the kernel; nothing is changed.
//!
//! What other plugins of the chain added is not our business: further addresses, routes, interfaces.
//! What they changed they say in `prevResult`, as `tuning` does with a MAC.

mod expected;
mod links;
mod pod;

use std::fmt;

use azure_vnet_cni::Check;

use crate::config::Config;
use crate::datapath;
use crate::error::Error;
use crate::lease;
use crate::netlink::Netlink;
use crate::netns::NetNs;
use crate::node;

use expected::Expected;

/// Why a CHECK fails for what is ours.
#[derive(Debug, thiserror::Error)]
pub enum Difference {
    /// The result is not that of this attachment.
    #[error("prevResult has no interface {ifname} with an IPv4 address in a sandbox")]
    NotListed {
        /// `CNI_IFNAME`.
        ifname: String,
    },
    /// The kernel does not have, or not any more, what ADD made.
    #[error(
        "{0}; what the node knows of its pods is mended by any ADD or DEL, and by `azure-vnet gc`; the rest by making the pod anew"
    )]
    Defects(Defects),
}

/// What is missing or wrong, one sentence each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Defects(Vec<String>);

/// Fails if anything is missing, and says all of it.
pub async fn check(request: &Check) -> Result<(), Error> {
    let config = Config::read(&request.conf)?;
    let expected = Expected::read(request)?;
    let netns = NetNs::of_container(&request.netns)?;
    let host = Netlink::current()?;
    let pod = Netlink::in_netns(&netns)?;

    let node = links::of_node(&host, &config, &expected).await?;
    let plan = expected.plan(&node)?;
    let mut defects = Defects::default();
    let interface = pod::compare(&pod, &plan, &expected, &mut defects).await?;
    let port = links::of_pod(&host, &plan, &node, interface.as_ref(), &mut defects).await?;
    if let Some(port) = port {
        let way = datapath::Way {
            nic: &node.nic,
            bridge: &node.bridge,
            port: &port,
        };
        let served = expected.served(&port);
        defects.extend(datapath::defects(&host, way, &served).await?);
    }
    let missing = node::missing(&host).await?.into_iter();
    let address = expected.address.addr();
    let of_this = missing.filter(|it| it.pod.is_none_or(|pod| pod == address));
    defects.extend(of_this.map(|it| it.what).collect());
    defects.into_result()?;
    Ok(lease::check(&config.ipam, &request.path, &request.conf)?)
}

impl Defects {
    /// Notes a defect unless `is_there`.
    fn unless(&mut self, is_there: bool, defect: impl FnOnce() -> String) {
        if !is_there {
            self.0.push(defect());
        }
    }

    fn extend(&mut self, defects: Vec<String>) {
        self.0.extend(defects);
    }

    fn into_result(self) -> Result<(), Difference> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Difference::Defects(self))
        }
    }
}

impl fmt::Display for Defects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("; "))
    }
}
