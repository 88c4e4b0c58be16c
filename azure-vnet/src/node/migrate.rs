//! The move of the node's network from its NIC to a bridge, step by step. Each step looks at the
//! kernel first and does what is missing, so that a move can be continued after any step, or in
//! the middle of one.

use std::net::Ipv4Addr;

use super::NodeError;
use super::journal::{Journal, State};
use super::master::{self, Place};
use super::relocate;
use super::{NodeWanted, journal};
use crate::netlink::link::{self, Link, NewBridge};
use crate::netlink::{MacAddress, Netlink, address, gone_is_fine, route};
use crate::sysctl::{self, Sysctl};

/// What the owner of the node has set for the NIC holds for the link that takes its place.
const INHERITED: &[(&str, &str)] = &[
    ("ipv4", "rp_filter"),
    ("ipv4", "accept_local"),
    ("ipv4", "arp_announce"),
    ("ipv4", "arp_ignore"),
    ("ipv6", "disable_ipv6"),
    ("ipv6", "accept_ra"),
    ("ipv6", "autoconf"),
    ("ipv6", "use_tempaddr"),
];

/// One step of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The bridge exists with the NIC's MAC and MTU, and is up.
    Bridge,
    /// The NIC is a port of the bridge. It is not taken down: that would flush its routes.
    Enslave,
    /// The bridge has all addresses of the NIC, and the NIC still has them too.
    Addresses,
    /// All routes lead over the bridge.
    Routes,
    /// The NIC has no address any more.
    Withdraw,
}

impl Step {
    /// The steps in their order.
    pub const ALL: [Self; 5] = [
        Self::Bridge,
        Self::Enslave,
        Self::Addresses,
        Self::Routes,
        Self::Withdraw,
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
        Err(cause) => Err(cause),
    }
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
        let lost = journals
            .into_iter()
            .find(|old| old.master == nic.name && !old.addresses().is_empty());
        Ok(Self {
            netlink,
            journal: Journal::new(&bridge_name, &nic.name, nic.index),
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
        if addresses > 0 {
            self.lost = None;
        } else if let Some(lost) = &self.lost {
            // A crash while the addresses are put back must not lose them for good.
            self.journal.record(&lost.addresses(), &lost.routes());
        }
        self.journal.write()
    }

    /// Does what is missing of one step.
    pub async fn step(&mut self, step: Step) -> Result<(), NodeError> {
        tracing::debug!("node network: {step:?}");
        match step {
            Step::Bridge => self.make_bridge().await,
            Step::Enslave => self.enslave().await,
            Step::Addresses => {
                let bridge = self.bridge().await?;
                self.restore_addresses(&bridge).await?;
                relocate::copy_addresses(self.netlink, &self.nic, &bridge).await?;
                Ok(())
            }
            Step::Routes => {
                let bridge = self.bridge().await?;
                self.restore_routes(&bridge).await?;
                relocate::move_routes(self.netlink, &self.nic, &bridge).await?;
                Ok(())
            }
            Step::Withdraw => {
                let bridge = self.bridge().await?;
                relocate::withdraw_addresses(self.netlink, &self.nic, &bridge).await?;
                Ok(())
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
        let mut addresses = relocate::addresses_of(self.netlink, &self.nic).await?;
        let all_routes = self.netlink.routes().await?;
        let mut routes = relocate::routes_of(&all_routes, &self.nic);
        if let Some(bridge) = &self.bridge {
            addresses.extend(relocate::addresses_of(self.netlink, bridge).await?);
            routes.extend(relocate::routes_of(&all_routes, bridge));
        }
        let routes: Vec<_> = routes.into_iter().cloned().collect();
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
            inherit_settings(&self.nic.name, &name)?;
        }
        let bridge = self.bridge().await?;
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

    async fn enslave(&mut self) -> Result<(), NodeError> {
        let bridge = self.bridge().await?;
        let (index, name) = (self.nic.index, self.nic.name.clone());
        if !self.nic.is_up() {
            self.netlink.run(link::set_up(index, &name)).await?;
        }
        if self.nic.master != Some(bridge.index) {
            let join = link::set_master(index, &name, bridge.index);
            self.netlink.run(join).await?;
        }
        // What came in from the fabric must not go out to it again: pods would see it twice.
        self.netlink
            .run(link::set_hairpin(index, &name, false))
            .await?;
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
        let copies = addresses
            .iter()
            .map(|entry| address::copy(entry, &self.nic, bridge));
        Ok(self.netlink.run_all(copies).await?)
    }

    async fn restore_routes(&self, bridge: &Link) -> Result<(), NodeError> {
        let Some(lost) = &self.lost else {
            return Ok(());
        };
        let mut routes = lost.routes();
        routes.sort_by_key(route::has_gateway);
        for entry in routes {
            let entry = route::moved(&entry, lost.master_index, bridge.index);
            let entry = route::moved(&entry, lost.bridge_index, bridge.index);
            match self
                .netlink
                .run(route::put(&entry, route::Place::Last))
                .await
            {
                Err(error) if !error.is_exists() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts the NIC back as it was and takes the bridge away.
    async fn undo(&mut self) -> Result<(), NodeError> {
        let name = self.journal.bridge.clone();
        if let Some(bridge) = self.netlink.link(&name).await? {
            let leave = link::set_master(self.nic.index, &self.nic.name, 0);
            self.netlink.run(leave).await?;
            relocate::copy_addresses(self.netlink, &bridge, &self.nic).await?;
            relocate::move_routes(self.netlink, &bridge, &self.nic).await?;
            gone_is_fine(self.netlink.run(link::delete(&name)).await)?;
        }
        self.journal.remove()
    }
}

fn inherit_settings(nic: &str, bridge: &str) -> Result<(), NodeError> {
    for (family, key) in INHERITED {
        if let Some(value) = sysctl::read(&format!("net/{family}/conf/{nic}/{key}"))? {
            Sysctl::of_interface(family, bridge, key, &value).set()?;
        }
    }
    Ok(())
}

/// The gateway of the first IPv4 default route: the kernel lists the best metric first.
fn preferred_gateway(routes: &[rtnetlink::packet_route::route::RouteMessage]) -> Option<Ipv4Addr> {
    routes.iter().find_map(route::default_gateway)
}
