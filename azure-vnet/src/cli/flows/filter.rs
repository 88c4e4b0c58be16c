//! Which flows are wanted.

use std::net::Ipv4Addr;

use clap::Args;
use ipnet::Ipv4Net;

use super::super::{Failure, find_pod};
use super::{Flow, Protocol, State};

/// As given on the command line.
#[derive(Args)]
pub struct Filter {
    /// Of this pod: address, name, namespace/name, or beginning of the container ID.
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// To or from this address or CIDR.
    #[arg(long, value_name = "CIDR", value_parser = destination)]
    to: Option<Ipv4Net>,
    /// To or from this port of the other end.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Of this protocol.
    #[arg(long, value_name = "PROTOCOL")]
    proto: Option<Protocol>,
    /// In this state; without it all but those that are over.
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
}

/// With the pod's address.
pub struct Resolved<'a> {
    filter: &'a Filter,
    pod: Option<Ipv4Addr>,
}

impl Filter {
    /// Finds the pod. An address may be one that no pod has any more.
    pub fn resolve(&self) -> Result<Resolved<'_>, Failure> {
        let pod = match &self.pod {
            None => None,
            Some(text) => Some(match text.parse() {
                Ok(address) => address,
                Err(_) => find_pod::one(text)?.address,
            }),
        };
        Ok(Resolved { filter: self, pod })
    }
}

impl Resolved<'_> {
    /// Whether the flow is wanted.
    pub fn takes(&self, flow: &Flow) -> bool {
        let Filter {
            to,
            port,
            proto,
            state,
            ..
        } = self.filter;
        self.pod.is_none_or(|pod| pod == flow.pod)
            && to.is_none_or(|to| to.contains(&flow.remote))
            && port.is_none_or(|port| port == flow.remote_port)
            && proto.is_none_or(|proto| proto == flow.protocol)
            && state.map_or(flow.is_live(), |state| state == flow.state)
    }
}

/// A prefix; an address alone means itself.
fn destination(text: &str) -> Result<Ipv4Net, String> {
    let prefix = text.parse::<Ipv4Net>();
    prefix
        .or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from))
        .map_err(|_| "neither an IPv4 address nor a CIDR such as 203.0.113.0/24".to_owned())
}
