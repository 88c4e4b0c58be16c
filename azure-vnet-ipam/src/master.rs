//! The NIC that `master` names, as Azure's lists name it: by its MAC.

use std::{fs, io, path::Path};

use crate::{
    config::Config,
    mac::{Mac, NotAMac},
    pool::Master,
};

const LINKS: &str = "/sys/class/net";

/// Why the link that `master` names is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("master {name:?} is not a link of this node; `ip link` shows those that are")]
    NoLink {
        name: String,
        #[source]
        cause: io::Error,
    },
    #[error("master {name:?} has no Ethernet address")]
    NoMac {
        name: String,
        #[source]
        cause: NotAMac,
    },
}

/// The NIC of this configuration, if it names one.
///
/// # Errors
/// There is no such link; under another network plugin than ours that plugin says so.
pub fn of(config: &Config) -> Result<Option<Master>, Error> {
    match config
        .master
        .as_deref()
        .map(|name| find(name, config.is_of_pair))
    {
        Some(Err(_)) if !config.is_of_pair => Ok(None),
        found => found.transpose(),
    }
}

/// Looks the link up. A VF has the MAC of its NIC, so naming either comes to the same.
fn find(name: &str, required: bool) -> Result<Master, Error> {
    let mac = mac(name)?;
    let name = name.to_owned();
    Ok(Master {
        name,
        mac,
        required,
    })
}

fn mac(name: &str) -> Result<Mac, Error> {
    let no_link = |cause| Error::NoLink {
        name: name.to_owned(),
        cause,
    };
    // What is no name of a link must not become another path.
    if name.contains('/') || matches!(name, "." | "..") {
        return Err(no_link(io::ErrorKind::InvalidInput.into()));
    }
    let path = Path::new(LINKS).join(name).join("address");
    let text = fs::read_to_string(path).map_err(no_link)?;
    text.trim().parse().map_err(|cause| Error::NoMac {
        name: name.to_owned(),
        cause,
    })
}
