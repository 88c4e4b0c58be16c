//! STATUS: could an ADD work? Runtimes ask twice a second, so this looks and changes nothing; what it
//! says is an opinion, and ADD is tried whatever it was.

use azure_vnet_cni::{CniError, Status, code};

use crate::config::{self, Config};
use crate::datapath;
use crate::error::Error;
use crate::health::{Finding, firewall, path};
use crate::lease;
use crate::netlink::{Netlink, NetlinkError};
use crate::node;

/// What keeps an ADD from working.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The configuration cannot be meant like this.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The NIC that the configuration names is not there.
    #[error("there is no link called {0}, which the configuration names as master")]
    NoMaster(String),
    /// The NIC that pods are connected to is not there any more.
    #[error("the NIC {nic}, through which the pods of {bridge} are connected, is gone")]
    NicGone {
        /// Its name.
        nic: String,
        /// The bridge of its pods.
        bridge: String,
    },
    /// The links cannot be listed.
    #[error("the node's network cannot be read")]
    Netlink(#[from] NetlinkError),
    /// Packets of pods, or of the node, do not get where they should.
    #[error("{}{}", .0.found, .0.fix.as_deref().map(|fix| format!("; fix: {fix}")).unwrap_or_default())]
    Path(Box<Finding>),
    /// Neither tier that the configuration allows.
    #[error("no datapath can be set up")]
    Datapath(#[from] datapath::Error),
}

/// Succeeds if nothing is known that would make an ADD fail.
pub async fn status(request: &Status) -> Result<(), Error> {
    let config = ready(request).await?;
    lease::status(&config.ipam, &request.path, &request.conf).map_err(|error| {
        match error.code {
            // The plugin is missing or broken: no address without it.
            code::DELEGATE => CniError::not_available(error.msg).with_details(error.details),
            _ => error,
        }
    })?;
    Ok(())
}

/// The half of it that is ours.
async fn ready(request: &Status) -> Result<Config, NotReady> {
    let config = Config::read(&request.conf)?;
    let host = Netlink::current()?;
    let exists = async |name: &str| Ok::<_, NetlinkError>(host.link(name).await?.is_some());
    if let Some(master) = &config.master
        && !exists(master).await?
    {
        return Err(NotReady::NoMaster(master.clone()));
    }
    // Without a name the NIC is the one of the address that ADD will get; the one of earlier calls
    // is the best guess.
    for record in node::record::all() {
        let bridge = &record.bridge;
        let meant =
            config.master.is_none() && config.bridge.as_ref().is_none_or(|name| name == bridge);
        if meant && record.nic(&host).await?.is_none() {
            return Err(NotReady::NicGone {
                nic: record.nic,
                bridge: record.bridge,
            });
        }
    }
    let masquerade = &config.masquerade;
    datapath::probe(masquerade.datapath, masquerade.port_range().err().as_ref())?;
    if let Some(finding) = path::first_break(&host).await?.or_else(firewall::dropping) {
        return Err(NotReady::Path(Box::new(finding)));
    }
    Ok(config)
}

impl NotReady {
    /// 51 says that pods that are attached suffer as well.
    pub fn code(&self) -> u32 {
        match self {
            Self::Config(error) => error.code(),
            Self::NicGone { .. } | Self::Path(_) => code::LIMITED_CONNECTIVITY,
            Self::NoMaster(_) | Self::Netlink(_) | Self::Datapath(_) => code::NOT_AVAILABLE,
        }
    }
}
