//! The takeover, step by step. Each step looks at the kernel first and does what is missing, so that it can be continued after
//! any step, or in the middle of one.

use rtnetlink::packet_route::address::AddressMessage;

use super::guard;
use super::journal::{Journal, State};
use super::relocate::{self, Switch};
use crate::legacy;
use crate::live;
use crate::names;
use crate::netlink::link::{self, Link};
use crate::netlink::{Netlink, address};
use crate::node::{self, NodeError};

/// One step of a takeover. The order is the one that loses the fewest packets, and none of them to the fabric's
/// anti-spoofing: with the router's MAC before the NIC has left, frames of the node would leave with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Connections that netfilter masquerades are not reset when it has forgotten them.
    Guard,
    /// The NIC has all addresses of the bridge and knows its neighbours; so does the bridge still.
    Addresses,
    /// The node forwards, has its routes to the pods, and drops what is for addresses of the pool that no pod has: when the NIC has
    /// left the bridge, what comes for them is routed, and so is what they send.
    Pods,
    /// All routes lead over the NIC, at once it leaves the bridge, and the bridge has the router's MAC.
    Switch,
    /// Rules name the NIC.
    Rules,
    /// What the original plugin did to frames of the NIC is gone. Some of it is for what pods ask the bridge.
    Frames,
    /// The bridge has no address of the node any more, and is the pods' router. With this step the takeover is over for whoever
    /// comes next.
    Bridge,
}

impl Step {
    /// The steps in their order.
    pub const ALL: [Self; 7] = [
        Self::Guard,
        Self::Addresses,
        Self::Pods,
        Self::Switch,
        Self::Rules,
        Self::Frames,
        Self::Bridge,
    ];
}

/// A takeover under way.
#[derive(Debug)]
pub struct Takeover<'a> {
    netlink: &'a Netlink,
    journal: Journal,
    nic: Link,
    bridge: Option<Link>,
}

impl<'a> Takeover<'a> {
    pub(super) async fn of(netlink: &'a Netlink, journal: Journal) -> Result<Self, NodeError> {
        let bridge = netlink.link(&journal.bridge).await?.filter(Link::is_bridge);
        let nic = match netlink.link(&journal.master).await? {
            Some(nic) => Some(nic),
            None => renamed(netlink, &journal, bridge.as_ref()).await?,
        };
        let nic = nic.ok_or_else(|| NodeError::NoNic {
            name: journal.master.clone(),
            bridge: journal.bridge.clone(),
        })?;
        Ok(Self {
            netlink,
            journal,
            nic,
            bridge,
        })
    }

    /// The index of the NIC.
    pub(super) fn nic(&self) -> u32 {
        self.nic.index
    }

    /// Goes the whole way.
    pub async fn run(&mut self) -> Result<(), NodeError> {
        self.begin().await?;
        for step in Step::ALL {
            self.step(step).await?;
        }
        let (nic, bridge) = (&self.nic.name, &self.journal.bridge);
        tracing::info!("{nic} has its addresses and routes again; {bridge} is the pods' router");
        Ok(())
    }

    /// Writes down that the takeover has begun, and what the node has, before the first change.
    pub async fn begin(&mut self) -> Result<(), NodeError> {
        let (addresses, routes) =
            relocate::all_of(self.netlink, &self.nic, self.bridge.as_ref()).await?;
        if !addresses.is_empty() {
            self.journal.record(&addresses, &routes);
        }
        self.journal.state = State::Leaving;
        self.journal.write()
    }

    /// Does what is missing of one step.
    pub async fn step(&mut self, step: Step) -> Result<(), NodeError> {
        tracing::debug!("takeover: {step:?}");
        match (step, self.bridge.clone()) {
            (Step::Guard, _) => {
                guard::set(&self.addresses().await?);
                Ok(())
            }
            (Step::Addresses, Some(bridge)) => self.copy_addresses(&bridge).await,
            (Step::Addresses, None) => self.restore().await,
            (Step::Pods, Some(bridge)) => {
                // Whatever ends this call after the NIC has left, the pods have a router.
                node::forward_under_lock()?;
                // The kernel would flush these routes with the last address of the bridge.
                node::keep_routes(self.netlink, &bridge).await?;
                node::route_to_pods(self.netlink, &bridge, &self.nic).await
            }
            (Step::Switch, Some(bridge)) => self.switch(&bridge).await,
            (Step::Rules, Some(bridge)) => {
                Ok(relocate::move_rules(self.netlink, &bridge, &self.nic).await?)
            }
            (Step::Pods | Step::Switch | Step::Rules, None) => Ok(()),
            (Step::Frames, _) => Ok(legacy::forget_nic(&self.journal.bridge)?),
            (Step::Bridge, bridge) => self.make_router(bridge.as_ref()).await,
        }
    }

    /// The node's addresses, on whatever link they are.
    async fn addresses(&self) -> Result<Vec<AddressMessage>, NodeError> {
        let (addresses, _) =
            relocate::all_of(self.netlink, &self.nic, self.bridge.as_ref()).await?;
        Ok(addresses)
    }

    /// Where a network manager has taken the NIC out of the bridge and given it an address, what the bridge has is out of date.
    async fn is_configured_anew(&self, bridge: &Link) -> Result<bool, NodeError> {
        if self.nic.master == Some(bridge.index) {
            return Ok(false);
        }
        let on_nic = relocate::addresses_of(self.netlink, &self.nic).await?;
        Ok(on_nic.iter().any(|it| address::ipv4_net(it).is_some()))
    }

    async fn copy_addresses(&self, bridge: &Link) -> Result<(), NodeError> {
        if self.is_configured_anew(bridge).await? {
            return Ok(());
        }
        let addresses = relocate::addresses_of(self.netlink, bridge).await?;
        if addresses.is_empty() {
            return self.restore().await;
        }
        self.put_addresses(addresses, &bridge.name).await?;
        let pods = live::pods(&bridge.name)?;
        Ok(relocate::copy_neighbours(self.netlink, bridge, &self.nic, &pods).await?)
    }

    /// Puts on the NIC what the journal says, if the node has no address left at all.
    async fn restore(&self) -> Result<(), NodeError> {
        let has_any = !relocate::addresses_of(self.netlink, &self.nic)
            .await?
            .is_empty();
        let addresses = self.journal.addresses();
        if has_any || addresses.is_empty() {
            return Ok(());
        }
        tracing::warn!("the node had lost its addresses; they are restored from the journal");
        self.put_addresses(addresses, &self.journal.bridge).await?;
        let from = [self.journal.bridge_index, self.journal.master_index];
        let routes = self.journal.routes();
        Ok(relocate::put_routes(self.netlink, routes, &from, &self.nic).await?)
    }

    async fn put_addresses(
        &self,
        mut addresses: Vec<AddressMessage>,
        from: &str,
    ) -> Result<(), NodeError> {
        if let Some(before) = &self.journal.before {
            addresses = addresses
                .into_iter()
                .map(|it| before.labelled(it))
                .collect();
        }
        Ok(relocate::put_addresses(self.netlink, &addresses, from, &self.nic).await?)
    }

    /// A node whose NIC has left while a route leads over the bridge is cut off, so what fails half-way is taken back.
    async fn switch(&self, bridge: &Link) -> Result<(), NodeError> {
        let (index, name) = (self.nic.index, &self.nic.name);
        let (leave, join) = if self.nic.master == Some(bridge.index) {
            (
                Switch::Leave(link::set_master(index, name, 0)),
                Switch::Join(link::set_master(index, name, bridge.index)),
            )
        } else {
            (Switch::None, Switch::None)
        };
        let Err(cause) = relocate::move_routes(self.netlink, leave, bridge, &self.nic).await else {
            let mac = link::set_mac(bridge.index, &bridge.name, node::ROUTER_MAC);
            return Ok(self.netlink.run(mac).await?);
        };
        match relocate::move_routes(self.netlink, join, &self.nic, bridge).await {
            Ok(()) => Err(cause.into()),
            Err(undo) => Err(NodeError::Stranded {
                cause: Box::new(cause.into()),
                undo: Box::new(undo.into()),
            }),
        }
    }

    /// The address that keeps the bridge's routes comes before the node's go. The journal goes with this step: the record of the
    /// bridge takes its place.
    async fn make_router(&self, bridge: Option<&Link>) -> Result<(), NodeError> {
        if let Some(bridge) = bridge {
            node::keep_routes(self.netlink, bridge).await?;
            relocate::remove_addresses(self.netlink, bridge).await?;
        }
        node::make_bridge(self.netlink, &self.journal.bridge, &self.nic).await
    }
}

/// The NIC under another name: it has the index that it had, or is the port with the bridge's MAC.
async fn renamed(
    netlink: &Netlink,
    journal: &Journal,
    bridge: Option<&Link>,
) -> Result<Option<Link>, NodeError> {
    let Some(bridge) = bridge else {
        return Ok(None);
    };
    let mut ports = netlink.ports_of(bridge).await?;
    ports.retain(|port| !names::is_pods(&port.name));
    let is_nic = |port: &Link| port.index == journal.master_index || port.mac == bridge.mac;
    Ok(ports.into_iter().find(is_nic))
}
