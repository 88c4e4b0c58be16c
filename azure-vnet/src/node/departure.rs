//! The way back: the node's network from the bridge to its NIC, step by step. As on the way there,
//! each step looks at the kernel first and does what is missing.

use rtnetlink::packet_route::address::AddressMessage;

use super::NodeError;
use super::journal::{self, Journal, State};
use super::relocate::{self, Switch};
use super::{policy_route, settings};
use crate::names;
use crate::netlink::link::{self, Link};
use crate::netlink::{Netlink, gone_is_fine};

/// One step of the way back, in the order that loses the fewest packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What the plugin added beside what the NIC had is gone.
    Policy,
    /// The NIC has all addresses of the bridge and knows its neighbours; so does the bridge still.
    Addresses,
    /// The NIC is a port of no bridge, and at once all routes lead over it.
    Switch,
    /// Rules name the NIC.
    Rules,
    /// The bridge is gone, or has at least none of the node's addresses if it is not ours.
    Bridge,
    /// The NIC is up or down as it was.
    Flags,
}

impl Step {
    /// The steps in their order.
    pub const ALL: [Self; 6] = [
        Self::Policy,
        Self::Addresses,
        Self::Switch,
        Self::Rules,
        Self::Bridge,
        Self::Flags,
    ];
}

/// A way back under way.
#[derive(Debug)]
pub struct Departure<'a> {
    netlink: &'a Netlink,
    journal: Journal,
    nic: Link,
    bridge: Option<Link>,
}

impl<'a> Departure<'a> {
    /// The way back from the bridge called `name`, nothing changed yet; `None` where there is nothing
    /// to go back from. A bridge of ours whose journal is lost has its NIC as its port.
    pub async fn plan(netlink: &'a Netlink, name: &str) -> Result<Option<Self>, NodeError> {
        if let Some(journal) = journal::all().into_iter().find(|j| j.bridge == name) {
            return Self::of(netlink, journal).await.map(Some);
        }
        let Some(bridge) = netlink.link(name).await?.filter(Link::is_bridge) else {
            return Ok(None);
        };
        let ports = ports(netlink, &bridge).await?;
        let nic = ports.into_iter().find(|port| port.mac == bridge.mac);
        let nic = nic.filter(|_| bridge.is_marked());
        Ok(nic.map(|nic| Self {
            netlink,
            journal: Journal::new(name, &nic.name, nic.index),
            nic,
            bridge: Some(bridge),
        }))
    }

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

    /// Fails if the bridge connects anything but the NIC and pods.
    pub async fn refuse_other_ports(&self) -> Result<(), NodeError> {
        let Some(bridge) = self.bridge.as_ref().filter(|_| !self.stays()) else {
            return Ok(());
        };
        let ports = ports(self.netlink, bridge).await?;
        match ports.into_iter().find(|port| port.index != self.nic.index) {
            Some(port) => Err(NodeError::InUse {
                bridge: bridge.name.clone(),
                port: port.name,
            }),
            None => Ok(()),
        }
    }

    /// Goes the whole way.
    pub async fn run(&mut self) -> Result<(), NodeError> {
        self.begin().await?;
        for step in Step::ALL {
            self.step(step).await?;
        }
        self.finish()
    }

    /// Writes down that the way back has begun, and what the node has, before the first change.
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
        tracing::debug!("node network, back: {step:?}");
        // The plugin's own, also on a bridge that is not.
        if step == Step::Policy {
            let index = self.bridge.as_ref().map(|bridge| bridge.index);
            let index = index.unwrap_or(self.journal.bridge_index);
            return Ok(policy_route::remove(self.netlink, index).await?);
        }
        if self.stays() {
            return Ok(());
        }
        match (step, self.bridge.clone()) {
            (Step::Addresses, Some(bridge)) => self.copy_addresses(&bridge).await,
            (Step::Addresses, None) => self.restore().await,
            (Step::Switch, Some(bridge)) => self.switch(&bridge).await,
            (Step::Rules, Some(bridge)) => {
                relocate::move_rules(self.netlink, &bridge, &self.nic).await?;
                Ok(())
            }
            (Step::Bridge, Some(bridge)) => self.remove_bridge(&bridge).await,
            (Step::Policy, _) | (Step::Switch | Step::Rules | Step::Bridge, None) => Ok(()),
            (Step::Flags, _) => self.restore_flags().await,
        }
    }

    /// Writes down that the node's network is as if we had never been there. The journal goes last: without it nobody
    /// would come back for the settings.
    pub fn finish(&self) -> Result<(), NodeError> {
        settings::restore()?;
        self.journal.remove()?;
        let (nic, bridge) = (&self.nic.name, &self.journal.bridge);
        if self.stays() {
            tracing::info!("{nic} stays a port of {bridge}, as it was");
        } else {
            tracing::info!("the addresses and routes of {bridge} are on {nic} again");
        }
        Ok(())
    }

    pub(super) fn into_nic(self) -> Link {
        self.nic
    }

    /// The bridge with the NIC in it is somebody else's work.
    fn stays(&self) -> bool {
        !self.is_ours() && self.journal.before.as_ref().is_some_and(|it| it.port)
    }

    fn is_ours(&self) -> bool {
        let made = self.journal.before.as_ref().is_some_and(|it| !it.bridge);
        made || self.bridge.as_ref().is_some_and(Link::is_marked)
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
            return Ok(());
        };
        match relocate::move_routes(self.netlink, join, &self.nic, bridge).await {
            Ok(()) => Err(cause.into()),
            Err(undo) => Err(NodeError::Stranded {
                cause: Box::new(cause.into()),
                undo: Box::new(undo.into()),
            }),
        }
    }

    async fn copy_addresses(&self, bridge: &Link) -> Result<(), NodeError> {
        let addresses = relocate::addresses_of(self.netlink, bridge).await?;
        if addresses.is_empty() {
            return self.restore().await;
        }
        self.put_addresses(addresses, &bridge.name).await?;
        Ok(relocate::copy_neighbours(self.netlink, bridge, &self.nic).await?)
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

    async fn remove_bridge(&self, bridge: &Link) -> Result<(), NodeError> {
        if self.is_ours() {
            gone_is_fine(self.netlink.run(link::delete(&bridge.name)).await)?;
        } else {
            relocate::withdraw_addresses(self.netlink, bridge, &self.nic).await?;
        }
        Ok(())
    }

    async fn restore_flags(&self) -> Result<(), NodeError> {
        if self.journal.before.as_ref().is_some_and(|it| !it.up) {
            let down = link::set_down(self.nic.index, &self.nic.name);
            self.netlink.run(down).await?;
        }
        Ok(())
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
    let ports = ports(netlink, bridge).await?;
    let is_nic = |port: &Link| port.index == journal.master_index || port.mac == bridge.mac;
    Ok(ports.into_iter().find(is_nic))
}

/// The ports of a bridge that are not pods'.
async fn ports(netlink: &Netlink, bridge: &Link) -> Result<Vec<Link>, NodeError> {
    let mut links = netlink.links().await?;
    links.retain(|link| link.master == Some(bridge.index) && !names::is_ours(&link.name));
    Ok(links)
}
