//! Which address an attachment gets.

use std::{cmp::Reverse, collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Error, Key, Lease, OutOfReach, Pool, Subnet};
use crate::mac::Mac;

/// What is asked for; usually nothing in particular.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only addresses of this NIC.
    pub master: Option<Master>,
    /// Only addresses of this subnet.
    pub subnet: Option<Ipv4Net>,
    /// Only this address.
    pub address: Option<Particular>,
    /// Whether an address is of use only in a subnet that the node has an address of, as under our network plugin, which
    /// masquerades with that.
    pub is_routed: bool,
    /// What nobody may have, whatever the record says.
    pub observed: Observed,
}

/// The NIC that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// The link's name.
    pub name: String,
    /// Its MAC.
    pub mac: Mac,
    /// Whether no other NIC will do; else only one of the VM's own is meant.
    pub required: bool,
}

/// One address and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Particular {
    pub address: Ipv4Addr,
    /// Where it is asked for, so that an error can say what to change.
    pub by: &'static str,
}

/// Addresses that the kernel of this node knows, whether they are recorded or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The node's own: a pod with such an address would never see a packet.
    pub node: BTreeSet<Ipv4Addr>,
    /// Those of pods on this node.
    pub pods: BTreeSet<Ipv4Addr>,
    /// The MACs of its links, by which Azure's list names NICs; none if they cannot be read, and then each may be here.
    pub links: Option<BTreeSet<Mac>>,
    /// Attachments whose pods are gone, though no DEL has come for them. Looked for only where that is to be said.
    pub gone: BTreeSet<Key>,
}

impl Pool {
    /// The address that an attachment without one would get now, and the subnet it is in.
    pub fn choose(&self, wanted: &Wanted) -> Result<(Ipv4Addr, &Subnet), Error> {
        let books = self.books(&wanted.observed);
        let candidates = self.candidates(wanted)?;
        match &wanted.address {
            Some(particular) => self.particular(&candidates, particular, &books),
            None => self.least_recently_used(&candidates, &books),
        }
    }

    /// What is not free now.
    pub(super) fn books<'a>(&self, observed: &'a Observed) -> Books<'a> {
        let is_gone = |lease: &&Lease| observed.gone.contains(&lease.key);
        let gone = self.leases.iter().filter(is_gone);
        Books {
            in_use: self.leases.iter().map(|lease| lease.address).collect(),
            gone: gone.map(|lease| lease.address).collect(),
            observed,
        }
    }

    /// The subnets to choose from.
    fn candidates(&self, wanted: &Wanted) -> Result<Candidates<'_>, Error> {
        let mut subnets: Vec<&Subnet> = self.subnets.iter().collect();
        if let Some(Master {
            name,
            mac,
            required,
        }) = &wanted.master
        {
            // A NIC that the source does not name may be any.
            let its = |subnet: &&Subnet| subnet.nic.is_none_or(|nic| nic == *mac);
            if *required || subnets.iter().any(its) {
                subnets.retain(its);
            }
            if subnets.is_empty() && !self.subnets.is_empty() {
                return Err(Error::UnknownNic {
                    name: name.clone(),
                    mac: *mac,
                    known: list(self.subnets.iter().filter_map(|subnet| subnet.nic)),
                });
            }
        }
        if let Some(wanted) = wanted.subnet {
            let known = list(subnets.iter().map(|subnet| subnet.prefix));
            subnets.retain(|subnet| subnet.prefix == wanted);
            if subnets.is_empty() {
                return Err(Error::UnknownSubnet { wanted, known });
            }
        }
        let reason = |subnet: &&Subnet| subnet.out_of_reach(wanted);
        let out_of_reach = subnets.iter().find_map(reason);
        subnets.retain(|subnet| reason(subnet).is_none());
        match out_of_reach {
            Some(reason) if subnets.is_empty() => Err(reason.into()),
            out_of_reach => Ok(Candidates {
                subnets,
                out_of_reach,
            }),
        }
    }

    fn particular<'a>(
        &self,
        candidates: &Candidates<'a>,
        &Particular {
            address: wanted,
            by,
        }: &Particular,
        books: &Books<'_>,
    ) -> Result<(Ipv4Addr, &'a Subnet), Error> {
        if let Some(lease) = self.leases.iter().find(|lease| lease.address == wanted) {
            let key = lease.key.clone();
            return Err(Error::Taken { by, wanted, key });
        }
        if books.observed.node.contains(&wanted) {
            return Err(Error::OnNode { by, wanted });
        }
        if books.observed.pods.contains(&wanted) {
            return Err(Error::OnUnknownPod { by, wanted });
        }
        let mut subnets = candidates.subnets.iter();
        subnets
            .find(|subnet| subnet.addresses.contains(&wanted))
            .map(|subnet| (wanted, *subnet))
            .ok_or(Error::UnknownAddress { by, wanted })
    }

    /// The address that has been free for longest, so that late packets for its last owner have died out. Of the primary
    /// NIC's subnet first, then of the one with most free addresses.
    fn least_recently_used<'a>(
        &self,
        candidates: &Candidates<'a>,
        books: &Books<'_>,
    ) -> Result<(Ipv4Addr, &'a Subnet), Error> {
        let mut subnets = candidates.subnets.clone();
        subnets.sort_by_key(|subnet| Reverse((subnet.primary, books.free(subnet).count())));
        let age = |address: &Ipv4Addr| (self.released.get(address).copied(), *address);
        let mut oldest = subnets
            .iter()
            .filter_map(|subnet| Some((books.free(subnet).min_by_key(age)?, *subnet)));
        oldest.next().ok_or_else(|| books.exhausted(candidates))
    }
}

/// The subnets that will do, and why others will not.
struct Candidates<'a> {
    subnets: Vec<&'a Subnet>,
    out_of_reach: Option<OutOfReach>,
}

/// What is not free, by the record and by the kernel.
pub(super) struct Books<'a> {
    in_use: BTreeSet<Ipv4Addr>,
    gone: BTreeSet<Ipv4Addr>,
    observed: &'a Observed,
}

impl Books<'_> {
    pub(super) fn free<'a>(&'a self, subnet: &'a Subnet) -> impl Iterator<Item = Ipv4Addr> + 'a {
        let Observed { node, pods, .. } = self.observed;
        let addresses = subnet.addresses.iter().copied();
        addresses.filter(move |address| {
            !self.in_use.contains(address) && !node.contains(address) && !pods.contains(address)
        })
    }

    /// Whether a pod has the address, recorded or not.
    pub(super) fn is_of_pod(&self, address: Ipv4Addr) -> bool {
        self.in_use.contains(&address) || self.observed.pods.contains(&address)
    }

    fn exhausted(&self, candidates: &Candidates<'_>) -> Error {
        let all = || {
            candidates
                .subnets
                .iter()
                .flat_map(|subnet| &subnet.addresses)
        };
        if all().next().is_none() {
            return match &candidates.out_of_reach {
                Some(reason) => reason.clone().into(),
                None => Error::Empty,
            };
        }
        let unrecorded = || all().filter(|address| !self.in_use.contains(address));
        let of_node = unrecorded()
            .filter(|address| self.observed.node.contains(address))
            .count();
        Error::Exhausted {
            total: all().count(),
            in_use: all().count() - unrecorded().count(),
            gone: all().filter(|address| self.gone.contains(address)).count(),
            of_node,
            of_pods: unrecorded().count() - of_node,
            out_of_reach: candidates.out_of_reach.clone(),
        }
    }
}

fn list<T: ToString + Ord>(items: impl Iterator<Item = T>) -> String {
    let items: BTreeSet<T> = items.collect();
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}
