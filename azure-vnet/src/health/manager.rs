//! Who configures a NIC, told from the files that each manager keeps in `/run`, and how that one is asked to do it again.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

/// A network manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// systemd-networkd, by itself or for netplan.
    Networkd,
    /// `NetworkManager`.
    NetworkManager,
    /// ifupdown's `/etc/network/interfaces`.
    Ifupdown,
    /// dhcpcd.
    Dhcpcd,
    /// None that is known: somebody's scripts.
    Nobody,
}

impl Manager {
    /// The manager of the link with this name and index.
    pub fn of(nic: &str, index: u32) -> Self {
        Self::below(Path::new("/run"), nic, index)
    }

    fn below(run: &Path, nic: &str, index: u32) -> Self {
        let says = |path: String, is_meant: &dyn Fn(&str) -> bool| {
            let text = fs::read_to_string(run.join(path));
            text.is_ok_and(|text| text.lines().map(str::trim).any(is_meant))
        };
        // Each has a file for a link that it leaves alone, too.
        if says(format!("systemd/netif/links/{index}"), &|line| {
            line.starts_with("ADMIN_STATE=") && line != "ADMIN_STATE=unmanaged"
        }) {
            return Self::Networkd;
        }
        if says(format!("NetworkManager/devices/{index}"), &|line| {
            line == "managed=true" || line == "managed=full"
        }) {
            return Self::NetworkManager;
        }
        let is_up = |line: &str| line.split('=').next() == Some(nic);
        if says("network/ifstate".to_owned(), &is_up)
            || says(format!("network/ifstate.{nic}"), &is_up)
        {
            return Self::Ifupdown;
        }
        let pids = [
            format!("dhcpcd/{nic}.pid"),
            format!("dhcpcd-{nic}.pid"),
            "dhcpcd/pid".to_owned(),
        ];
        if pids.iter().any(|pid| run.join(pid).exists()) {
            return Self::Dhcpcd;
        }
        Self::Nobody
    }

    /// The command that has it configure the NIC again: address and routes. Where nobody does, what was known of both is set by hand.
    pub fn again(self, nic: &str, address: Option<Ipv4Net>, gateway: Option<Ipv4Addr>) -> String {
        match self {
            Self::Networkd => format!("networkctl reconfigure {nic}"),
            Self::NetworkManager => format!("nmcli device reapply {nic}"),
            Self::Ifupdown => format!("ifdown --force {nic}; ifup {nic}"),
            Self::Dhcpcd => format!("dhcpcd --rebind {nic}"),
            Self::Nobody => {
                let address = address.map(|it| format!("ip address replace {it} dev {nic}"));
                let route =
                    gateway.map(|it| format!("ip route replace default via {it} dev {nic} onlink"));
                let both: Vec<String> = address.into_iter().chain(route).collect();
                if both.is_empty() {
                    format!(
                        "configure {nic} as it was at boot: no manager of it is known, nor its address"
                    )
                } else {
                    both.join("; ")
                }
            }
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Networkd => "systemd-networkd",
            Self::NetworkManager => "NetworkManager",
            Self::Ifupdown => "ifupdown",
            Self::Dhcpcd => "dhcpcd",
            Self::Nobody => "no manager that is known",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn each_manager_is_known_by_its_files() {
        let (networkd, manager) = (Manager::Networkd, Manager::NetworkManager);
        for (path, text, expected) in [
            (
                "systemd/netif/links/2",
                "ADMIN_STATE=configured\n",
                networkd,
            ),
            (
                "systemd/netif/links/2",
                "ADMIN_STATE=unmanaged\n",
                Manager::Nobody,
            ),
            (
                "systemd/netif/links/3",
                "ADMIN_STATE=configured\n",
                Manager::Nobody,
            ),
            (
                "NetworkManager/devices/2",
                "[device]\nmanaged=true\n",
                manager,
            ),
            (
                "NetworkManager/devices/2",
                "[device]\nmanaged=false\n",
                Manager::Nobody,
            ),
            ("network/ifstate", "lo=lo\neth0=eth0\n", Manager::Ifupdown),
            ("network/ifstate", "lo=lo\neth01=eth01\n", Manager::Nobody),
            ("dhcpcd/eth0.pid", "77\n", Manager::Dhcpcd),
        ] {
            let run = tempfile::tempdir().unwrap();
            let file = run.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
            assert_eq!(
                Manager::below(run.path(), "eth0", 2),
                expected,
                "{path}: {text}"
            );
        }
    }

    #[test]
    fn without_a_manager_what_is_known_is_set_by_hand() {
        let net = "10.0.0.4/20".parse().ok();
        let gateway = "10.0.0.1".parse().ok();
        assert_eq!(
            Manager::Nobody.again("eth0", net, gateway),
            "ip address replace 10.0.0.4/20 dev eth0; ip route replace default via 10.0.0.1 dev eth0 onlink"
        );
        assert!(
            Manager::Nobody
                .again("eth0", None, None)
                .contains("configure eth0")
        );
    }
}
