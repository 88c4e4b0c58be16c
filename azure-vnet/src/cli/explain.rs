//! `azure-vnet explain`: what becomes of the packets of a pod for a destination, and why.
//!
//! In the eBPF tier the programs themselves are asked ([`datapath::Rehearsal`]), in the netfilter tier the rules that
//! are in place.

mod capacity;
mod doubts;
pub mod packet;
mod reason;

use std::fmt;
use std::net::Ipv4Addr;

use azure_vnet_abi::{Be16, FlowKey, Mac, Reason, programs};
use azure_vnet_cni::foreign;
use clap::Args;
use serde::Serialize;

use super::flows::{self, Protocol};
use super::output::{self, Output};
use super::{Failure, Outcome, bridges, find_pod};
use crate::datapath::{self, Judged, Rehearsal, Tier, view};
use crate::netlink::{Netlink, address};
use crate::state::{self, Attachment};
use packet::Packet;

/// A packet.
#[derive(Args)]
pub struct Options {
    /// Its protocol.
    protocol: Protocol,
    /// The pod it is of: address, name, namespace/name, or beginning of the container ID.
    pod: String,
    /// Where it goes; without a port, 443 of TCP and 53 of UDP.
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = destination)]
    to: Destination,
    /// The pod's port, or the identifier of its ICMP echo.
    #[arg(long, value_name = "PORT", default_value_t = 40000)]
    from_port: u16,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
struct Destination {
    address: Ipv4Addr,
    port: Option<u16>,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Explanation {
    /// `tcp`, `udp` or `icmp`.
    protocol: Protocol,
    /// Address of the pod.
    pod: Ipv4Addr,
    /// What people call it.
    name: String,
    /// Where the packet goes.
    to: Ipv4Addr,
    /// To which port; 0 for ICMP.
    to_port: u16,
    /// The bridge of the pod.
    bridge: String,
    /// `ebpf` or `netfilter`.
    tier: &'static str,
    /// `masqueraded`, `unchanged`, `local` (stays on the node) or `dropped`.
    verdict: Verdict,
    /// What the remote sees the packet come from; none if it does not get there.
    seen_as: Option<Ipv4Addr>,
    /// Of the eBPF tier: the program that decided.
    program: Option<&'static str>,
    /// Of the eBPF tier: what it counts the packet under.
    reason: Option<&'static str>,
    /// The prefix of the policy, or in the netfilter tier the range, that decided; null if none holds the destination.
    rule: Option<String>,
    /// What decided, in words.
    because: String,
    /// Flows that the pod has with this destination now.
    flows: usize,
    /// What of others may make it otherwise, or could not be looked at; a sentence each.
    doubts: Vec<String>,
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Leaves with the node's address.
    Masqueraded,
    /// Leaves with the pod's address.
    Unchanged,
    /// Stays on the node.
    Local,
    /// Goes nowhere.
    Dropped,
}

/// Works the answer out and prints it; a problem if the packet is dropped.
pub async fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let pod = find_pod::one(&options.pod)?;
    let mut explanation = Explanation {
        protocol: options.protocol,
        pod: pod.address,
        name: bridges::label(&pod),
        to: options.to.address,
        to_port: options.to.port.unwrap_or(match options.protocol {
            Protocol::Tcp => 443,
            Protocol::Udp => 53,
            Protocol::Icmp => 0,
        }),
        bridge: pod.bridge.clone(),
        tier: "",
        verdict: Verdict::Local,
        seen_as: Some(pod.address),
        program: None,
        reason: None,
        rule: None,
        because: String::new(),
        flows: 0,
        doubts: Vec::new(),
    };
    let record = datapath::Record::read(&pod.bridge);
    let Some(tier) = record.map(|record| record.tier) else {
        return Err(Failure::new(format!(
            "{} has no datapath (azure-vnet status)",
            pod.bridge
        )));
    };
    explanation.tier = match tier {
        Tier::Ebpf(_) => "ebpf",
        Tier::Netfilter => "netfilter",
    };
    if let Some(because) = stays(&explanation).await? {
        explanation.because = because;
    } else {
        match tier {
            Tier::Ebpf(_) => {
                explanation.ask_programs(&pod, options.from_port).await?;
                explanation.look_for_room()?;
            }
            Tier::Netfilter => explanation.ask_rules()?,
        }
        if explanation.verdict != Verdict::Dropped {
            explanation.doubts = doubts::about(tier, explanation.pod, explanation.to);
        }
    }
    explanation.count_flows();
    output.show(&explanation)?;
    Ok(if explanation.verdict == Verdict::Dropped {
        Outcome::Problem
    } else {
        Outcome::Fine
    })
}

/// Why a packet does not come to the NIC at all.
async fn stays(asked: &Explanation) -> Result<Option<String>, Failure> {
    let to = asked.to;
    if let Some(other) = state::everything().iter().find(|pod| pod.address == to) {
        return Ok(Some(format!(
            "{} is a pod of this node, which delivers it",
            bridges::who(other)
        )));
    }
    let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
    let own = netlink
        .ipv4_addresses()
        .await
        .map_err(|error| Failure::of(&error))?;
    let is_own = own
        .iter()
        .filter_map(address::ipv4_net)
        .any(|net| net.addr() == to);
    Ok(is_own.then(|| format!("{to} is an address of this node itself")))
}

impl Explanation {
    /// The same programs, with the same settings, decide about a packet of our own.
    async fn ask_programs(&mut self, pod: &Attachment, from_port: u16) -> Result<(), Failure> {
        let failed = |error: datapath::EbpfError| Failure::of(&error);
        let packet = Packet {
            protocol: self.protocol,
            source: self.pod,
            source_port: from_port,
            destination: self.to,
            destination_port: self.to_port,
            macs: (pod.mac.0, Mac::FABRIC.0),
        };
        let flow = FlowKey::new(
            self.protocol.number(),
            self.pod.into(),
            Be16::from_host(from_port),
            self.to.into(),
            Be16::from_host(self.to_port),
        );
        let lacking = Rehearsal::lacking(&pod.bridge);
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            return Err(Failure::new(format!(
                "the programs cannot be asked: of their eBPF maps these are not pinned: {lacking}; azure-vnet gc, or the next ADD or DEL, makes them anew"
            )));
        }
        let rehearsal = Rehearsal::prepare(&pod.bridge, &flow).map_err(failed)?;
        let nic = view::uplink(&pod.bridge).map_err(failed)?;
        let nic = nic.unwrap_or_default().mac;
        let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
        let link = netlink
            .link(&pod.host_veth)
            .await
            .map_err(|error| Failure::of(&error))?;
        let Some(link) = link else {
            return Err(Failure::new(format!(
                "the pod's link {} is gone: azure-vnet gc",
                pod.host_veth
            )));
        };
        let mut frame = packet.frame();
        for (program, ifindex) in [
            (programs::FROM_POD, Some(link.index)),
            (programs::TO_UPLINK, None),
        ] {
            let performed = rehearsal.run(program, ifindex, &frame).map_err(failed)?;
            self.program = Some(program);
            self.reason = Some(performed.reason.name());
            reason::meaning(performed.reason).clone_into(&mut self.because);
            self.name_rule(performed.reason)?;
            if !performed.passes {
                (self.verdict, self.seen_as) = (Verdict::Dropped, None);
                return Ok(());
            }
            frame = performed.frame;
            packet::leave_by(&mut frame, nic.0);
            // A packet that the fast path sends on has been through `to_uplink`'s work already.
            if performed.reason == Reason::MasqueradedFast {
                break;
            }
        }
        let seen = packet::source_of(&frame, self.protocol).map(|(address, _)| address);
        self.seen_as = seen;
        self.verdict = if seen == Some(self.pod) {
            Verdict::Unchanged
        } else {
            Verdict::Masqueraded
        };
        Ok(())
    }

    /// The programs that were asked have tables of their own, which are empty; those in place may have no room for one more flow.
    fn look_for_room(&mut self) -> Result<(), Failure> {
        if self.reason != Some(Reason::FlowCreated.name()) {
            return Ok(());
        }
        let Some((reason, because)) = capacity::lacking(self)? else {
            return Ok(());
        };
        (self.verdict, self.seen_as) = (Verdict::Dropped, None);
        self.reason = Some(reason.name());
        self.because = because;
        Ok(())
    }

    /// A packet that was dropped for what it is met no rule.
    fn name_rule(&mut self, reason: Reason) -> Result<(), Failure> {
        if matches!(
            reason,
            Reason::InRange | Reason::Exempt | Reason::PolicyDrop | Reason::FlowCreated
        ) {
            let rule = view::ruling(&self.bridge, self.to).map_err(|error| Failure::of(&error))?;
            self.rule = rule.map(|prefix| prefix.to_string());
        }
        let builds = view::pinned_builds(&self.bridge);
        if !builds.iter().any(|build| build == view::build()) {
            self.because.push_str(
                " (said by the programs of this binary; those in place are of another build until the next ADD)",
            );
        }
        Ok(())
    }

    /// The rules in the order in which they see the packet.
    fn ask_rules(&mut self) -> Result<(), Failure> {
        let judged = datapath::judge(&self.bridge, self.to).map_err(|error| Failure::of(&error))?;
        (self.verdict, self.seen_as, self.rule, self.because) = match judged {
            Judged::Drop(range) => (
                Verdict::Dropped,
                None,
                Some(range),
                reason::meaning(Reason::PolicyDrop).to_owned(),
            ),
            Judged::Keep(range) => (
                Verdict::Unchanged,
                Some(self.pod),
                Some(range),
                "the destination is in the ranges, or exempt".to_owned(),
            ),
            Judged::ByPort(range, command) => {
                return Err(Failure::new(format!(
                    "rules by protocol and port decide about {range}: `{command}`"
                )));
            }
            Judged::Masquerade(node) => (
                Verdict::Masqueraded,
                node,
                None,
                "outside the ranges, and no rule exempts it".to_owned(),
            ),
        };
        Ok(())
    }

    fn count_flows(&mut self) {
        let flows = flows::of_bridge(&self.bridge).unwrap_or_default();
        let this = flows.iter().filter(|flow| {
            (flow.pod, flow.protocol, flow.remote, flow.remote_port)
                == (self.pod, self.protocol, self.to, self.to_port)
                && flow.is_live()
        });
        self.flows = this.count();
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            pod,
            to,
            to_port,
            tier,
            ..
        } = self;
        let to_end = match self.protocol {
            Protocol::Icmp => to.to_string(),
            _ => format!("{to}:{to_port}"),
        };
        writeln!(
            out,
            "{} {} ({pod}) -> {to_end}, {tier} tier",
            self.protocol.name(),
            foreign::line(name)
        )?;
        let seen = self
            .seen_as
            .map_or_else(|| "nothing".to_owned(), |address| address.to_string());
        match self.verdict {
            Verdict::Masqueraded => writeln!(out, "  MASQUERADED: {to} sees {seen}, the node")?,
            Verdict::Unchanged => writeln!(out, "  NOT MASQUERADED: {to} sees {seen}, the pod")?,
            Verdict::Local => writeln!(out, "  STAYS ON THE NODE: {to} sees {seen}, the pod")?,
            Verdict::Dropped => writeln!(out, "  DROPPED: {to} sees nothing")?,
        }
        let by = match (self.program, self.reason) {
            (Some(program), Some(reason)) => format!("{program} says {reason}: "),
            _ => String::new(),
        };
        writeln!(
            out,
            "{}",
            output::wrapped(&format!("{by}{}", self.because), 2)
        )?;
        if let Some(rule) = &self.rule {
            writeln!(out, "  Decided by the rule for {rule}")?;
        }
        for doubt in &self.doubts {
            writeln!(out, "{}", output::wrapped(&format!("But: {doubt}"), 2))?;
        }
        if self.verdict != Verdict::Local {
            writeln!(
                out,
                "{}",
                output::wrapped(
                    &format!("Flows of the pod with this destination now: {}", self.flows),
                    2
                )
            )?;
            writeln!(
                out,
                "{}",
                output::wrapped(
                    "If it is a Service, kube-proxy changes the destination before this is decided: \
                     ask again with the address behind it.",
                    2
                )
            )?;
        }
        Ok(())
    }
}

fn destination(text: &str) -> Result<Destination, String> {
    let (address, port) = match text.split_once(':') {
        None => (text, None),
        Some((address, port)) => {
            let port = port
                .parse()
                .map_err(|_| format!("{port:?} is not a port"))?;
            (address, Some(port))
        }
    };
    let address = address
        .parse()
        .map_err(|_| format!("{address:?} is not an IPv4 address"))?;
    Ok(Destination { address, port })
}
