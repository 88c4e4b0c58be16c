//! The network managers, as Azure's images are set up with them, and what each is told to do.

use crate::root::System;

const BOOKWORM: System = System {
    suite: "bookworm",
    managers: "netplan.io,network-manager,ifupdown,isc-dhcp-client",
};
const TRIXIE: System = System {
    suite: "trixie",
    managers: "netplan.io",
};

/// A way to configure the NIC.
#[derive(Debug)]
pub struct Manager {
    pub name: &'static str,
    pub system: System,
    /// What of the system must not run beside it.
    pub masked: &'static [&'static str],
    /// What would not be started otherwise.
    pub enabled: &'static [&'static str],
    pub files: &'static [(&'static str, &'static str)],
    pub steps: &'static [Step],
    /// What makes it ask for a lease as if it had none. A server's refusal of one that is renewed is not heard.
    pub ask_anew: Command,
}

/// Something that happens to a node, and that it has to stand.
#[derive(Debug)]
pub struct Step {
    pub name: &'static str,
    pub commands: &'static [Command],
}

/// A program and its arguments.
pub type Command = &'static [&'static str];

const fn step(name: &'static str, commands: &'static [Command]) -> Step {
    Step { name, commands }
}

impl Manager {
    /// Whether names are asked of systemd-resolved.
    pub fn has_resolved(&self) -> bool {
        !self.masked.contains(&RESOLVED)
    }
}

const RESOLVED: &str = "systemd-resolved.service";
const NETWORKD_UNITS: [&str; 2] = ["systemd-networkd.service", "systemd-networkd.socket"];

const RESTART_RESOLVED: Step = step(
    "restart of resolved",
    &[&["systemctl", "restart", RESOLVED]],
);
const DOWN_AND_UP: Step = step(
    "NIC down and up",
    &[
        &["ip", "link", "set", "eth0", "down"],
        &["sleep", "0.5"],
        &["ip", "link", "set", "eth0", "up"],
    ],
);
const UDEV: Step = step(
    "udev trigger",
    &[
        &["udevadm", "trigger", "--action=add", "/sys/class/net/eth0"],
        &["udevadm", "settle"],
    ],
);
const RESTART_NETWORKD: Step = step("restart", &[&["systemctl", "restart", NETWORKD_UNITS[0]]]);
const RECONFIGURE: Step = step("reconfigure", &[NETWORKD_RECONFIGURE]);
const NETWORKD_RECONFIGURE: Command = &["networkctl", "reconfigure", "eth0"];
const RENEW: Step = step("renew", &[&["networkctl", "renew", "eth0"]]);
const RELOAD: Step = step("reload", &[&["networkctl", "reload"]]);
/// As operators write who have one link.
const EVERY_LINK: Step = step(
    "a file for every link",
    &[
        &[
            "sh",
            "-c",
            r"printf '[Match]\nName=*\n[Network]\nDHCP=ipv4\n' > /etc/systemd/network/90-every.network",
        ],
        &["systemctl", "restart", NETWORKD_UNITS[0]],
        &["sleep", "1"],
        &["rm", "/etc/systemd/network/90-every.network"],
        &["networkctl", "reload"],
    ],
);

pub const NETPLAN: Manager = Manager {
    name: "netplan",
    system: BOOKWORM,
    masked: &["NetworkManager.service", "networking.service"],
    enabled: &[],
    files: &[(
        "/etc/netplan/50-cloud-init.yaml",
        "network:
  version: 2
  ethernets:
    eth0:
      dhcp4: true
      dhcp4-overrides: {route-metric: 100}
      dhcp6: false
      match: {name: eth0, driver: veth}
      set-name: eth0
",
    )],
    steps: &[
        RESTART_NETWORKD,
        step("apply", &[&["netplan", "apply"]]),
        RECONFIGURE,
        RENEW,
        RELOAD,
        RESTART_RESOLVED,
        DOWN_AND_UP,
        UDEV,
        EVERY_LINK,
    ],
    ask_anew: NETWORKD_RECONFIGURE,
};

pub const NETWORKD: Manager = Manager {
    name: "networkd",
    system: TRIXIE,
    masked: &[],
    enabled: &[NETWORKD_UNITS[0]],
    files: &[(
        "/etc/systemd/network/50-eth0.network",
        "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n",
    )],
    steps: &[
        RESTART_NETWORKD,
        RECONFIGURE,
        RENEW,
        RELOAD,
        RESTART_RESOLVED,
        DOWN_AND_UP,
        UDEV,
        EVERY_LINK,
    ],
    ask_anew: NETWORKD_RECONFIGURE,
};

pub const NETWORK_MANAGER: Manager = Manager {
    name: "NetworkManager",
    system: BOOKWORM,
    masked: &[
        NETWORKD_UNITS[0],
        NETWORKD_UNITS[1],
        RESOLVED,
        "networking.service",
    ],
    enabled: &[],
    files: &[
        (
            "/etc/NetworkManager/system-connections/eth0.nmconnection",
            "[connection]
id=eth0
type=ethernet
interface-name=eth0
[ipv4]
method=auto
[ipv6]
method=link-local
addr-gen-mode=eui64
",
        ),
        (
            "/etc/NetworkManager/conf.d/10-images.conf",
            "[main]\nno-auto-default=*\ndns=default\nrc-manager=file\n",
        ),
        // A veth would be left alone.
        (
            "/etc/udev/rules.d/90-veth-is-a-nic.rules",
            "SUBSYSTEM==\"net\", KERNEL==\"eth0\", ENV{NM_UNMANAGED}=\"0\"\n",
        ),
    ],
    steps: &[
        step(
            "restart",
            &[&["systemctl", "restart", "NetworkManager.service"]],
        ),
        step("reapply", &[&["nmcli", "device", "reapply", "eth0"]]),
        step("con up", &[NMCLI_UP]),
        step(
            "reload",
            &[
                &["nmcli", "general", "reload"],
                &["nmcli", "connection", "reload"],
            ],
        ),
        DOWN_AND_UP,
        UDEV,
    ],
    ask_anew: NMCLI_UP,
};
const NMCLI_UP: Command = &["nmcli", "--wait", "20", "connection", "up", "eth0"];

/// A NIC that is taken down by hand under it loses its routes for good, with or without us.
pub const IFUPDOWN: Manager = Manager {
    name: "ifupdown",
    system: BOOKWORM,
    masked: &[
        NETWORKD_UNITS[0],
        NETWORKD_UNITS[1],
        RESOLVED,
        "NetworkManager.service",
    ],
    enabled: &[],
    files: &[(
        "/etc/network/interfaces",
        "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n",
    )],
    steps: &[
        step(
            "restart",
            &[&["systemctl", "restart", "networking.service"]],
        ),
        step("ifdown, ifup", &[IFDOWN_IFUP]),
        UDEV,
    ],
    ask_anew: IFDOWN_IFUP,
};
const IFDOWN_IFUP: Command = &["sh", "-c", "ifdown eth0 && ifup eth0"];
