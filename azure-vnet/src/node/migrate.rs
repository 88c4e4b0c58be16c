//! The move of the node's network from its NIC to a bridge, step by step. Each step looks at the
//! kernel first and does what is missing, so that a move can be continued after any step, or in
//! the middle of one.

use std::net::Ipv4Addr;

use super::NodeError;
use super::departure::Departure;
use super::journal::{Before, Journal, State};
use super::master::{self, Place};
use super::relocate::{self, Switch};
use super::{NodeWanted, journal};
use super::{policy_route, settings};
use crate::legacy;
use crate::netlink::link::{self, Link, NewBridge};
use crate::netlink::{MacAddress, Netlink, address, route};

/// One step of a move. The order is the one that loses the fewest packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The bridge exists with the NIC's MAC and MTU, and is up.
    Bridge,
    /// The bridge has all addresses of the NIC and knows its neighbours; so does the NIC still.
    Addresses,
    /// The NIC is a port of the bridge, and at once all routes lead over it. The NIC is not taken down:
    /// that would flush its routes.
    Switch,
    /// What else names the NIC names the bridge, or is set as it must be for a port.
    Rules,
    /// The NIC has no address any more.
    Withdraw,
    /// What has an address of a NIC without the node's default route leaves by that NIC.
    Policy,
}

impl Step {
    /// The steps in their order.
    pub const ALL: [Self; 6] = [
        Self::Bridge,
        Self::Addresses,
        Self::Switch,
        Self::Rules,
        Self::Withdraw,
        Self::Policy,
    ];
}

/// A move under way.
#[derive(Debug)]
pub struct Migration<'a> {
    netlink: &'a Netlink,
    nic: Link,
    mac: MacAddress,
    bridge: Option<Link>,
    /// The bridge was not there before: it goes again if the move fails.
    made: bool,
    journal: Journal,
    /// What to put back on a node that has no address left at all.
    lost: Option<Journal>,
}

/// Moves the network of `place` and returns the journal of the completed move. If a step fails,
/// a bridge that this call made is taken away again and the NIC is as it was.
pub(super) async fn run(
    netlink: &Netlink,
    place: Place,
    journals: Vec<Journal>,
) -> Result<Journal, NodeError> {
    let (nic, bridge) = (place.nic.name.clone(), place.bridge_name.clone());
    let mut migration = Migration::of(netlink, place, journals)?;
    let outcome = async {
        migration.begin().await?;
        for step in Step::ALL {
            migration.step(step).await?;
        }
        migration.finish().await
    };
    match outcome.await {
        Ok(journal) => {
            tracing::info!("the addresses and routes of {nic} are on the bridge {bridge}");
            Ok(journal)
        }
        Err(cause) if migration.made => match migration.undo().await {
            Ok(()) => Err(cause),
            Err(undo) => Err(NodeError::Stranded {
                cause: Box::new(cause),
                undo: Box::new(undo),
            }),
        },
        Err(cause) => {
            migration.forget_if_not_begun().await;
            Err(cause)
        }
    }
}

/// Completes a move that was cut short. Without its NIC there is nothing to complete: the next ADD
/// looks for another.
pub(super) async fn resume(netlink: &Netlink, journal: Journal) -> Result<(), NodeError> {
    let nic = netlink.link(&journal.master).await?;
    let bridge = netlink.link(&journal.bridge).await?;
    let Some(nic) = nic else {
        return Ok(());
    };
    let place = Place {
        nic,
        bridge_name: journal.bridge.clone(),
        bridge,
    };
    run(netlink, place, vec![journal]).await.map(drop)
}

impl<'a> Migration<'a> {
    /// Chooses the NIC and its bridge as [`super::ensure`] does, and changes nothing yet. The
    /// caller holds the node's lock, or is alone.
    pub async fn plan(netlink: &'a Netlink, wanted: &NodeWanted) -> Result<Self, NodeError> {
        let journals = journal::all();
        let snapshot = master::Snapshot::take(netlink).await?;
        let place = master::choose(&snapshot, wanted, &journals)?;
        Self::of(netlink, place, journals)
    }

    fn of(netlink: &'a Netlink, place: Place, journals: Vec<Journal>) -> Result<Self, NodeError> {
        let Place {
            nic,
            bridge_name,
            bridge,
        } = place;
        let mac = nic.mac.ok_or_else(|| NodeError::NotEthernet {
            name: nic.name.clone(),
        })?;
        let mut journal = Journal::new(&bridge_name, &nic.name, nic.index);
        let mut earlier = journals.into_iter().filter(|old| old.master == nic.name);
        journal.before = earlier.clone().find_map(|old| old.before);
        let lost = earlier.find(|old| !old.addresses().is_empty());
        Ok(Self {
            netlink,
            journal,
            nic,
            mac,
            bridge,
            made: false,
            lost,
        })
    }

    /// Writes down what the node has, before the first change.
    pub async fn begin(&mut self) -> Result<(), NodeError> {
        let addresses = self.record().await?;
        if self.journal.before.is_none() {
            let addresses = relocate::addresses_of(self.netlink, &self.nic).await?;
            let before = Before::new(&self.nic, self.bridge.as_ref(), &addresses);
            self.journal.before = Some(before);
        }
        if addresses > 0 {
            self.lost = None;
        } else if let Some(lost) = &self.lost {
            // A crash while the addresses are put back must not lose them for good.
            self.journal.record(&lost.addresses(), &lost.routes());
        }
        self.journal.write()
    }

    /// Removes the journal of a move that failed before its first change: nobody has to end it. One that alone
    /// knows the node's addresses stays.
    async fn forget_if_not_begun(&self) {
        if self.lost.is_some() {
            return;
        }
        // Asked anew: a bridge may be there of which only the kernel's answer was lost.
        if let Ok(None) = self.netlink.link(&self.journal.bridge).await
            && let Err(error) = self.journal.remove()
        {
            tracing::warn!("{error}");
        }
    }

    /// Does what is missing of one step.
    pub async fn step(&mut self, step: Step) -> Result<(), NodeError> {
        tracing::debug!("node network: {step:?}");
        match step {
            Step::Bridge => self.make_bridge().await,
            Step::Addresses => {
                let bridge = self.bridge().await?;
                self.restore_addresses(&bridge).await?;
                let addresses = relocate::addresses_of(self.netlink, &self.nic).await?;
                relocate::put_addresses(self.netlink, &addresses, &self.nic.name, &bridge).await?;
                relocate::copy_neighbours(self.netlink, &self.nic, &bridge).await?;
                Ok(())
            }
            Step::Switch => self.switch().await,
            Step::Rules => {
                let bridge = self.bridge().await?;
                // What came in from the fabric must not go out to it again: pods would see it twice.
                let quiet = link::set_hairpin(self.nic.index, &self.nic.name, false);
                self.netlink.run(quiet).await?;
                relocate::move_rules(self.netlink, &self.nic, &bridge).await?;
                Ok(())
            }
            Step::Withdraw => {
                let bridge = self.bridge().await?;
                relocate::withdraw_addresses(self.netlink, &self.nic, &bridge).await?;
                Ok(())
            }
            Step::Policy => {
                let bridge = self.bridge().await?;
                Ok(policy_route::ensure(self.netlink, &bridge, self.journal.gateway).await?)
            }
        }
    }

    /// Writes down that the move is complete.
    pub async fn finish(&mut self) -> Result<Journal, NodeError> {
        self.journal.bridge_index = self.bridge().await?.index;
        self.record().await?;
        self.journal.state = State::Done;
        self.journal.write()?;
        Ok(self.journal.clone())
    }

    /// Records addresses and routes of NIC and bridge; says how many addresses there are.
    async fn record(&mut self) -> Result<usize, NodeError> {
        let (addresses, routes) =
            relocate::all_of(self.netlink, &self.nic, self.bridge.as_ref()).await?;
        self.journal.gateway = preferred_gateway(&routes);
        self.journal.record(&addresses, &routes);
        Ok(addresses.iter().filter_map(address::ipv4_net).count())
    }

    async fn make_bridge(&mut self) -> Result<(), NodeError> {
        let name = self.journal.bridge.clone();
        if self.bridge.is_none() {
            let new = NewBridge {
                name: &name,
                mac: self.mac,
                mtu: self.nic.mtu,
            };
            self.netlink.run(link::create_bridge(&new)).await?;
            self.made = true;
            settings::inherit(&self.nic.name, &name)?;
        }
        let bridge = self.bridge().await?;
        if !self.made {
            let hand_over = link::set_netfilter(bridge.index, &name);
            self.netlink.run(hand_over).await?;
        }
        if self.is_ours() && !bridge.is_marked() {
            self.netlink.run(link::mark(bridge.index, &name)).await?;
        }
        if bridge.mac != Some(self.mac) {
            let set = link::set_mac(bridge.index, &name, self.mac);
            self.netlink.run(set).await?;
        }
        if bridge.mtu != self.nic.mtu {
            let set = link::set_mtu(bridge.index, &name, self.nic.mtu);
            self.netlink.run(set).await?;
        }
        if !bridge.is_up() {
            self.netlink.run(link::set_up(bridge.index, &name)).await?;
        }
        Ok(())
    }

    /// There was no such bridge before the first change, or the original plugin made it.
    fn is_ours(&self) -> bool {
        let made = self.journal.before.as_ref().is_some_and(|it| !it.bridge);
        let (bridge, nic) = (&self.journal.bridge, &self.nic.name);
        made || legacy::networks().iter().any(|it| it.is(bridge, nic))
    }

    async fn switch(&mut self) -> Result<(), NodeError> {
        let bridge = self.bridge().await?;
        let (index, name) = (self.nic.index, self.nic.name.clone());
        if !self.nic.is_up() {
            self.netlink.run(link::set_up(index, &name)).await?;
        }
        self.restore_routes(&bridge).await?;
        let join = if self.nic.master == Some(bridge.index) {
            Switch::None
        } else {
            Switch::Join(link::set_master(index, &name, bridge.index))
        };
        relocate::move_routes(self.netlink, join, &self.nic, &bridge).await?;
        Ok(())
    }

    /// The bridge, read from the kernel the first time after it was made.
    async fn bridge(&mut self) -> Result<Link, NodeError> {
        if self.bridge.is_none() {
            self.bridge = self.netlink.link(&self.journal.bridge).await?;
        }
        self.bridge.clone().ok_or_else(|| NodeError::NotABridge {
            name: self.journal.bridge.clone(),
        })
    }

    async fn restore_addresses(&self, bridge: &Link) -> Result<(), NodeError> {
        let Some(lost) = &self.lost else {
            return Ok(());
        };
        tracing::warn!("the node had lost its addresses; they are restored from the journal");
        let addresses = lost.addresses();
        Ok(relocate::put_addresses(self.netlink, &addresses, &self.nic.name, bridge).await?)
    }

    async fn restore_routes(&self, bridge: &Link) -> Result<(), NodeError> {
        let Some(lost) = &self.lost else {
            return Ok(());
        };
        let from = [lost.master_index, lost.bridge_index];
        Ok(relocate::put_routes(self.netlink, lost.routes(), &from, bridge).await?)
    }

    /// Puts the NIC back as it was and takes the bridge away.
    async fn undo(&mut self) -> Result<(), NodeError> {
        let mut departure = Departure::of(self.netlink, self.journal.clone()).await?;
        departure.run().await
    }
}

/// The gateway of the first IPv4 default route: the kernel lists the best metric first.
fn preferred_gateway(routes: &[rtnetlink::packet_route::route::RouteMessage]) -> Option<Ipv4Addr> {
    routes.iter().find_map(route::default_gateway)
}
