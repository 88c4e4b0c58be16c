//! The NIC that `master` names, as Azure's lists name it: by its MAC.

use std::{fs, io, path::Path};

use crate::{
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

/// Looks the link up. A VF has the MAC of its NIC, so naming either comes to the same.
pub fn find(name: &str) -> Result<Master, Error> {
    let mac = mac(name)?;
    let name = name.to_owned();
    Ok(Master { name, mac })
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
