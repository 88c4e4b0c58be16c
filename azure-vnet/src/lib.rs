//! The network plugin. An ADD is one walk down: `main` → [`add`] → [`config`] → [`lease`] →
//! [`node`] → [`plan`] → [`apply`] → [`datapath`] → [`state`]; a DEL is [`del`], which goes the other way,
//! and [`teardown`] what takes everything back.

pub mod add;
pub mod apply;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod config;
mod conntrack;
pub mod datapath;
pub mod del;
pub mod error;
pub mod gc;
pub mod health;
pub mod install;
pub mod lease;
pub mod legacy;
pub mod live;
pub mod lock;
pub mod masquerade;
pub mod mending;
pub mod names;
pub mod netlink;
pub mod netns;
pub mod node;
pub mod plan;
pub mod pod_mac;
pub mod ports;
pub mod signature;
pub mod state;
pub mod status;
pub mod sysctl;
pub mod takeover;
pub mod teardown;
pub mod uplink;

/// Name of the plugin's log.
pub const LOG: &str = "azure-vnet.log";
