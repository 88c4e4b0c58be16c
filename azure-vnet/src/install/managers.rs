//! What tells the managers of a node's network that the bridges (`azure0`, `azure1`, …) and the pods' veths (`azv…`) are none of theirs,
//! and that the secondary addresses of its NICs are the pods'. The NIC itself stays theirs.

use std::path::Path;

use super::{Error, Step, put, remove};

/// A file for one of them.
struct File {
    /// What is there only where that manager is.
    sign: &'static str,
    path: &'static str,
    text: &'static str,
}

const FILES: [File; 5] = [
    // Before every other file, since the first that matches counts: operators write `Name=*`.
    File {
        sign: "etc/systemd/network",
        path: "etc/systemd/network/05-azure-vnet.network",
        text: "# Put here by azure-vnet install; azure-vnet uninstall takes it away.
[Match]
Name=azure* azv*

[Link]
Unmanaged=yes
",
    },
    // Its start deletes the rules and routes of others. Versions before 249 do not know the first key, and leave rules alone.
    File {
        sign: "etc/systemd/network",
        path: "etc/systemd/networkd.conf.d/50-azure-vnet.conf",
        text: "# Put here by azure-vnet install; azure-vnet uninstall takes it away.
[Network]
ManageForeignRoutingPolicyRules=no
ManageForeignRoutes=no
",
    },
    // With `+=` the lists of other files go on to count.
    File {
        sign: "etc/NetworkManager",
        path: "etc/NetworkManager/conf.d/50-azure-vnet.conf",
        text: "# Put here by azure-vnet install; azure-vnet uninstall takes it away.
[keyfile]
unmanaged-devices+=interface-name:azure*;interface-name:azv*
",
    },
    // It writes the network's configuration anew at each boot, with every ipconfig of the NIC. A version without the key ignores it.
    File {
        sign: "etc/cloud/cloud.cfg.d",
        path: "etc/cloud/cloud.cfg.d/95-azure-vnet.cfg",
        text: "# Put here by azure-vnet install; azure-vnet uninstall takes it away.
datasource:
  Azure:
    apply_network_config_for_secondary_ips: false
",
    },
    // The same by NetworkManager, every few minutes. The images switch it on by 10-rh-enable-for-azure.conf, and the last file counts.
    File {
        sign: "usr/lib/systemd/system/nm-cloud-setup.service",
        path: "etc/systemd/system/nm-cloud-setup.service.d/50-azure-vnet.conf",
        text: "# Put here by azure-vnet install; azure-vnet uninstall takes it away.
[Service]
Environment=NM_CLOUD_SETUP_AZURE=no
",
    },
];

/// Puts the files in their places, for the managers that this node has.
pub fn place(root: &Path) -> Result<Vec<Step>, Error> {
    FILES
        .iter()
        .filter(|file| root.join(file.sign).exists())
        .map(|file| {
            let path = root.join(file.path);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(Error::at("create", folder))?;
            }
            put(&path, file.text.as_bytes(), 0o644)
        })
        .collect()
}

/// Takes the files away, whether or not their managers are still there.
pub fn take_away(root: &Path) -> Result<Vec<Step>, Error> {
    let paths = FILES.iter().map(|file| root.join(file.path));
    let removed = paths.map(remove).collect::<Result<Vec<_>, _>>()?;
    Ok(removed.into_iter().flatten().collect())
}

/// Where the files are, or would be.
#[cfg(test)]
pub fn paths(root: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    FILES.iter().map(|file| root.join(file.path))
}
