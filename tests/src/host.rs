//! Hosts outside the VNet's subnet: in the internet, on-premises, in a peered VNet.

use std::net::Ipv4Addr;

use crate::Error;
use crate::fabric::Fabric;
use crate::icmp::Witness;
use crate::namespace::Namespace;
use crate::reporter::Reporter;

/// The port on which hosts outside and pods report the source they saw, by TCP and UDP.
pub const REPORT_PORT: u16 = 80;

/// A host that reports the source of everything that reaches it.
#[derive(Debug)]
pub struct Host {
    /// Its addresses, in the order in which it was given them.
    pub addresses: Vec<Ipv4Addr>,
    /// Remembers who pinged it.
    pub pings: Witness,
    _reporter: Reporter,
    namespace: Namespace,
}

impl Host {
    /// A host behind a link of the fabric; `default` makes it the way to all unknown destinations.
    pub(crate) fn new(
        fabric: &Fabric,
        link: &str,
        addresses: &[Ipv4Addr],
        default: bool,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Setup {
            what: format!("start the host {link}"),
            source,
        };
        let namespace = Namespace::network().map_err(Error::namespace)?;
        fabric.connect_host(link, &namespace, addresses, default)?;
        Ok(Self {
            addresses: addresses.to_vec(),
            pings: Witness::start(&namespace).map_err(failed)?,
            _reporter: Reporter::start(&namespace, addresses, REPORT_PORT).map_err(failed)?,
            namespace,
        })
    }

    /// The host's first address.
    pub fn address(&self) -> Ipv4Addr {
        self.addresses[0]
    }

    /// The namespace of the host.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}
